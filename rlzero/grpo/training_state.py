"""All that a run's future depends on, as files: a run that reads them goes on bit for bit.

    model.safetensors       every parameter and buffer of the policy by name, whole
    optimizer.safetensors   `<parameter>/<key>`: the optimizer's state of each parameter that has one, whole
    reference.safetensors   parameters and buffers of the reference policy, where there is one
    training.pt             the optimizer's settings, the schedule, and `GRPOTrainer.state_dict()`
    random-0.pt …           the random states of each process

Nothing in them knows how many processes wrote them, or how these held the parameters (one, DDP, FSDP2): any other
layout reads them. A process that had no counterpart keeps the random state it was seeded with. Nothing is a pickle of
code: tensors are safetensors, the rest is plain data for `torch.load(weights_only=True)`.

The trainer's own state is numbers, text, None, tensors and arrays, in dictionaries and lists. It is asked for in every
process and the main one's is written; arrays come back as tensors.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlzero.grpo.concern import ConfigError
from rlzero.grpo.reference import Reference
from rlzero.grpo.sharding import live_tensors, sharded_like
from rlzero.models.sharded import whole

if TYPE_CHECKING:
    from rlzero.grpo.trainer import GRPOTrainer

_MODEL, _OPTIMIZER, _REFERENCE = "model.safetensors", "optimizer.safetensors", "reference.safetensors"
_TRAINING = "training.pt"


def write_state(trainer: GRPOTrainer, folder: Path) -> None:
    """Every process must call it. Only the main one writes."""
    accelerator, updater = trainer.accelerator, trainer.updater
    writes = accelerator.is_main_process
    _write(live_tensors(accelerator.unwrap_model(updater.model)), folder / _MODEL, writes)
    _write(_optimizer_tensors(trainer), folder / _OPTIMIZER, writes)
    if isinstance(updater.reference, Reference):
        _write(updater.reference.state_dict().items(), folder / _REFERENCE, writes)
    shared = {
        "param_groups": _group_settings(updater.optimizer.param_groups),
        "scheduler": updater.scheduler.state_dict(),
        "trainer": trainer.state_dict(),
    }
    states = gather_object([_random_states()])
    if writes:
        torch.save(_plain(shared), folder / _TRAINING)
        for process, own in enumerate(states):
            torch.save(_plain(own), folder / _random_file(process))


@torch.no_grad()
def read_state(trainer: GRPOTrainer, folder: Path) -> None:
    """Every process must call it. ConfigError where the model or its reference is another one."""
    accelerator, updater = trainer.accelerator, trainer.updater
    live = dict(live_tensors(accelerator.unwrap_model(updater.model)))
    for name, saved in _read(folder / _MODEL, live.keys()):
        live[name].copy_(sharded_like(live[name], saved))
    _read_optimizer(trainer, folder / _OPTIMIZER)
    if isinstance(updater.reference, Reference):
        updater.reference.load_state_dict(dict(_read(folder / _REFERENCE, live.keys())))
    shared = torch.load(folder / _TRAINING, weights_only=True)
    for group, settings in zip(updater.optimizer.param_groups, shared["param_groups"], strict=True):
        group.update(settings)
    updater.scheduler.load_state_dict(shared["scheduler"])
    trainer.load_state_dict(shared["trainer"])
    own = folder / _random_file(accelerator.process_index)
    if own.is_file():
        _set_random_states(torch.load(own, weights_only=True))


def _write(tensors: Iterable[tuple[str, Tensor]], path: Path, writes: bool) -> None:
    """Gather one after the other, in every process; only the one that writes keeps them."""
    kept = {}
    for name, tensor in tensors:
        gathered = whole(tensor.detach())
        if writes:
            kept[name] = gathered.cpu().contiguous()
    if writes:
        save_file(kept, path)


def _read(path: Path, wanted: Iterable[str]) -> Iterable[tuple[str, Tensor]]:
    with safe_open(path, "pt") as file:
        if odd := sorted(set(wanted) ^ set(file.keys())):
            raise ConfigError(
                f"a checkpoint must have the tensors of the model that is trained, and {len(odd)} of {path.name} "
                f"differ ({', '.join(odd[:3])}, …): give model_name_or_path the model that the run began with."
            )
        for name in file.keys():  # noqa: SIM118 (no mapping)
            yield name, file.get_tensor(name)


def _optimizer_tensors(trainer: GRPOTrainer) -> Iterable[tuple[str, Tensor]]:
    optimizer = trainer.updater.optimizer
    for name, parameter in live_tensors(trainer.accelerator.unwrap_model(trainer.updater.model)):
        # Indexing would make an entry: a parameter that never had a gradient has none.
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{name}/{key}", value


def _read_optimizer(trainer: GRPOTrainer, path: Path) -> None:
    optimizer = trainer.updater.optimizer
    live = dict(live_tensors(trainer.accelerator.unwrap_model(trainer.updater.model)))
    optimizer.state.clear()
    with safe_open(path, "pt") as file:
        for entry in file.keys():  # noqa: SIM118 (no mapping)
            name, key = entry.rsplit("/", 1)
            parameter, saved = live[name], file.get_tensor(entry)
            if saved.shape == parameter.shape and key != "step":
                placed = sharded_like(parameter, saved)
                # In the memory format in which the optimizer would have made it.
                saved = torch.empty_like(parameter, dtype=saved.dtype).copy_(placed)
            optimizer.state[parameter][key] = saved


def _group_settings(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key != "params"} for group in groups]


def _random_file(process: int) -> str:
    return f"random-{process}.pt"


def _random_states() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy(), *rest))
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def _plain(value: Any) -> Any:
    """The same with arrays as tensors and numpy's numbers as Python's, which `weights_only` admits."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value

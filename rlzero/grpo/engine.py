"""The engine of a run: on which device, in which process, and with what."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlzero.grpo.concern import ConfigError
from rlzero.grpo.config import Recipe
from rlzero.rollout.make import make_engine
from rlzero.rollout.remote import RemoteEngine
from rlzero.rollout.types import Engine


def engine_device(recipe: Recipe, engine: str, accelerator: Accelerator) -> torch.device | None:
    """Of the engine of this process, None where it lives in this process and on its device.

    engine: as `resolve_engine` returns it. ConfigError for a device that does not exist or that a trainer has, and for
    a vLLM on the CPU beside a trainer on a GPU.
    """
    wanted, own = recipe.rollout.rollout_device, accelerator.device
    if wanted is None:
        return None
    if wanted == "cpu":
        if own.type != "cpu" and engine == "vllm":
            raise ConfigError(
                f"rollout_device='cpu' beside a trainer on {own} is for the built-in engine, and the engine is vllm, "
                "which is installed for GPUs: set rollout=builtin, or rollout_device=cuda:N."
            )
        return torch.device("cpu")
    number, rank, there = int(wanted.removeprefix("cuda:")), accelerator.local_process_index, torch.cuda.device_count()
    # Of this run on this machine, as a launcher says it.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    if number + processes > there:
        last = f" to cuda:{number + processes - 1}, one for each process," if processes > 1 else ""
        raise ConfigError(
            f"rollout_device={wanted!r} asks for cuda:{number}{last} and this machine has {there} GPUs, of which the "
            "first is cuda:0: name one that exists, or leave rollout_device out."
        )
    first = (own.index or 0) - rank
    if own.type == "cuda" and number < first + processes and first < number + processes:
        raise ConfigError(
            f"rollout_device={wanted!r} is for an engine with a GPU of its own, and the trainer has "
            f"{f'cuda:{first} to cuda:{first + processes - 1}' if processes > 1 else own}: set "
            f"rollout_device=cuda:{first + processes}, or leave it out."
        )
    return torch.device("cuda", number + rank)


def start_engine(
    recipe: Recipe,
    accelerator: Accelerator,
    device: torch.device | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_model_len: int,
    bf16: bool,
) -> Engine:
    """The engine, and the model on the trainer's device, unless it is to be sharded: then it moves there in parts.

    device: as `engine_device` gives it.
    """
    rollout, sharded = recipe.rollout, accelerator.is_fsdp2
    options: dict[str, Any] = {
        "model_path": recipe.model.model_name_or_path,
        "max_model_len": max_model_len,
        "max_num_seqs": rollout.max_num_seqs,
        "dtype": torch.bfloat16 if bf16 else model.dtype,
        "seed": recipe.run.seed,
        "gpu_memory_utilization": rollout.vllm_gpu_memory_utilization,
        "revision": recipe.model.model_revision,
        "trust_remote_code": recipe.model.trust_remote_code,
        "record_routing": recipe.grpo.router_replay,
        "sleep_mode": rollout.vllm_enable_sleep_mode,
    }
    remote = None
    if device is not None:
        remote = RemoteEngine(rollout.rollout, device, model=model, tokenizer=tokenizer, **options)
    if not sharded:
        model.to(accelerator.device)
    if remote is not None:
        return remote
    own_copy_on = accelerator.device if sharded or recipe.grpo.max_async_level else None
    return make_engine(rollout.rollout, model=model, tokenizer=tokenizer, own_copy_on=own_copy_on, **options)

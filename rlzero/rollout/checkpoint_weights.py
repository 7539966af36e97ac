"""A model's weights under the names and shapes that its checkpoint has, without going over the disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.core_model_loading import revert_weight_conversion

from rlzero.models.adapter import adapted_layers, is_adapter
from rlzero.models.sharded import whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _View:
    """Where a checkpoint tensor lies within the tensor that holds it in memory."""

    name: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class _Probe(torch.Tensor):
    """A meta tensor that stays a view of its source where a conversion asks for a contiguous copy."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.contiguous:
            return args[0]
        return super().__torch_function__(func, types, args, kwargs or {})


class CheckpointWeights:
    """Iterates over (checkpoint name, tensor), as often as wanted, always with the model's present weights.

    transformers 5 holds a layer's experts fused in one parameter (`experts.gate_up_proj`), while checkpoints,
    and with them vLLM's loaders, know one matrix an expert. transformers' own reverse conversion (that of
    `save_pretrained`) is run once, on meta tensors, and remembered as views into the parameters: afterwards
    an iteration copies nothing. Where a conversion is more than views (a concatenation), it runs each time.

    Sharded parameters (FSDP2's DTensor) are gathered one at a time; that is a collective, so every process
    iterates. Tied weights come once, and weights with low-rank adapters as one. model: the unwrapped model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._adapted = adapted_layers(model)
        self._plan = _plan_views(model)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        tensors = _tensors(self._model)
        if self._plan is None:
            full = {name: whole(self._present(name, tensor)) for name, tensor in tensors.items()}
            yield from revert_weight_conversion(self._model, full).items()
            return
        for source, views in self._plan.items():
            tensor = whole(self._present(source, tensors[source])).contiguous()
            for view in views:
                yield (
                    view.name,
                    tensor.as_strided(view.size, view.stride, tensor.storage_offset() + view.offset),
                )

    def _present(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """With what an adapter adds to it."""
        return self._adapted[name].merged() if name in self._adapted else tensor


def _tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters (a tied one once) beside adapters, and saved buffers, by name, detached."""
    saved = model.state_dict()
    parameters = {name: p.detach() for name, p in model.named_parameters() if not is_adapter(name)}
    return parameters | {name: buffer for name, buffer in model.named_buffers() if name in saved}


def _plan_views(model: PreTrainedModel) -> dict[str, list[_View]] | None:
    """The checkpoint's tensors as views, by the name of the tensor in memory; None if some are not views."""
    probes = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta").as_subclass(_Probe)
        for name, tensor in _tensors(model).items()
    }
    source_of = {probe.untyped_storage()._cdata: name for name, probe in probes.items()}
    plan: dict[str, list[_View]] = defaultdict(list)
    for name, result in revert_weight_conversion(model, probes).items():
        source = source_of.get(result.untyped_storage()._cdata)
        if source is None:
            return None
        plan[source].append(_View(name, tuple(result.shape), result.stride(), result.storage_offset()))
    return dict(plan)

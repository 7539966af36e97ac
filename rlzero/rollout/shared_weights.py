"""A model's weights in memory that two processes share, and the rest of the model as bytes."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlzero.models.sharded import named_tensors, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Bytes between the beginnings of two tensors are a multiple of this, as in torch's own allocator.
_ALIGNMENT = 64


@dataclass(frozen=True)
class _Place:
    """Where in the block a tensor lies: its first byte; its own shape and dtype."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize


class SharedWeights:
    """Parameters (adapters too) and buffers of a model, under its own names, in one block of shared CPU memory.

    It goes to a child process as an argument; both then see the same numbers. One block, since every block that is
    shared is an open file. ValueError where the machine does not have so much shared memory.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[str, _Place] = {}
        size = 0
        for name, tensor in named_tensors(model):
            place = _Place(size, tuple(tensor.shape), tensor.dtype)
            self._places[name] = place
            size = -(-place.end // _ALIGNMENT) * _ALIGNMENT
        block = torch.empty(size, dtype=torch.uint8)
        try:
            self._block = block.share_memory_()
        except RuntimeError as error:
            raise ValueError(
                f"the weights of an engine in a process of its own take {size / 2**20:.0f} MiB of shared memory, and "
                f"there is less ({error}). Enlarge /dev/shm (docker run --shm-size), or leave rollout_device out."
            ) from error
        self.fill(model)

    @torch.no_grad()
    def fill(self, model: nn.Module) -> None:
        """Copy the weights of a model of the same kind in. All processes call it for a sharded one (FSDP2)."""
        for name, tensor in named_tensors(model):
            self._view(name).copy_(whole(tensor.detach()))

    def without_weights(self, model: PreTrainedModel) -> bytes:
        """All of the model but its parameters and buffers, for `around`."""
        written = io.BytesIO()
        _Pickler(written, model).dump(model)
        return written.getvalue()

    def around(self, rest: bytes) -> PreTrainedModel:
        """The model that computes with the numbers of this block, whatever they become."""
        return _Unpickler(io.BytesIO(rest), self._view).load()

    def _view(self, name: str) -> Tensor:
        place = self._places[name]
        return self._block[place.start : place.end].view(place.dtype).view(place.shape)


class _Pickler(pickle.Pickler):
    """Writes the name of a tensor in the place of the tensor; of a parameter also whether it has a gradient, since
    without one some kernels round differently."""

    def __init__(self, file: io.BytesIO, model: nn.Module) -> None:
        super().__init__(file)
        self._names = {
            id(tensor): (name, tensor.requires_grad if isinstance(tensor, nn.Parameter) else None)
            for name, tensor in named_tensors(model)
        }

    def persistent_id(self, obj: Any) -> tuple[str, bool | None] | None:
        return self._names.get(id(obj)) if isinstance(obj, Tensor) else None


class _Unpickler(pickle.Unpickler):
    """Puts the tensor of a name back. One name, one object: tied weights stay tied."""

    def __init__(self, file: io.BytesIO, view: Callable[[str], Tensor]) -> None:
        super().__init__(file)
        self._view = view
        self._found: dict[str, Tensor] = {}

    def persistent_load(self, pid: tuple[str, bool | None]) -> Tensor:
        name, learns = pid
        if name not in self._found:
            view = self._view(name)
            self._found[name] = view if learns is None else nn.Parameter(view, requires_grad=learns)
        return self._found[name]

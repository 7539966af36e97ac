"""Weights that several processes hold in parts (FSDP2): all of them in one place."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds parts of the parameters only."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of it where this process holds a part: then every process must call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Parameters and buffers of `source`, sharded or not, into `target`, a whole model of the same kind.

    One tensor is gathered at a time. Where `source` is sharded, every process must call it.
    """
    own = dict(named_tensors(target))
    for name, tensor in named_tensors(source):
        own[name].copy_(whole(tensor.detach()))


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, each once: all that a forward pass reads."""
    yield from model.named_parameters()
    yield from model.named_buffers()

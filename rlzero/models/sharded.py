"""Weights that several processes hold in parts (FSDP2): all of them in one place."""

from __future__ import annotations

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
    own = {**dict(target.named_parameters()), **dict(target.named_buffers())}
    for name, tensor in (*source.named_parameters(), *source.named_buffers()):
        own[name].copy_(whole(tensor.detach()))

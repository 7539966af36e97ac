"""A model's tensors by name as its processes hold them. `rlzero.models.sharded` has them whole."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from rlzero.models.sharded import named_tensors


def live_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers as they are now, each once. model: as accelerate prepared it, unwrapped.

    FSDP leaves the outermost parameters gathered after a forward pass, and would go on with them: it is told to let
    go, so that a sharded model's parameters are those that its optimizer moves.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    yield from named_tensors(model)


def sharded_like(kept: Tensor, tensor: Tensor) -> Tensor:
    """The whole tensor on the device of `kept`, cut as that is."""
    tensor = tensor.to(kept.device)
    if not hasattr(kept, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, kept.device_mesh, kept.placements)

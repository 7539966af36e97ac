"""The reference policy: the one that the run began with, or the policy of some steps ago."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from rlzero.grpo.concern import ConfigError
from rlzero.models.load import load_model

if TYPE_CHECKING:
    from rlzero.grpo.config import Recipe

# How the parameters may lie for a copy of them to be one of the model: whole, or cut by FSDP2.
_KNOWN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def make_reference(accelerator: Accelerator, model: nn.Module, recipe: Recipe) -> Reference:
    """model: as accelerate prepared it. Raises ConfigError where its parameters are held in a way that is not known,
    and for a reference of another architecture."""
    kind = accelerator.distributed_type
    if kind not in _KNOWN or (kind is DistributedType.FSDP and not accelerator.is_fsdp2):
        raise ConfigError(
            f"beta above 0 keeps a copy of the policy as reference, which is possible for one process, DDP and FSDP2, "
            f"and this run is {kind.value}: set beta=0, or launch with fsdp_version: 2 (recipes/accelerate)."
        )
    reference, path = Reference(accelerator.unwrap_model(model)), recipe.reference.ref_model_name_or_path
    if path is not None:
        other = load_model(path, recipe.model.dtype, trust_remote_code=recipe.model.trust_remote_code)
        try:
            reference.load_state_dict({**dict(other.named_parameters()), **dict(other.named_buffers())})
        except ValueError as error:
            raise ConfigError(f"ref_model_name_or_path={path!r} cannot be the reference: {error}") from None
    return reference


class Reference:
    """A frozen copy of a model's parameters and buffers on the same device, sharded as they are.

    It has no module of its own: `in_place` puts its tensors into the model for a while. So whatever the model does
    (replayed routing, packed rows, sharded layers) holds for both, and no second forward pass has to be kept alike.
    """

    def __init__(self, model: nn.Module) -> None:
        """model: as accelerate prepared it, unwrapped."""
        self._model = model
        self._kept = {name: tensor.detach().clone() for name, tensor in self._live()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model computes what the reference computes. No gradient may be taken across the border."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def mix(self, alpha: float) -> None:
        """π_ref ← α π + (1 − α) π_ref, weight by weight: TR-DPO (2404.09656), as TRL; 1 replaces the reference."""
        for name, live in self._live():
            kept = self._kept[name]
            if alpha == 1 or not kept.is_floating_point():
                kept.copy_(live)
            else:
                kept.mul_(1 - alpha).add_(live, alpha=alpha)

    def state_dict(self) -> dict[str, Tensor]:
        """Whole tensors on the CPU, however the model is sharded. Every process must call it."""
        return {name: _whole(tensor).cpu() for name, tensor in self._kept.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        shapes, wanted = ({name: tuple(t.shape) for name, t in found.items()} for found in (state, self._kept))
        odd = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
        if odd:
            raise ValueError(
                f"a reference must have the tensors of the model that is trained, and {len(odd)} differ "
                f"({', '.join(odd[:3])}, …): use the same architecture."
            )
        for name, kept in self._kept.items():
            kept.copy_(_sharded_like(kept, state[name].to(kept.device)))

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, live in self._live():
            kept = self._kept[name]
            held = live.detach().clone()
            live.copy_(kept)
            kept.copy_(held)

    def _live(self) -> Iterator[tuple[str, Tensor]]:
        """The model's tensors now, each once. FSDP leaves the outermost parameters gathered after a forward pass, and
        would go on with them: it is told to let go."""
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        yield from self._model.named_parameters()
        yield from self._model.named_buffers()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _sharded_like(kept: Tensor, whole: Tensor) -> Tensor:
    """The whole tensor cut as `kept` is."""
    if not hasattr(kept, "full_tensor"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, kept.device_mesh, kept.placements)

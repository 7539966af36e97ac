"""The reference policy: the one that the run began with, or the policy of some steps ago."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlzero.grpo.concern import ConfigError
from rlzero.grpo.processes import share_buffers
from rlzero.grpo.sharding import live_tensors, sharded_like
from rlzero.models.adapter import without_adapters
from rlzero.models.load import load_model
from rlzero.models.sharded import named_tensors, whole

if TYPE_CHECKING:
    from rlzero.grpo.config import Recipe


def make_reference(accelerator: Accelerator, model: nn.Module, recipe: Recipe) -> Reference | AdapterReference:
    """model: as accelerate prepared it. Raises ConfigError for a reference of another architecture."""
    if recipe.model.lora_r is not None:
        return AdapterReference(accelerator.unwrap_model(model))
    reference, path = Reference(accelerator.unwrap_model(model)), recipe.reference.ref_model_name_or_path
    if path is not None:
        other = load_model(path, recipe.model.dtype, trust_remote_code=recipe.model.trust_remote_code)
        share_buffers(accelerator, other)
        try:
            reference.load_state_dict(dict(named_tensors(other)))
        except ValueError as error:
            raise ConfigError(f"ref_model_name_or_path={path!r} cannot be the reference: {error}") from None
    return reference


class AdapterReference:
    """The model without its low-rank adapters: the one that the run began with, and no copy of it."""

    def __init__(self, model: nn.Module) -> None:
        """model: unwrapped, with adapters."""
        self._model = model

    def in_place(self) -> AbstractContextManager[None]:
        """The model computes what the reference computes."""
        return without_adapters(self._model)


class Reference:
    """A frozen copy of a model's parameters and buffers on the same device, sharded as they are.

    It has no module of its own: `in_place` puts its tensors into the model for a while. So whatever the model does
    (replayed routing, packed rows, sharded layers) holds for both, and no second forward pass has to be kept alike.
    """

    def __init__(self, model: nn.Module) -> None:
        """model: as accelerate prepared it, unwrapped."""
        self._model = model
        self._kept = {name: tensor.detach().clone() for name, tensor in live_tensors(self._model)}

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
        for name, live in live_tensors(self._model):
            kept = self._kept[name]
            if alpha == 1 or not kept.is_floating_point():
                kept.copy_(live)
            else:
                kept.mul_(1 - alpha).add_(live, alpha=alpha)

    def state_dict(self) -> dict[str, Tensor]:
        """Whole tensors on the CPU, however the model is sharded. Every process must call it."""
        return {name: whole(tensor).cpu() for name, tensor in self._kept.items()}

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
            kept.copy_(sharded_like(kept, state[name]))

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, live in live_tensors(self._model):
            kept = self._kept[name]
            held = live.detach().clone()
            live.copy_(kept)
            kept.copy_(held)

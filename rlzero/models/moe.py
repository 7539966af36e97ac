"""A layer of experts: router, routed experts, shared experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from rlzero.models.capacity import drop
from rlzero.models.experts import make_experts, make_mlp
from rlzero.models.router import Routing, make_router

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig


class MoELayer(nn.Module):
    """h = Σ_i shared_i(u) + Σ_i g_i E_i(u) without the residual: DeepSeekMoE (2401.06066), eq. 9.

    exact: nothing in the routing of a token is left to chance or to other tokens, in training mode too.
    recording: keep the routing of the newest forward pass in `last`. The decoder records in its own forward pass alone,
    not where gradient checkpointing runs a layer again: what is kept from there would keep activations in memory.
    load_E: int64[E], assignments counted since the bias was last moved (balance.count_load); None before the first.
    It is no buffer, since DDP would overwrite it with the main process's.
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = make_router(config)
        self.experts = make_experts(config)
        if config.n_shared_experts > 0:
            # Experts that always run side by side are one network of their summed width.
            self.shared_experts = make_mlp(config, config.moe_intermediate_size * config.n_shared_experts)
        self.exact = False
        self.recording = True
        self.last: Routing | None = None
        self.load_E: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., D], in the dtype of `hidden`."""
        hidden_TD = hidden.reshape(-1, hidden.shape[-1])
        routing = self.gate(hidden_TD)
        factor = self.capacity_factor
        if factor is not None:
            routing = drop(routing, self.config, factor)
        if self.recording:
            self.last = routing
        mixed = self.experts(hidden_TD, routing.indices, routing.weights).view_as(hidden)
        return mixed + self.shared_experts(hidden) if self.config.n_shared_experts > 0 else mixed

    @property
    def capacity_factor(self) -> float | None:
        """The capacity that holds now, in multiples of an even share; None: nothing is dropped."""
        if self.exact or self.config.drop_policy is None:
            return None
        return self.config.capacity_factor_train if self.training else self.config.capacity_factor_eval


def moe_layers(model: nn.Module) -> list[MoELayer]:
    """The layers of experts in the model, in order."""
    return [module for module in model.modules() if isinstance(module, MoELayer)]


def set_exact_routing(model: nn.Module, exact: bool) -> None:
    """Whether training mode, too, routes each token by itself: no noise, jitter, chance or dropping, as in an engine.

    RL trains so: otherwise the trainer's log-probabilities are not those of the policy that was sampled from.
    """
    for layer in moe_layers(model):
        layer.exact = layer.gate.exact = exact

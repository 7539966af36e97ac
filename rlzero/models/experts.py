"""Feed-forward networks: one for all tokens (`make_mlp`), or E experts in fused weights (`make_experts`).

Experts run through transformers' own dispatch: `config._experts_implementation` is "grouped_mm" (one kernel for all
experts), "batched_mm" (weights copied for each assignment: short decodes) or "eager" (the loop here), chosen by
`from_pretrained(experts_implementation=...)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.integrations.moe import use_experts_implementation

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig


class GatedMLP(nn.Module):
    """SwiGLU where `hidden_act` is silu: down(act(gate x) * up x). [..., D] -> [..., D]."""

    def __init__(self, config: MoEConfig, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))


class PlainMLP(nn.Module):
    """down(act(up x)), as before 2020. [..., D] -> [..., D]."""

    def __init__(self, config: MoEConfig, width: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(hidden)))


class _Experts(nn.Module):
    """E networks of width I = moe_intermediate_size. `_apply_gate` is transformers' name for what follows the first
    projection, and its kernels call it."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.num_experts = config.n_routed_experts
        self.width = config.moe_intermediate_size
        self.act_fn = ACT2FN[config.hidden_act]
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, config.hidden_size, self.width))

    @property
    def first_proj(self) -> nn.Parameter:
        raise NotImplementedError

    def _apply_gate(self, projected: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, hidden_TD: Tensor, indices_TK: Tensor, weights_TK: Tensor) -> Tensor:
        """Σ over a token's K experts of weight times output: [T, D], int64[T, K], float[T, K] -> [T, D]."""
        experts_A, order_A = indices_TK.flatten().sort(stable=True)  # A = T K assignments, now expert by expert
        tokens_A = order_A // indices_TK.shape[1]
        counts_E = torch.bincount(experts_A, minlength=self.num_experts).tolist()
        rows_E = hidden_TD.index_select(0, tokens_A).split(counts_E)
        # unbind, not indexing: its backward writes the weights' gradient once, with zeros for an expert that had no
        # token, where E index operations would each make a whole one.
        first_E, down_E = self.first_proj.unbind(), self.down_proj.unbind()
        outputs = [
            F.linear(self._apply_gate(F.linear(rows_E[e], first_E[e])), down_E[e])
            for e in range(self.num_experts)
            # Expert 0 always: then the weights have a gradient even of a batch without tokens.
            if counts_E[e] or e == 0
        ]
        weighted_AD = torch.cat(outputs) * weights_TK.flatten()[order_A, None]
        # Summed in the gates' precision (float32) before the model's own.
        total_TD = weighted_AD.new_zeros(hidden_TD.shape).index_add(0, tokens_A, weighted_AD)
        return total_TD.to(hidden_TD.dtype)

    def initialize(self, std: float) -> None:
        """Draw the weights anew, with this standard deviation."""
        init.normal_(self.first_proj, mean=0.0, std=std)
        init.normal_(self.down_proj, mean=0.0, std=std)


@use_experts_implementation
class GatedExperts(_Experts):
    """gate_up_proj [E, 2 I, D] (gate above, up below), down_proj [E, D, I]: transformers' layout."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * self.width, config.hidden_size))

    @property
    def first_proj(self) -> nn.Parameter:
        return self.gate_up_proj

    def _apply_gate(self, projected: Tensor) -> Tensor:
        gate, up = projected.chunk(2, dim=-1)
        return self.act_fn(gate) * up


@use_experts_implementation(has_gate=False)
class PlainExperts(_Experts):
    """up_proj [E, I, D], down_proj [E, D, I]."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.up_proj = nn.Parameter(torch.empty(self.num_experts, self.width, config.hidden_size))

    @property
    def first_proj(self) -> nn.Parameter:
        return self.up_proj

    def _apply_gate(self, projected: Tensor) -> Tensor:
        return self.act_fn(projected)


def make_mlp(config: MoEConfig, width: int) -> GatedMLP | PlainMLP:
    return GatedMLP(config, width) if config.gated_mlp else PlainMLP(config, width)


def make_experts(config: MoEConfig) -> _Experts:
    return GatedExperts(config) if config.gated_mlp else PlainExperts(config)

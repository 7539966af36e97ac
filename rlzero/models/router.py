"""Routers: which experts a token goes to, and with what weight. One small class for each published kind.

Shapes: T tokens (all positions of a batch, flattened), D hidden size, E experts, K experts of a token, G groups of
N = E / G experts. A router computes in float32, or in float64 where its weight is float64, whatever the model's
dtype and autocast: Switch's selective precision (2101.03961, §2.4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import maybe_autocast

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig

# DeepSeek-V3's: a sum of sigmoids may underflow. It changes no sum above 1e-12 in float32.
_TINY = 1e-20


@dataclass(frozen=True)
class Routing:
    """What a router decided about T tokens. Floats are float32 (float64 in a float64 model), with gradient."""

    logits: Tensor
    """[T, E], with the noise where a router adds some."""
    scores: Tensor
    """[T, E], affinities: softmax or sigmoid of the logits, before any bias."""
    indices: Tensor
    """int64[T, K], different experts in each row, in order of choice: column 0 is a token's first choice."""
    weights: Tensor
    """[T, K], the gates. 0 where an assignment was dropped, or left out by chance."""


@dataclass(frozen=True)
class NoisyRouting(Routing):
    """With what the load loss needs to know of the noise (rlzero/models/balance.py)."""

    clean: Tensor
    """[T, E], logits without noise."""
    noise_scale: Tensor
    """[T, E], standard deviation of the noise."""


class Router(nn.Module):
    """Softmax over all experts, the K of highest affinity, gates as affinities: what the kinds below have in common.

    weight: [E, D], one centroid for each expert. Jitter, noise and chance act in training only, and not while `exact`
    is true (rlzero.models.moe.set_exact_routing): then a token's routing depends on the token alone, as in an engine.
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.num_experts = config.n_routed_experts
        self.top_k = config.num_experts_per_tok
        self.normalise = config.norm_topk_prob
        self.scaling = config.routed_scaling_factor
        self.jitter = config.router_jitter_noise
        self.exact = False
        self.weight = nn.Parameter(torch.zeros(self.num_experts, config.hidden_size))

    @property
    def random(self) -> bool:
        """Whether chance may act."""
        return self.training and not self.exact

    def forward(self, hidden_TD: Tensor) -> Routing:
        """The routing of T tokens, float[T, D] in any dtype."""
        with maybe_autocast(hidden_TD.device.type, enabled=False):
            hidden_TD = hidden_TD.to(torch.promote_types(torch.float32, self.weight.dtype))
            if self.random and self.jitter > 0:
                # Only the router sees the jitter, not the experts (2101.03961, appendices C and F).
                hidden_TD = hidden_TD * torch.empty_like(hidden_TD).uniform_(1 - self.jitter, 1 + self.jitter)
            return self.route(hidden_TD)

    def route(self, hidden_TD: Tensor) -> Routing:
        return self.decide(F.linear(hidden_TD, self.weight.to(hidden_TD.dtype)))

    def decide(self, logits_TE: Tensor) -> Routing:
        """Logits to affinities to a choice to gates: the three steps in which the kinds differ."""
        scores_TE = self.score(logits_TE)
        indices_TK = self.choose(scores_TE.detach())
        return Routing(logits_TE, scores_TE, indices_TK, self.weigh(scores_TE, indices_TK))

    def score(self, logits_TE: Tensor) -> Tensor:
        return logits_TE.softmax(dim=-1)

    def choose(self, scores_TE: Tensor) -> Tensor:
        return scores_TE.topk(self.top_k, dim=-1).indices

    def weigh(self, scores_TE: Tensor, indices_TK: Tensor) -> Tensor:
        weights_TK = scores_TE.gather(1, indices_TK)
        if self.normalise:
            weights_TK = weights_TK / (weights_TK.sum(dim=-1, keepdim=True) + _TINY)
        return weights_TK if self.scaling == 1 else weights_TK * self.scaling

    def reroute(self, routing: Routing, indices_TK: Tensor) -> Routing:
        """The same logits with the choice forced, and the gates of that choice with gradient (R3, 2510.11370).

        indices_TK: int64[T, K]; a row with a negative entry keeps its own choice. Meant for `exact` routing: what
        was dropped before is weighed anew. Raises ValueError for another shape than the routing's own.
        """
        if indices_TK.shape != routing.indices.shape:
            raise ValueError(
                f"a replayed routing has one row of {routing.indices.shape[1]} experts for each of "
                f"{routing.indices.shape[0]} tokens, got shape {tuple(indices_TK.shape)}: replay the routing of the "
                "same tokens and the same number of experts per token."
            )
        own_T1 = (indices_TK < 0).any(dim=-1, keepdim=True)
        indices_TK = torch.where(own_T1, routing.indices, indices_TK)
        return replace(routing, indices=indices_TK, weights=self.weigh(routing.scores, indices_TK))

    def initialize(self, std: float) -> None:
        """Draw the weights anew, with this standard deviation."""
        init.normal_(self.weight, mean=0.0, std=std)


class Dense(Router):
    """Every expert, gates p = softmax(W u): Jacobs et al. 1991, o = Σ_i p_i o_i, p_i = exp(x_i) / Σ_j exp(x_j)."""

    def choose(self, scores_TE: Tensor) -> Tensor:
        return torch.arange(self.num_experts, device=scores_TE.device).expand_as(scores_TE)


class NoisyTopK(Router):
    """Shazeer et al. 2017 (1701.06538), eq. 3 to 5: G(x) = softmax(KeepTopK(H(x), k)),
    H(x)_i = (x W_g)_i + StandardNormal() · softplus((x W_noise)_i).

    Both matrices start at 0, so that all experts start with equal load (Appendix A). Without chance, H is x W_g.
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.normalise = True  # softmax over the kept logits is the softmax over all, divided by its sum over the kept
        self.noise_weight = nn.Parameter(torch.zeros_like(self.weight))

    def route(self, hidden_TD: Tensor) -> NoisyRouting:
        clean_TE = F.linear(hidden_TD, self.weight.to(hidden_TD.dtype))
        scale_TE = F.softplus(F.linear(hidden_TD, self.noise_weight.to(hidden_TD.dtype)))
        # Times zero rather than left out: W_noise always gets a gradient, which DDP waits for.
        noise_TE = torch.randn_like(clean_TE) if self.random else torch.zeros_like(clean_TE)
        routing = self.decide(clean_TE + noise_TE * scale_TE)
        return NoisyRouting(routing.logits, routing.scores, routing.indices, routing.weights, clean_TE, scale_TE)

    def initialize(self, std: float) -> None:
        init.zeros_(self.weight)
        init.zeros_(self.noise_weight)


class Top2Random(Router):
    """GShard (2006.16668), algorithm 1: g = softmax(W u), g_1 and g_2 the two highest, divided by their sum; the
    second expert is used where 2 g_2 > uniform(0, 1).

    Without chance it is always used: leaving it out only saves the capacity of experts, which an engine has.
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.normalise = True

    def weigh(self, scores_TE: Tensor, indices_TK: Tensor) -> Tensor:
        weights_TK = super().weigh(scores_TE, indices_TK)
        if not self.random:
            return weights_TK
        first_T, second_T = weights_TK.unbind(dim=-1)
        share_T = second_T.detach() / self.scaling
        used_T = 2 * share_T > torch.rand_like(share_T)
        return torch.stack([first_T, second_T * used_T], dim=-1)


class Switch(Router):
    """Switch Transformer (2101.03961), eq. 1 and 2: p = softmax(W u), y = p_i(u) E_i(u) with i = argmax p.

    p_i is not divided by itself, or the router would have no gradient. Jitter: Router.forward.
    """


class TopKSoftmax(Router):
    """Mixtral (2401.04088), §2.1: G(x) = softmax(TopK(x W_g)), over the k highest logits only.

    Computed as transformers does, softmax over all and then divided by the sum over the k: the same number.
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.normalise = True


class Greedy(Router):
    """DeepSeekMoE (2401.06066), eq. 9 to 11: s_i = softmax_i(u · e_i); g_i = s_i for the K highest, otherwise 0.

    With norm_topk_prob the gates are divided by their sum, as Qwen3-MoE does.
    """


class GroupLimited(Router):
    """DeepSeek-V2 (2405.04434), §2.2.2, device-limited routing: first the M devices (groups) that hold the experts of
    highest affinity, then the K best experts on these devices."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.n_group = config.n_group
        self.topk_group = config.topk_group

    def choose(self, scores_TE: Tensor) -> Tensor:
        if self.topk_group < self.n_group:
            scores_TGN = scores_TE.unflatten(-1, (self.n_group, -1))
            groups_TM = self.score_groups(scores_TGN).topk(self.topk_group, dim=-1).indices
            barred_TG = torch.ones_like(scores_TGN[..., 0], dtype=torch.bool).scatter(1, groups_TM, False)
            scores_TE = scores_TGN.masked_fill(barred_TG[..., None], float("-inf")).flatten(1)
        return super().choose(scores_TE)

    def score_groups(self, scores_TGN: Tensor) -> Tensor:
        """[T, G]: the best expert of a group stands for it."""
        return scores_TGN.amax(dim=-1)


class NoAuxTC(GroupLimited):
    """DeepSeek-V3 (2412.19437), eq. 12 to 16: s_i = sigmoid(u · e_i); chosen by s_i + b_i in the M nodes with the
    highest sum of their two best; g_i = s_i / Σ s_j over the chosen, times the scaling factor.

    e_score_correction_bias: b, float32[E], a buffer: it has no gradient and is moved by balance.update_bias.
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.e_score_correction_bias: Tensor
        self.register_buffer("e_score_correction_bias", torch.zeros(self.num_experts, dtype=torch.float32))

    def score(self, logits_TE: Tensor) -> Tensor:
        return logits_TE.sigmoid()

    def choose(self, scores_TE: Tensor) -> Tensor:
        return super().choose(scores_TE + self.e_score_correction_bias)

    def score_groups(self, scores_TGN: Tensor) -> Tensor:
        """[T, G]: the sum of a group's two best."""
        return scores_TGN.topk(2, dim=-1).values.sum(dim=-1)

    def initialize(self, std: float) -> None:
        super().initialize(std)
        init.zeros_(self.e_score_correction_bias)


ROUTERS: dict[str, type[Router]] = {
    "dense": Dense,
    "noisy_topk": NoisyTopK,
    "top2_random": Top2Random,
    "switch": Switch,
    "topk_softmax": TopKSoftmax,
    "greedy": Greedy,
    "group_limited_greedy": GroupLimited,
    "noaux_tc": NoAuxTC,
}
"""`topk_method` of the configuration -> its class."""


def make_router(config: MoEConfig) -> Router:
    return ROUTERS[config.topk_method](config)

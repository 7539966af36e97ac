"""Keeping experts busy: each published balance loss as a function, and the bias that does without one.

Every loss of BALANCE has one signature: (routing, config, mask_T, sequence_T) -> scalar in the routing's dtype, with
gradient, and without its weight. mask_T: bool[T], tokens that count (no padding); None: all. sequence_T: int64[T], the
sequence that a token belongs to, any numbers from 0 to T - 1; None: the T tokens are one sequence.

Names: T tokens, E experts, K experts of a token, G groups (devices) of which a token reaches M, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rlzero.models.moe import MoELayer, moe_layers
from rlzero.models.router import NoAuxTC, NoisyRouting, Routing

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig


def balance_loss(
    routings: Sequence[Routing], config: MoEConfig, mask_T: Tensor | None = None, sequence_T: Tensor | None = None
) -> Tensor:
    """Σ over layers Σ over the losses in config.balance of weight times loss: each layer has its own, as published.

    (transformers' Mixtral takes one loss over the tokens of all layers together instead.)
    """
    losses = [
        weight * BALANCE[name](routing, config, mask_T, sequence_T)
        for routing in routings
        for name, weight in config.balance.items()
    ]
    return torch.stack(losses).sum() if losses else torch.zeros(())


def importance(
    routing: Routing, config: MoEConfig, mask_T: Tensor | None = None, sequence_T: Tensor | None = None
) -> Tensor:
    """Shazeer et al. 2017 (1701.06538), eq. 6 and 7: CV(Importance)², Importance = Σ_x G(x)."""
    gates_TE = torch.zeros_like(routing.scores).scatter(1, routing.indices, routing.weights)
    return _squared_variation(_mean(gates_TE, mask_T))


def load_cv(
    routing: NoisyRouting, config: MoEConfig, mask_T: Tensor | None = None, sequence_T: Tensor | None = None
) -> Tensor:
    """Shazeer et al. 2017 (1701.06538), eq. 8 to 11: CV(Load)², Load_i = Σ_x P(x, i), the chance that i is chosen
    when its noise is drawn anew and that of the others stays:

    P(x, i) = Φ(((x W_g)_i - kth_excluding(H(x), k, i)) / softplus((x W_noise)_i)).
    """
    highest_TK = routing.logits.topk(config.num_experts_per_tok + 1, dim=-1).values
    kept_T1, next_T1 = highest_TK[:, -2:-1], highest_TK[:, -1:]
    # Without i, the k-th highest is the next one down where i is itself among the k.
    threshold_TE = torch.where(routing.logits > next_T1, next_T1, kept_T1)
    chance_TE = torch.special.ndtr((routing.clean - threshold_TE) / routing.noise_scale)
    return _squared_variation(_mean(chance_TE, mask_T))


def gshard(
    routing: Routing, config: MoEConfig, mask_T: Tensor | None = None, sequence_T: Tensor | None = None
) -> Tensor:
    """GShard (2006.16668), algorithm 1, line 13: (1/E) Σ_e (c_e / S) m_e with c_e the tokens whose *first* choice is
    e, m_e the mean of the affinities and S the number of tokens.

    As printed: with K = 1 that is Switch's divided by E², and the authors' code (lingvo) multiplies by E² again.
    """
    first_TE = _chosen(routing.scores, routing.indices[:, :1])
    return (_mean(first_TE, mask_T) * _mean(routing.scores, mask_T)).mean()


def switch(
    routing: Routing, config: MoEConfig, mask_T: Tensor | None = None, sequence_T: Tensor | None = None
) -> Tensor:
    """Switch Transformer (2101.03961), eq. 4 to 6: E Σ_i f_i P_i with f_i the share of tokens sent to i and P_i the
    mean of the affinities. With K > 1, f sums to K, as in transformers' load_balancing_loss_func (Mixtral)."""
    chosen_TE = _chosen(routing.scores, routing.indices)
    return config.n_routed_experts * (_mean(chosen_TE, mask_T) * _mean(routing.scores, mask_T)).sum()


def expert(
    routing: Routing, config: MoEConfig, mask_T: Tensor | None = None, sequence_T: Tensor | None = None
) -> Tensor:
    """DeepSeekMoE (2401.06066), eq. 12 to 14; DeepSeek-V2 (2405.04434), eq. 23 to 25: Σ_i f_i P_i,
    f_i = E/(K T) Σ_t 1(t selects i), P_i = 1/T Σ_t s_{i,t}, over the T tokens of a sequence; mean over sequences."""
    return _frequency_times_affinity(routing.indices, routing.scores, mask_T, sequence_T)


def device(
    routing: Routing, config: MoEConfig, mask_T: Tensor | None = None, sequence_T: Tensor | None = None
) -> Tensor:
    """DeepSeekMoE (2401.06066), eq. 15 to 17; DeepSeek-V2 (2405.04434), eq. 26 to 28: Σ_d f'_d P'_d over devices,
    f'_d the mean of its experts' f_i and P'_d the sum of their P_i. Mean over sequences."""
    chosen_TE = _chosen(routing.scores, routing.indices)
    factor = config.n_routed_experts / config.num_experts_per_tok
    frequency_SG = factor * _grouped(_sequence_means(chosen_TE, mask_T, sequence_T), config).mean(dim=-1)
    affinity_SG = _grouped(_sequence_means(routing.scores, mask_T, sequence_T), config).sum(dim=-1)
    return _shares(chosen_TE, mask_T, sequence_T) @ (frequency_SG * affinity_SG).sum(dim=-1)


def communication(
    routing: Routing, config: MoEConfig, mask_T: Tensor | None = None, sequence_T: Tensor | None = None
) -> Tensor:
    """DeepSeek-V2 (2405.04434), eq. 29 to 31: Σ_d f''_d P''_d over devices, f''_d = G/(M T) Σ_t 1(t is sent to d) and
    P''_d the sum of its experts' P_i. Mean over sequences."""
    chosen_TE = _chosen(routing.scores, routing.indices)
    sent_TG = _grouped(chosen_TE, config).amax(dim=-1)
    frequency_SG = config.n_group / config.topk_group * _sequence_means(sent_TG, mask_T, sequence_T)
    affinity_SG = _grouped(_sequence_means(routing.scores, mask_T, sequence_T), config).sum(dim=-1)
    return _shares(chosen_TE, mask_T, sequence_T) @ (frequency_SG * affinity_SG).sum(dim=-1)


def sequence(
    routing: Routing, config: MoEConfig, mask_T: Tensor | None = None, sequence_T: Tensor | None = None
) -> Tensor:
    """DeepSeek-V3 (2412.19437), eq. 17 to 20: Σ_i f_i P_i in each sequence, f_i = E/(K T) Σ_t 1(s_{i,t} among the K
    highest affinities) and P_i = 1/T Σ_t s_{i,t} / Σ_j s_{j,t}. Mean over sequences.

    As printed, f counts the K highest *affinities*, not the choice made with bias and nodes.
    """
    highest_TK = routing.scores.detach().topk(config.num_experts_per_tok, dim=-1).indices
    normal_TE = routing.scores / routing.scores.sum(dim=-1, keepdim=True)
    return _frequency_times_affinity(highest_TK, normal_TE, mask_T, sequence_T)


def router_z(
    routing: Routing, config: MoEConfig, mask_T: Tensor | None = None, sequence_T: Tensor | None = None
) -> Tensor:
    """ST-MoE (2202.08906), eq. 5: 1/T Σ_t (log Σ_i exp x_{t,i})². Keeps the logits small; balances nothing."""
    return _mean(routing.logits.logsumexp(dim=-1).square(), mask_T)


BALANCE: dict[str, Callable[..., Tensor]] = {
    "importance": importance,
    "load": load_cv,
    "gshard": gshard,
    "switch": switch,
    "expert": expert,
    "device": device,
    "communication": communication,
    "sequence": sequence,
    "z": router_z,
}
"""Key of `balance` in the configuration -> its function."""


def competitive_loss(outputs_TED: Tensor, gates_TE: Tensor, target_TD: Tensor) -> Tensor:
    """Jacobs et al. 1991, eq. 1.3: -log Σ_i p_i exp(-½ ‖d - o_i‖²), mean over T cases.

    outputs_TED: what each expert says by itself; gates_TE: p, sums to 1. An expert is compared with the target alone,
    where ‖d - Σ p_i o_i‖² (eq. 1.1) makes it correct what the others leave.
    """
    distance_TE = (target_TD[:, None] - outputs_TED).square().sum(dim=-1)
    log_gates_TE = gates_TE.clamp(min=torch.finfo(gates_TE.dtype).tiny).log()
    return -(log_gates_TE - distance_TE / 2).logsumexp(dim=-1).mean()


def load(routing: Routing, mask_T: Tensor | None = None) -> Tensor:
    """int64[E]: how many of the tokens chose each expert. What capacity dropped is counted: it was chosen."""
    chosen_TE = torch.zeros_like(routing.scores, dtype=torch.bool).scatter(1, routing.indices, True)
    return (chosen_TE if mask_T is None else chosen_TE & mask_T[:, None]).sum(dim=0)


def count_load(layers: Iterable[MoELayer], mask_T: Tensor | None = None) -> None:
    """Add the newest forward pass of these layers, all of the same T tokens, to what `update_bias` will act on."""
    for layer in layers:
        if layer.last is not None:
            counts_E = load(layer.last, mask_T)
            layer.load_E = counts_E if layer.load_E is None else layer.load_E + counts_E


@torch.no_grad()
def move_bias(routers: Iterable[nn.Module], counts_LE: Tensor, speed: float) -> None:
    """Auxiliary-loss-free balance (2408.15664, algorithm 1; DeepSeek-V3, §2.1.2): b_i += speed · sign(mean load -
    load_i). routers: ours or transformers', with an `e_score_correction_bias`; counts_LE: assignments of each expert,
    over all processes."""
    for router, counts_E in zip(routers, counts_LE, strict=True):
        # E times the difference to the mean: whole numbers, so that an even load is exactly even.
        missing_E = counts_E.sum() - len(counts_E) * counts_E
        router.e_score_correction_bias += speed * missing_E.sign().to(router.e_score_correction_bias)


def update_bias(model: nn.Module, speed: float, reduce: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """`move_bias` in every `noaux_tc` layer of our decoder, by the counts since the last call, which start again at 0.

    reduce: sums int64[L, E] over processes, so that all move their bias alike; every process calls this. Returns the
    summed counts, int64[L, E], of these L layers in order. Raises ValueError for a model without such a layer.
    """
    layers = [layer for layer in moe_layers(model) if isinstance(layer.gate, NoAuxTC)]
    if not layers:
        raise ValueError("only a router with topk_method 'noaux_tc' has a bias to update, and the model has none.")
    zeros_E = torch.zeros(layers[0].gate.num_experts, dtype=torch.int64, device=layers[0].gate.weight.device)
    counts_LE = torch.stack([zeros_E if layer.load_E is None else layer.load_E for layer in layers])
    if reduce is not None:
        counts_LE = reduce(counts_LE)
    move_bias([layer.gate for layer in layers], counts_LE, speed)
    for layer in layers:
        layer.load_E = None
    return counts_LE


def _chosen(scores_TE: Tensor, indices_TK: Tensor) -> Tensor:
    """[T, E], 1 where an expert is among the indices of the token."""
    return torch.zeros_like(scores_TE).scatter(1, indices_TK, 1)


def _grouped(values_XE: Tensor, config: MoEConfig) -> Tensor:
    """[X, G, E/G]."""
    return values_XE.unflatten(-1, (config.n_group, -1))


def _mean(values: Tensor, mask_T: Tensor | None) -> Tensor:
    """Mean over the tokens that count, [T, ...] -> [...]; 0 where none does."""
    if mask_T is None:
        return values.mean(dim=0)
    weights_T = mask_T.to(values.dtype)
    return weights_T @ values / weights_T.sum().clamp(min=1)


def _squared_variation(values_E: Tensor) -> Tensor:
    """Variance over squared mean."""
    return values_E.var(correction=0) / values_E.mean().square().clamp(min=torch.finfo(values_E.dtype).tiny)


def _frequency_times_affinity(
    indices_TK: Tensor, scores_TE: Tensor, mask_T: Tensor | None, sequence_T: Tensor | None
) -> Tensor:
    """Σ_i f_i P_i with f_i = E/(K T) Σ_t 1(i in indices_t), P_i the mean of the scores; mean over sequences."""
    chosen_TE = _chosen(scores_TE, indices_TK)
    frequency_SE = scores_TE.shape[1] / indices_TK.shape[1] * _sequence_means(chosen_TE, mask_T, sequence_T)
    affinity_SE = _sequence_means(scores_TE, mask_T, sequence_T)
    return _shares(chosen_TE, mask_T, sequence_T) @ (frequency_SE * affinity_SE).sum(dim=-1)


def _sequence_means(values_TX: Tensor, mask_T: Tensor | None, sequence_T: Tensor | None) -> Tensor:
    """[S, X], the mean over the tokens of each sequence that count. S is T, of which most rows stay empty: to ask for
    the largest sequence number would make a GPU wait."""
    if sequence_T is None:
        return _mean(values_TX, mask_T)[None]
    weights_T = torch.ones_like(values_TX[:, 0]) if mask_T is None else mask_T.to(values_TX.dtype)
    tokens_S = torch.zeros_like(weights_T).index_add(0, sequence_T, weights_T)
    sums_SX = torch.zeros_like(values_TX).index_add(0, sequence_T, values_TX * weights_T[:, None])
    return sums_SX / tokens_S.clamp(min=1)[:, None]


def _shares(values_TX: Tensor, mask_T: Tensor | None, sequence_T: Tensor | None) -> Tensor:
    """[S], what each sequence counts in their mean: all alike, and nothing where it has no token."""
    if sequence_T is None:
        return torch.ones_like(values_TX[:1, 0])
    weights_T = torch.ones_like(values_TX[:, 0]) if mask_T is None else mask_T.to(values_TX.dtype)
    present_S = torch.zeros_like(weights_T).index_add(0, sequence_T, weights_T).clamp(max=1)
    return present_S / present_S.sum().clamp(min=1)

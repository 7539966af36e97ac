"""Several rewards, one advantage: which comes first, the sum or the normalisation (TRL's names).

rewards_NGK: float[N groups, G answers, K rewards], NaN where a reward function returned None; weights_K: float[K].
`advantage` makes advantages_NG of rewards_NG and is 0 for NaN (`rlzero.grpo.advantage`, its scale and reduction bound).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlzero.grpo.advantage import EPSILON, TIE, Reduce, alone, batch_moments


def total_reward(rewards_NGK: Tensor, weights_K: Tensor) -> Tensor:
    """Σ_k w_k r_k over the rewards that apply, [N, G]; NaN where none does."""
    weighted = (rewards_NGK * weights_K).nansum(dim=-1)
    return weighted.masked_fill(rewards_NGK.isnan().all(dim=-1), torch.nan)


def sum_then_normalize(
    rewards_NGK: Tensor, weights_K: Tensor, advantage: Callable[[Tensor], Tensor], reduce: Reduce = alone
) -> Tensor:
    """A = advantage(Σ_k w_k r_k): GRPO as published (2402.03300, §4.1.2)."""
    return advantage(total_reward(rewards_NGK, weights_K))


def normalize_then_sum(
    rewards_NGK: Tensor, weights_K: Tensor, advantage: Callable[[Tensor], Tensor], reduce: Reduce = alone
) -> Tensor:
    """A = S / std_batch(S) with S = Σ_k w_k advantage(r_k): GDPO (2601.05242), eq. 4, 6 and 7: normalised over the
    group first and over the step last, so that answers with unlike rewards of the same sum keep unlike advantages.

    GDPO also subtracts mean_batch(S), which is 0 here: every group's advantages add up to 0.
    """
    sums_NG = (torch.stack([advantage(r_NG) for r_NG in rewards_NGK.unbind(dim=-1)], dim=-1) * weights_K).sum(dim=-1)
    _, std = batch_moments(sums_NG.masked_fill(rewards_NGK.isnan().all(dim=-1), torch.nan), reduce)
    return (sums_NG / (std + EPSILON)).masked_fill(std <= TIE, 0.0)


AGGREGATIONS: dict[str, Callable[..., Tensor]] = {
    "sum_then_normalize": sum_then_normalize,
    "normalize_then_sum": normalize_then_sum,
}

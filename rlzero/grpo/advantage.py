"""From the rewards of a group to the advantage of each answer.

`rewards_NG`: float[N groups, G answers] of this process; NaN where no reward function applied to an answer (all
returned None): such an answer counts in no statistic and has advantage 0, as in TRL. Advantages have the same dtype.

Every function has the signature `(rewards_NG, scale, reduce)`. `scale` (TRL's `scale_rewards`) names the divisor: it
is only free where `FREE_SCALE` holds the method's name. `reduce` adds a small vector over all processes; every
process calls it equally often, also with no group of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# TRL's: keeps the quotient finite; a group without spread has advantage 0 because its numerator is 0.
EPSILON = 1e-4
# Rewards that differ by no more than this are equal: sums of the same rewards may round differently.
TIE = 1e-6

Reduce = Callable[[Tensor], Tensor]


def alone(sums: Tensor) -> Tensor:
    """The reduction of a run with one process."""
    return sums


def grpo(rewards_NG: Tensor, scale: str = "group", reduce: Reduce = alone) -> Tensor:
    """A_i = (r_i − mean(r)) / std(r) within the group: DeepSeekMath (2402.03300), §4.1.2. std with G − 1, as TRL.

    scale "batch" divides by the std of the rewards of the whole step (Lite PPO, 2508.08221), "none" by nothing.
    """
    return _centred(rewards_NG) / SCALES[scale](rewards_NG, reduce)


def dr_grpo(rewards_NG: Tensor, scale: str = "none", reduce: Reduce = alone) -> Tensor:
    """A_i = r_i − mean(r): Dr. GRPO (2503.20783), §3.2; dividing by std favours problems too easy or hard (§3.1)."""
    return _centred(rewards_NG)


def rloo(rewards_NG: Tensor, scale: str = "none", reduce: Reduce = alone) -> Tensor:
    """A_i = r_i − Σ_{j≠i} r_j / (G − 1): the leave-one-out baseline of RLOO (2402.14740), §2.3, unnumbered.

    Computed as G / (G − 1) · (r_i − mean(r)), which is the same. The paper divides by nothing, and adds up the
    gradients of an answer's tokens: of the loss types, dr_grpo is the nearest.
    """
    known = _known(rewards_NG)
    return _centred(rewards_NG) * known / (known - 1).clamp(min=1) / SCALES[scale](rewards_NG, reduce)


def reinforce_pp(rewards_NG: Tensor, scale: str = "none", reduce: Reduce = alone) -> Tensor:
    """A_i = (r_i − mean_batch(r)) / std_batch(r): REINFORCE++ (2501.03262 v9), §3.1, eq. 5, every answer once.

    No group enters: a group of equal rewards learns too, from how it did beside the others. The paper subtracts from
    a token's reward the k1 of the tokens from there on (eq. 4); `kl.kl_in_reward` is that of the whole answer.
    """
    mean, std = batch_moments(rewards_NG, reduce)
    return _whitened(rewards_NG - mean, std)


def reinforce_pp_baseline(rewards_NG: Tensor, scale: str = "none", reduce: Reduce = alone) -> Tensor:
    """A'_i = r_i − mean_group(r), A_i = (A'_i − mean_batch(A')) / std_batch(A').

    REINFORCE++ w/ Baseline (2501.03262 v9), §3.2, eq. 6 and 7. mean_batch(A') is 0, since every group's is. Unlike
    grpo with scale "batch", the std is that of the centred rewards. The paper's KL is k2 in the loss (eq. 8).
    """
    centred_NG = _centred(rewards_NG)
    _, std = batch_moments(centred_NG.masked_fill(rewards_NG.isnan(), torch.nan), reduce)
    return _whitened(centred_NG, std)


def max_rl(rewards_NG: Tensor, scale: str = "none", reduce: Reduce = alone) -> Tensor:
    """A_i = (r_i − mean(r)) / mean(r), 0 where mean(r) = 0: MaxRL (2602.02710 v3), Algorithm 1.

    For rewards of 0 and 1 the expectation of Σ_i A_i ∇ log π(o_i) / G is the gradient of Σ_{k=1..G−1} pass@k / k, the
    beginning of the series of log pass@1 (appendix D, theorem 5). The 1 / G stands in the token weights, and the sum
    over an answer's tokens is the loss type dr_grpo's up to a constant. The paper derives the equation for binary
    rewards only; rewards from 0 up keep their sign here, negative ones are refused.
    """
    if bool((rewards_NG < 0).any()):
        raise ValueError(
            f"advantage='max_rl' divides by a group's mean reward and needs rewards of 0 or more; got "
            f"{float(rewards_NG[rewards_NG < 0].min())}. Use rewards from 0 to 1, or another advantage."
        )
    mean = rewards_NG.nanmean(dim=1, keepdim=True)
    return _centred(rewards_NG) / torch.where(mean > 0, mean, torch.ones_like(mean))


ADVANTAGES: dict[str, Callable[..., Tensor]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce++": reinforce_pp,
    "reinforce++_baseline": reinforce_pp_baseline,
    "max_rl": max_rl,
}
# The methods whose divisor may be chosen; the others' is part of their equation.
FREE_SCALE = ("grpo", "rloo")


def _group_scale(rewards_NG: Tensor, reduce: Reduce) -> Tensor:
    """std of the group's rewards, [N, 1], plus EPSILON."""
    squares = (_centred(rewards_NG) ** 2).sum(dim=1, keepdim=True)
    return (squares / (_known(rewards_NG) - 1).clamp(min=1)).sqrt() + EPSILON


def _batch_scale(rewards_NG: Tensor, reduce: Reduce) -> Tensor:
    """std of the step's rewards over all processes, plus EPSILON."""
    return batch_moments(rewards_NG, reduce)[1] + EPSILON


def _no_scale(rewards_NG: Tensor, reduce: Reduce) -> Tensor:
    return torch.ones_like(rewards_NG[:, :1])


SCALES: dict[str, Callable[[Tensor, Reduce], Tensor]] = {
    "group": _group_scale,
    "batch": _batch_scale,
    "none": _no_scale,
}


def batch_moments(values_NG: Tensor, reduce: Reduce = alone) -> tuple[Tensor, Tensor]:
    """Mean and std (with n − 1) of all values of the step, NaN left out; two scalars. In two passes, so that large
    rewards lose no digits."""
    known_NG = ~values_NG.isnan()
    count, total = reduce(torch.stack([known_NG.sum().to(values_NG.dtype), values_NG.nansum()]))
    mean = total / count.clamp(min=1)
    (squares,) = reduce(((values_NG - mean) ** 2).nansum()[None])
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()


def has_signal(rewards_NG: Tensor) -> Tensor:
    """bool[N]: whether the answers of a group differ in reward at all."""
    missing_NG = rewards_NG.isnan()
    highest = rewards_NG.masked_fill(missing_NG, -torch.inf).amax(dim=1)
    lowest = rewards_NG.masked_fill(missing_NG, torch.inf).amin(dim=1)
    return (highest - lowest) > TIE


def informative(advantages_NG: Tensor) -> Tensor:
    """bool[N]: whether any answer of a group has an advantage. The others have no policy gradient.

    Not `has_signal` of the rewards: REINFORCE++ compares groups with each other.
    """
    return (advantages_NG != 0).any(dim=1)


def _known(rewards_NG: Tensor) -> Tensor:
    """How many answers of a group have a reward, [N, 1]."""
    return (~rewards_NG.isnan()).sum(dim=1, keepdim=True).to(rewards_NG.dtype)


def _centred(rewards_NG: Tensor) -> Tensor:
    """r − mean of the group; exactly 0 where the group's rewards are equal or one is missing."""
    centred_NG = rewards_NG - rewards_NG.nanmean(dim=1, keepdim=True)
    return centred_NG.masked_fill(rewards_NG.isnan() | ~has_signal(rewards_NG)[:, None], 0.0)


def _whitened(centred_NG: Tensor, std: Tensor) -> Tensor:
    """Divided by the step's std; exactly 0 where a reward is missing, or everywhere where all rewards are equal."""
    return (centred_NG / (std + EPSILON)).masked_fill(centred_NG.isnan() | (std <= TIE), 0.0)

"""The entropy of the policy at each token: a bonus for it, and learning only where it is high.

Entropies in nats, any shape, H_t = −Σ_v π(v | o_<t) log π(v | o_<t) at the sampling temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def alone(values: Tensor) -> Tensor:
    """The gathering of a run with one process."""
    return values


def entropy_bonus(entropies: Tensor, mask: Tensor, tokens: int) -> Tensor:
    """Σ H_t / tokens over the masked tokens of a microbatch; the loss becomes L − entropy_coef · that.

    tokens: in the mask over the whole step and all processes, so that the microbatches' parts add up to the mean
    entropy of the step, whatever the loss type: A3C (1602.01783), §4.
    """
    return entropies.masked_fill(~mask, 0.0).sum() / max(tokens, 1)


def entropy_threshold(entropies_T: Tensor, share: float, gather: Callable[[Tensor], Tensor] = alone) -> float:
    """The entropy that the `share` of tokens with the highest reaches: τ_ρ of 2506.01939 (eq. 6), ρ = share.

    entropies_T: float[T], of all tokens of the step that learn, of this process; `gather` puts those of all processes
    one after the other. The (1 − share) quantile with linear interpolation, as torch.quantile, which refuses more
    than 2^24 values. −inf for share 1, and where there is no token.
    """
    everywhere = gather(entropies_T)
    if share == 1 or not len(everywhere):
        return -math.inf
    position = (1 - share) * (len(everywhere) - 1)
    below = math.floor(position)
    low, high = (everywhere.kthvalue(rank + 1).values for rank in (below, min(below + 1, len(everywhere) - 1)))
    return float(torch.lerp(low, high, position - below))


def high_entropy(entropies: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """bool, 𝟙[H_t ≥ τ_ρ] within the mask: the tokens whose policy loss counts (2506.01939, eq. 6).

    The others' loss is 0, and they still count in the denominator, as in TRL. The paper divides by those that count:
    for the loss type dapo its gradient is 1 / ρ times this one, which Adam makes equal but for clipping.
    """
    return (entropies >= threshold) & mask

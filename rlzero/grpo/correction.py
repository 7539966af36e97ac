"""Correcting for tokens that another policy sampled than the one that trains: engine mismatch and staleness.

The engine sampled from μ, and training starts from π_old: the same weights, but other kernels, other numbers. The
policy loss of each token is multiplied by a weight made of ρ = π_old / μ, without gradient; names and the two bounds
are TRL's (`vllm_importance_sampling_mode`, `_clip_min`, `_clip_max`).

Truncating: TIS (Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025, upper
bound only). Masking: MIS (Liu et al., "When Speed Kills Stability", 2025, upper bound only); with both bounds at token
level IcePop (2510.18855, eq. 1 and 2), 𝟙[α ≤ ρ ≤ β] ρ with α = 0.5 and β = 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rlzero.grpo.sequences import Sequences, mean_of


def token_truncate(log_ratio: Tensor, sequences: Sequences, lowest: float, highest: float) -> tuple[Tensor, Tensor]:
    """min(max(ρ_t, C_min), C_max), ρ_t = π_old(o_t) / μ(o_t)."""
    ratio = torch.exp(log_ratio)
    return ratio, ratio.clamp(lowest, highest)


def token_mask(log_ratio: Tensor, sequences: Sequences, lowest: float, highest: float) -> tuple[Tensor, Tensor]:
    """𝟙[C_min ≤ ρ_t ≤ C_max] ρ_t."""
    ratio = torch.exp(log_ratio)
    return ratio, _inside(ratio, lowest, highest)


def sequence_truncate(log_ratio: Tensor, sequences: Sequences, lowest: float, highest: float) -> tuple[Tensor, Tensor]:
    """min(max(Π_t ρ_t, C_min), C_max), one weight for all tokens of an answer."""
    ratio = torch.exp(sequences.spread(sequences.sums(log_ratio)))
    return ratio, ratio.clamp(lowest, highest)


def sequence_mask(log_ratio: Tensor, sequences: Sequences, lowest: float, highest: float) -> tuple[Tensor, Tensor]:
    """𝟙[C_min ≤ Π_t ρ_t ≤ C_max] Π_t ρ_t."""
    ratio = torch.exp(sequences.spread(sequences.sums(log_ratio)))
    return ratio, _inside(ratio, lowest, highest)


# name -> (ρ before, the weight after the bounds), each broadcasting against the tokens
CORRECTIONS: dict[str, Callable[[Tensor, Sequences, float, float], tuple[Tensor, Tensor]]] = {
    "token_truncate": token_truncate,
    "token_mask": token_mask,
    "sequence_truncate": sequence_truncate,
    "sequence_mask": sequence_mask,
}


@torch.no_grad()
def correction(
    name: str,
    old_logprobs: Tensor,
    sampler_logprobs: Tensor,
    sequences: Sequences,
    clip_min: float | None,
    clip_max: float | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weight of each token's policy loss, and statistics: `corrected`, the number of tokens whose ratio lay
    outside the bounds, and `ratio_max`, the largest ratio before them.

    A token without the sampler's log-probability (NaN) has ratio 1. A bound of None is none.
    """
    lowest, highest = 0.0 if clip_min is None else clip_min, math.inf if clip_max is None else clip_max
    log_ratio = sampler_difference(old_logprobs, sampler_logprobs, sequences.mask)
    ratio, weight = CORRECTIONS[name](log_ratio, sequences, lowest, highest)
    outside = ((ratio < lowest) | (ratio > highest)) & sequences.mask
    largest = torch.where(sequences.mask, ratio, torch.zeros_like(ratio)).max()
    return weight, {"corrected": outside.sum(), "ratio_max": largest}


@torch.no_grad()
def off_policy_mask(
    policy_logprobs: Tensor, sampler_logprobs: Tensor, advantages: Tensor, sequences: Sequences, threshold: float
) -> Tensor:
    """bool, broadcasting against the tokens: M = 0 where A < 0 and mean_t log(μ(o_t) / π(o_t)) > δ, else 1.

    DeepSeek-V3.2 (2512.02556), eq. 9, whose π_old is "the sampling probability directly returned by the inference
    framework": what went wrong and is no longer what the policy would say teaches nothing. TRL's
    `off_policy_mask_threshold`.
    """
    drift = mean_of(sequences, -sampler_difference(policy_logprobs, sampler_logprobs, sequences.mask))
    return (advantages >= 0) | (drift <= threshold)


def sampler_difference(logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log π − log μ; 0 outside the mask and where the engine gave no log-probability (NaN)."""
    return torch.where(mask & ~sampler_logprobs.isnan(), logprobs - sampler_logprobs, torch.zeros_like(logprobs))


def _inside(ratio: Tensor, lowest: float, highest: float) -> Tensor:
    return ratio.masked_fill((ratio < lowest) | (ratio > highest), 0.0)

"""The clipped objective of a token, and how tokens are averaged.

A loss is a weighted *sum* over tokens. The weights are fixed from counts over the whole optimizer step and all
processes before the first microbatch runs, so the gradient does not depend on how the step was cut up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepCounts:
    """Of one optimizer step, over all processes, groups without signal included (they are skipped, not forgotten)."""

    sequences: int
    tokens: int
    max_completion_length: int


def dapo(lengths_R: torch.Tensor, counts: StepCounts) -> torch.Tensor:
    """Every token of the step weighs the same: DAPO (2503.14476), eq. 12."""
    return torch.full_like(lengths_R, 1.0 / max(counts.tokens, 1))


def grpo(lengths_R: torch.Tensor, counts: StepCounts) -> torch.Tensor:
    """Mean over the tokens of an answer, then over answers: DeepSeekMath (2402.03300), eq. 3."""
    return 1.0 / (lengths_R.clamp(min=1) * counts.sequences)


def dr_grpo(lengths_R: torch.Tensor, counts: StepCounts) -> torch.Tensor:
    """Sum over tokens divided by a constant: Dr. GRPO (2503.20783), §3.1; the constant is TRL's."""
    return torch.full_like(lengths_R, 1.0 / (counts.sequences * counts.max_completion_length))


# name -> weight of each token of a row, float32[R], from the completion lengths float32[R]
LOSSES: dict[str, Callable[[torch.Tensor, StepCounts], torch.Tensor]] = {
    "dapo": dapo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
}


def clipped_objective(
    policy_logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    epsilon: float,
    epsilon_high: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token loss and whether the clip acted: PPO (1707.06347), eq. 7, with DAPO's separate upper bound.

    policy_logprobs, old_logprobs: float32[R, L]; advantages: float32[R]. Returns float32[R, L] and bool[R, L].
    """
    ratio = torch.exp(policy_logprobs - old_logprobs)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    advantages = advantages[:, None]
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    acted = ((ratio < 1 - epsilon) & (advantages < 0)) | ((ratio > 1 + epsilon_high) & (advantages > 0))
    return loss, acted

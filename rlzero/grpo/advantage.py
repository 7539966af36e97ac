"""From the rewards of a group to the advantage of each answer. `rewards_NG`: float32[N groups, G answers]."""

from __future__ import annotations

from collections.abc import Callable

import torch

# TRL's: keeps the quotient finite; a group without spread has advantage 0 because its numerator is 0.
EPSILON = 1e-4


def grpo(rewards_NG: torch.Tensor) -> torch.Tensor:
    """(r − mean) / std within the group: DeepSeekMath (2402.03300), §4.1.2. std with G − 1, as TRL."""
    centred = rewards_NG - rewards_NG.mean(dim=1, keepdim=True)
    return centred / (rewards_NG.std(dim=1, keepdim=True) + EPSILON)


def dr_grpo(rewards_NG: torch.Tensor) -> torch.Tensor:
    """r − mean: Dr. GRPO (2503.20783), §3: dividing by std favours problems that are too easy or too hard."""
    return rewards_NG - rewards_NG.mean(dim=1, keepdim=True)


ADVANTAGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"grpo": grpo, "dr_grpo": dr_grpo}


def has_signal(rewards_NG: torch.Tensor) -> torch.Tensor:
    """bool[N]: whether the answers of a group differ in reward at all. The others have no gradient."""
    return (rewards_NG.amax(dim=1) - rewards_NG.amin(dim=1)) > 1e-6

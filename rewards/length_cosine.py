"""Accuracy that depends on length along a cosine (arXiv 2502.03373, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rewards.accuracy import accuracy
from rewards.locate import RewardError


def length_cosine(
    prompts: list[str],
    completions: list[str],
    answer: list[str | None],
    completion_ids: list[Sequence[int]],
    *,
    max_completion_length: int,
    right: tuple[float, float] = (1.0, 0.5),
    wrong: tuple[float, float] = (-1.0, -0.5),
    exceeded: float = -1.0,
    **columns: Any,
) -> list[float | None]:
    """Short right answers earn more than long ones, long wrong answers lose less than short ones.

    max_completion_length: in tokens; a completion that reaches it gets `exceeded`, right or wrong, because it
    was cut off. right, wrong: the reward at length 0 and at the maximum. None where there is no gold answer.
    """
    if max_completion_length < 1:
        raise RewardError(f"length_cosine needs max_completion_length >= 1, got {max_completion_length}")
    values: list[float | None] = []
    correct = accuracy(prompts, completions, answer)
    for is_right, ids in zip(correct, completion_ids, strict=True):
        if is_right is None:
            values.append(None)
        elif len(ids) >= max_completion_length:
            values.append(exceeded)
        else:
            short, long = right if is_right else wrong
            progress = len(ids) / max_completion_length
            values.append(long + 0.5 * (short - long) * (1.0 + math.cos(progress * math.pi)))
    return values

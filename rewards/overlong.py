"""DAPO's soft punishment of overlong completions (arXiv 2503.14476, equation 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards.locate import RewardError


def overlong(
    completion_ids: list[Sequence[int]], *, max_completion_length: int, cache: int, **columns: Any
) -> list[float]:
    """0 up to `max_completion_length - cache` tokens, then falling in a straight line to -1 at the maximum.

    max_completion_length, cache: in tokens. Named in a configuration with its limits:
    `overlong(max_completion_length=1024, cache=256)`.
    """
    if not 0 < cache <= max_completion_length:
        raise RewardError(
            "overlong needs 0 < cache <= max_completion_length (in tokens), got "
            f"cache={cache} and max_completion_length={max_completion_length}; DAPO takes a fifth of the "
            "maximum"
        )
    free = max_completion_length - cache
    return [max(-1.0, min(0.0, (free - len(ids)) / cache)) for ids in completion_ids]

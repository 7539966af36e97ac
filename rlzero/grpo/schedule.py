"""Lengths that grow during a run, as R1-Zero's: 32,768 tokens, and 65,536 from step 8,200 (Nature 645, Methods)."""

from __future__ import annotations

import re
from collections.abc import Sequence

LengthSchedule = tuple[tuple[int, int], ...]


def parse_lengths(entries: Sequence[str]) -> LengthSchedule:
    """`["0:32768", "8200:65536"]` as ((0, 32768), (8200, 65536)): (steps done, max_completion_length) pairs.

    The first must be for step 0 and steps must grow; else ValueError.
    """
    pairs = []
    for entry in entries:
        match = re.fullmatch(r"(\d+):(\d+)", str(entry).replace("_", ""))
        if match is None or not int(match[2]):
            raise ValueError(
                f"max_completion_length_schedule has entries step:tokens with tokens of at least 1, got {entry!r}; "
                "write for example 8200:65536."
            )
        pairs.append((int(match[1]), int(match[2])))
    steps = [step for step, _ in pairs]
    if not steps or steps[0] != 0 or sorted(set(steps)) != steps:
        raise ValueError(
            f"max_completion_length_schedule must begin at step 0 and go on in growing steps, got steps {steps}; "
            "write for example [0:32768, 8200:65536]."
        )
    return tuple(pairs)


def length_at(schedule: LengthSchedule, done: int) -> int:
    """max_completion_length of the step after `done` steps."""
    return [length for step, length in schedule if step <= done][-1]

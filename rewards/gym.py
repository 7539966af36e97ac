"""The scorers of the optional package reasoning-gym as a reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from data.gym import make_dataset
from rewards import extract_answer


def gym(
    prompts: list[str],
    completions: list[str],
    gym_task: list[str | None],
    gym_entry: list[Mapping[str, Any] | None],
    gym_options: list[Mapping[str, Any] | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """The task's own score of each completion's final answer, in [0, 1]; None for a row of another kind.

    gym_task, gym_entry, gym_options: the columns that the source `gym:<task>` gives its problems. No answer
    earns 0.0, as does an answer on which the task's scorer stumbles.
    """
    options = gym_options or [None] * len(completions)
    return [
        None if task is None or entry is None else _score(task, entry, given or {}, completion)
        for task, entry, given, completion in zip(gym_task, gym_entry, options, completions, strict=True)
    ]


def _score(task: str, entry: Mapping[str, Any], options: Mapping[str, Any], completion: str) -> float:
    dataset = make_dataset(task, options)
    answer = extract_answer(completion)
    if answer is None:
        return 0.0
    try:
        # A copy: some scorers write into the entry, which all samples of a group share.
        score = float(dataset.score_answer(answer, entry=deepcopy(dict(entry))))
    # Scorers parse model text, and many let whatever that raises pass (ValueError, RecursionError, ...).
    except Exception:
        return 0.0
    return min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0

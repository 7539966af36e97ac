"""What is asked and how it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer.

    prompt: the bare question; the template is put around it later (`data.templates`).
    answer: the gold answer as text.
    columns: further fields, handed to reward functions as keyword lists (TRL's convention).
    scorer: name of the reward function that decides whether a completion is right
        (1.0 right, less wrong). It measures accuracy whatever rewards a run trains on.
    """

    prompt: str
    answer: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    scorer: str = "accuracy"


class ProblemSource(Protocol):
    """Training problems by position and a held-out set, disjoint from each other.

    Training problems are addressed by (seed, index), so the position in the stream is one integer that a
    checkpoint can hold, and every process can compute any problem by itself.
    """

    @property
    def name(self) -> str: ...

    def train(self, seed: int, index: int) -> Problem:
        """The `index`-th (from 0, endless) training problem of the stream that `seed` names."""
        ...

    def heldout(self, count: int, seed: int = 0) -> list[Problem]:
        """At most `count` distinct problems that no training stream ever yields, the same for the same seed."""
        ...

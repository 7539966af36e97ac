"""How many more groups to sample until the step is full of groups that have something to teach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DynamicSampling:
    """DAPO's dynamic sampling (2503.14476, §3.2) as a plan without state.

    A group has signal where its answers differ in anything that is compared (`scoring.teaches`); the paper (eq. 11)
    asks for 0 < right answers < G, which leaves out groups that differ in length punishment alone.

    wanted: groups with signal that fill the step, over all processes. limit: groups that a step may ask for at most.
    multiple: every request is one of it (the number of processes: each gets as many). All numbers are totals over the
    processes, so that every process plans the same.
    """

    wanted: int
    limit: int
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.wanted < 1 or self.multiple < 1 or self.wanted % self.multiple or self.limit < self.wanted:
            raise ValueError(
                "dynamic sampling must want at least 1 group, in a multiple of the processes, and may not be limited "
                f"to fewer groups than it wants; got wanted={self.wanted}, multiple={self.multiple}, "
                f"limit={self.limit}. Raise the limit, or change prompts_per_step."
            )

    def more(self, asked: int, found: int) -> int:
        """How many groups to ask for next, after `asked` gave `found` with signal; 0: the step is full or the limit
        reached.

        As many as the share with signal so far (with one of each kind added) says will fill it, but never more than
        were asked for already: a step that is nearly full does not sample a whole batch again, and one unlucky round
        does not ask for thousands.
        """
        missing = self.wanted - found
        if missing <= 0:
            return 0
        if not asked:
            return self.wanted
        expected = math.ceil(missing * (asked + 2) / (found + 1))
        rounded = math.ceil(min(expected, asked) / self.multiple) * self.multiple
        return min(rounded, (self.limit - asked) // self.multiple * self.multiple)

    def chosen(self, signal: Sequence[bool]) -> list[int]:
        """Positions of the groups that are trained on: the first `wanted` with signal, in the order asked for.

        Not those that came back first: then short answers would be preferred.
        """
        return [position for position, useful in enumerate(signal) if useful][: self.wanted]

    def statistics(self, asked: int, found: int) -> dict[str, float]:
        """For the step's line of metrics: groups asked for, the share with signal, those of them left over, and how
        full the step became, 0..1."""
        return {
            "sampling/groups": float(asked),
            "sampling/with_signal": found / asked if asked else 0.0,
            "sampling/surplus": float(max(found - self.wanted, 0)),
            "sampling/filled": min(found / self.wanted, 1.0),
        }

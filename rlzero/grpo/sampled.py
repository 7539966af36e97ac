"""The groups of one step as they come in, request after request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlzero.grpo.batch import ScoredGroup


@dataclass
class Sampled:
    """This process's groups, and what every process must know of all of them.

    A group's place is its position among those of all processes, in the order in which they were asked for. groups,
    places: of this process. signal, right: of all, by place: whether a group has something to teach, and how many of
    its answers were right. requests: how often the engine was asked. staleness: optimizer steps made since the engine
    got the weights that it sampled with.
    """

    groups: list[ScoredGroup] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    signal: list[bool] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    requests: int = 0
    staleness: int = 0

    @property
    def asked(self) -> int:
        return len(self.signal)

    @property
    def found(self) -> int:
        """Groups with something to teach, over all processes."""
        return sum(self.signal)

    def add(
        self, scored: Sequence[ScoredGroup], teaches: Sequence[bool], first: int, gather: Callable[[Tensor], Tensor]
    ) -> None:
        """The answer to one request, whose first group of this process has the place `first`.

        gather: puts the processes' tensors of equal shape one after the other, by rank.
        """
        own = [[useful, sum(sample.right for sample in s.samples)] for s, useful in zip(scored, teaches, strict=True)]
        everywhere = gather(torch.tensor(own, dtype=torch.float32)).tolist()
        self.groups += scored
        self.places += range(first, first + len(scored))
        self.signal += [bool(useful) for useful, _ in everywhere]
        self.right += [right for _, right in everywhere]
        self.requests += 1

    def trained(self, chosen: Sequence[int]) -> tuple[list[int], list[int]]:
        """Of the places chosen, this process's: positions in `groups`, and each one's rank among all chosen."""
        ranks = {place: rank for rank, place in enumerate(chosen)}
        own = [i for i, place in enumerate(self.places) if place in ranks]
        return own, [ranks[self.places[i]] for i in own]

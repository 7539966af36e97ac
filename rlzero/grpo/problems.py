"""Which problems a process works on in which step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.problem import Problem, ProblemSource
from data.templates import Template
from rlzero.measure.text import encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ProblemFeed:
    """The training problems of one process, as a function of the step alone: nothing to save, nothing to lose.

    per_step: problems per step over all processes; process `rank` of `processes` takes one contiguous share.
    """

    source: ProblemSource
    template: Template
    tokenizer: PreTrainedTokenizerBase
    seed: int
    per_step: int
    rank: int = 0
    processes: int = 1

    @property
    def share(self) -> int:
        """Problems per step of this process."""
        return self.per_step // self.processes

    @property
    def offset(self) -> int:
        """Position of this process's first problem within the step."""
        return self.rank * self.share

    def step(self, done: int) -> tuple[list[Problem], list[list[int]]]:
        """The problems of the step after `done` steps, and their prompts as token ids."""
        first = done * self.per_step + self.offset
        problems = [self.source.train(self.seed, index) for index in range(first, first + self.share)]
        return problems, [encode_prompt(self.template, p.prompt, self.tokenizer) for p in problems]

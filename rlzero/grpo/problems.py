"""Which problems a process works on in which step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.problem import Problem, ProblemSource
from data.templates import Template
from rlzero.grpo.curriculum import Curriculum
from rlzero.measure.text import encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Request:
    """What one process asks its engine: problems, their prompts as token ids, and the place of the first one among
    all that the step asks, over all processes."""

    problems: list[Problem]
    prompt_ids: list[list[int]]
    first: int


@dataclass
class ProblemFeed:
    """The training problems of one process. Which they are follows from the seed, the problems asked in the steps
    before and, with a curriculum, how often they were solved: the state that is saved.

    Process `rank` of `processes` takes one contiguous share of every request.
    """

    source: ProblemSource
    template: Template
    tokenizer: PreTrainedTokenizerBase
    seed: int
    rank: int = 0
    processes: int = 1
    curriculum: Curriculum | None = None
    asked: int = 0

    def take(self, done: int, before: int, count: int) -> Request:
        """This process's share of `count` problems (a multiple of the processes) of the step after `done` steps, which
        has asked `before` already."""
        share = count // self.processes
        first = before + self.rank * share
        indices = self._indices(done, before + count)[first : first + share]
        problems = [self.source.train(self.seed, index) for index in indices]
        prompt_ids = [encode_prompt(self.template, problem.prompt, self.tokenizer) for problem in problems]
        return Request(problems, prompt_ids, first)

    def finish(self, done: int, right: Sequence[float], answers: int) -> None:
        """The step after `done` steps is over: so many of the `answers` to each of its problems were right, by place,
        over all processes."""
        if self.curriculum is not None:
            self.curriculum.observe(self._indices(done, len(right)), right, [answers] * len(right))
        self.asked += len(right)

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked, "curriculum": None if self.curriculum is None else self.curriculum.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.asked = state["asked"]
        if self.curriculum is not None and state["curriculum"] is not None:
            self.curriculum.load_state_dict(state["curriculum"])

    def _indices(self, done: int, count: int) -> Sequence[int]:
        """Positions in the source's stream of the first `count` problems of the step, the same in all processes."""
        if self.curriculum is None:
            return range(self.asked, self.asked + count)
        return self.curriculum.draw(done, count)

"""What goes into an engine and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from data.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Sampling:
    """How to sample. Names as in vLLM and TRL.

    n: completions per prompt (TRL's `num_generations`). temperature: 0 is greedy. top_k: 0 is off.
    seed: the completions are a function of (weights, prompt position, sample position, seed).
    first_position: position of the call's first prompt, where a call holds one process's share of a step.
    """

    n: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    first_position: int = 0


@dataclass(frozen=True)
class Rollout:
    """One sampled answer.

    prompt_ids: int64[P]. completion_ids: int64[C], with the end-of-sequence token if it was sampled.
    sampler_logprobs: float32[C], the engine's own log-probability of each sampled token under the
        distribution that it was drawn from, so after temperature, top-k and top-p: the behaviour policy of
        importance sampling. Greedy: of the model's own distribution (temperature 1).
    finish_reason: "stop" (end-of-sequence) or "length" (truncated).
    routing: int16[P + C - 1, L, K], the experts that the engine ran for every token that it read (all but the
        last) in each of the model's L routers; −1 where it does not know. None unless it was asked to record.
    """

    problem: Problem
    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    sampler_logprobs: np.ndarray
    finish_reason: str
    routing: np.ndarray | None = None


@dataclass(frozen=True)
class Group:
    """The G answers to one problem."""

    problem: Problem
    rollouts: tuple[Rollout, ...]


Done = Callable[[int, Group], None]


class EngineLost(RuntimeError):
    """The engine is gone, and with it what it was doing. The trainer's state is whole."""


class Engine(Protocol):
    """Where completions come from. `builtin` shares the trainer's weights, vLLM's copy must be synced.

    version: that of the last sync, 0 before the first.
    """

    name: str
    max_model_len: int
    version: int

    def generate(
        self,
        problems: Sequence[Problem],
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        done: Done | None = None,
    ) -> list[Group]:
        """One group of `sampling.n` rollouts per problem, in the order of the problems.

        done: called with each group and the position of its problem as soon as it is complete, while others are still
        sampled; in an order that is as much a function of what is asked as the groups are. What it raises ends the
        generation.
        """
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """float32[len - 1] per sequence: log-probability of each token after the first, at temperature 1."""
        ...

    def sync(self, model: PreTrainedModel, version: int) -> None:
        """Make the engine's weights those of `model` (the unwrapped trainer model)."""
        ...

    def sleep(self) -> None:
        """Give back what memory it can, until it is used again."""
        ...

    def close(self) -> None: ...

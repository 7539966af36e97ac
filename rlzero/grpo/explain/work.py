"""How one rollout is cut for training, found by cutting one of the expected lengths as the trainer would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.problem import Problem
from rlzero.grpo.batch import TrainingSample
from rlzero.grpo.microbatch import cut
from rlzero.rollout.types import Rollout

if TYPE_CHECKING:
    from rlzero.grpo.config import Recipe
    from rlzero.grpo.explain.lengths import Lengths
    from rlzero.grpo.explain.plan import Plan


@dataclass(frozen=True)
class Work:
    """Of one optimizer step and one process, with the expected lengths and every group trained on.

    prompt_tokens, completion_tokens: of its answers, each with its own prompt. run: tokens that the model runs, the
    prompt of a group once where that pays. at_most: those that it would run if every answer reached the limit.
    microbatches: forward and backward passes, whose gradients accumulate. largest: tokens of the largest.
    shared: whether prompts are run once.
    """

    prompt_tokens: float
    completion_tokens: float
    run: int
    at_most: int
    microbatches: int
    microbatches_at_most: int
    largest: int
    shared: bool


def cut_step(recipe: Recipe, plan: Plan, lengths: Lengths) -> Work:
    """Answers of all lengths in every group; `lengths.completions` is their distribution."""
    groups, answers = plan.prompts_per_step // plan.processes, plan.num_generations
    prompt = round(lengths.prompt)
    # The same spread in each group, moved by a part of a place so that the step has the whole distribution.
    everything = lengths.completions(groups * answers)
    expected = [everything[group::groups] for group in range(groups)]
    budget, shared = recipe.grpo.tokens_per_microbatch, recipe.grpo.shared_prefix
    bins = cut(_samples(prompt, expected), budget, shared)
    sizes = [sum(piece.tokens for piece in found) for found in bins]
    longest = cut(_samples(lengths.longest_prompt, [[lengths.limit] * answers] * groups), budget, shared)
    return Work(
        prompt_tokens=groups * answers * lengths.prompt,
        completion_tokens=groups * answers * lengths.completion,
        run=sum(sizes),
        at_most=sum(piece.tokens for found in longest for piece in found),
        microbatches=len(bins),
        microbatches_at_most=len(longest),
        largest=max(sizes),
        shared=any(len(piece.samples) > 1 for found in bins for piece in found),
    )


def _samples(prompt: int, completions: list[list[int]]) -> list[TrainingSample]:
    """One family of samples per row of completion lengths, each with a prompt of its own."""
    return [
        TrainingSample(Rollout(_NOBODY, ids, np.zeros(length, np.int8), _NO_LOGPROBS, "stop"), 1.0, 1.0)
        for group, row in enumerate(completions)
        for ids in [np.full(max(prompt, 1), group, np.int64)]
        for length in row
    ]


_NOBODY = Problem("", "")
_NO_LOGPROBS = np.zeros(0, np.float32)

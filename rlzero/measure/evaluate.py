"""Evaluating a model on problems: sample, score, and say how sure the figures are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from data.problem import Problem
from data.templates import Template
from rewards import extract_answer, verify
from rewards.registry import Reward, load_reward, score
from rlzero.measure.statistics import (
    Estimate,
    bootstrap,
    majority_right,
    paired_difference,
    pass_at_k,
    proportion,
)
from rlzero.measure.text import completion_text, encode_prompt, reward_columns
from rlzero.rollout.types import Engine, Rollout, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sample:
    """One completion and what was found in it.

    text: the assistant's whole turn. answer: what was extracted from it, None where there is none.
    right: whether the problem's scorer gave it 1.0. rewards: every reward by name, `format` among them.
    tokens: its length, the end-of-sequence token included. truncated: whether the limit ended it.
    """

    text: str
    answer: str | None
    right: bool
    rewards: Mapping[str, float | None]
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class EvalResult:
    """All samples of all problems, and the figures that follow from them.

    samples: samples[problem][sample], `sampling.n` each; none for a problem whose prompt does not fit into
    the model's context. Such a problem counts as never solved: leaving it out would flatter the model.
    """

    problems: tuple[Problem, ...]
    samples: tuple[tuple[Sample, ...], ...]
    template: Template
    sampling: Sampling

    @cached_property
    def right(self) -> list[list[float]]:
        """1.0 or 0.0 for each problem and sample."""
        n = self.sampling.n
        return [[float(s.right) for s in row] if row else [0.0] * n for row in self.samples]

    @cached_property
    def accuracies(self) -> list[float]:
        """Each problem's share of right samples."""
        return [sum(row) / len(row) for row in self.right]

    @property
    def too_long(self) -> int:
        """How many problems' prompts do not fit into the model's context."""
        return sum(not row for row in self.samples)

    def pass_at(self, k: int) -> Estimate:
        """Probability that one of k samples is right, averaged over problems. k=1 is the accuracy."""
        if k == 1:
            return proportion(self.right)
        values = [[pass_at_k(len(row), int(sum(row)), k)] for row in self.right]
        return proportion(values, trials=self.sampling.n // k)

    def majority(self) -> Estimate:
        """maj@n: how often the most frequent answer of a problem is right."""
        return self._majority

    def format(self) -> Estimate:
        """Share of completions written as the format reward asks."""
        return proportion([[s.rewards["format"] or 0.0 for s in row] for row in self._answered])

    def truncation(self) -> Estimate:
        """Share of completions that the token limit ended."""
        return proportion([[float(s.truncated) for s in row] for row in self._answered])

    def length(self) -> Estimate:
        """Mean length of the completions in tokens."""
        return bootstrap([sum(s.tokens for s in row) / len(row) for row in self._answered])

    def ks(self) -> list[int]:
        """The k of the pass@k that are reported: powers of two up to n, and n."""
        n = self.sampling.n
        return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})

    def estimates(self) -> dict[str, Estimate]:
        """Every figure with its interval, by the name under which it is reported."""
        found = {f"pass@{k}": self.pass_at(k) for k in self.ks()}
        if self.sampling.n > 1:
            found[f"maj@{self.sampling.n}"] = self.majority()
        return found | {"format": self.format(), "length": self.length(), "truncated": self.truncation()}

    def summary(self) -> dict[str, Any]:
        """Plain figures for a summary file: each value by name, and its 95% interval as `<name>_interval`."""
        estimates = self.estimates()
        return {
            **{name: e.value for name, e in estimates.items()},
            **{f"{name}_interval": [e.low, e.high] for name, e in estimates.items()},
            "problems": len(self.problems),
            "samples": self.sampling.n,
        }

    @cached_property
    def _majority(self) -> Estimate:
        return proportion(
            [
                [
                    majority_right(
                        [s.answer for s in row],
                        [s.right for s in row],
                        verify if problem.scorer == "accuracy" else str.__eq__,
                    )
                ]
                for problem, row in zip(self.problems, self.samples, strict=True)
            ]
        )

    @property
    def _answered(self) -> list[tuple[Sample, ...]]:
        return [row for row in self.samples if row]


def evaluate(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    template: Template,
    sampling: Sampling,
    rewards: Sequence[Reward] = (),
    max_model_len: int | None = None,
) -> EvalResult:
    """Sample `sampling.n` completions of every problem and score them.

    A completion is right when the problem's own scorer gives it 1.0, whatever `rewards` a run trains on;
    those and `format` are recorded beside it. max_model_len: problems whose prompt leaves no room within so
    many tokens are not sampled and count as never solved; None leaves it to the engine, which refuses them.
    Raises ValueError when there is no problem, or none that fits.
    """
    if not problems:
        raise ValueError("an evaluation needs at least one problem, got none. Check the task and the limit.")
    prompts = [encode_prompt(template, problem.prompt, tokenizer) for problem in problems]
    fits = [max_model_len is None or len(ids) < max_model_len for ids in prompts]
    chosen = [i for i, fit in enumerate(fits) if fit]
    if not chosen:
        raise ValueError(
            f"no prompt fits into the model's {max_model_len} tokens: the shortest of {len(prompts)} has "
            f"{min(map(len, prompts))}. Choose a shorter template or a model with a longer context."
        )
    groups = engine.generate([problems[i] for i in chosen], [prompts[i] for i in chosen], sampling)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    scored = iter(score_rollouts(rollouts, tokenizer, template, rewards))
    samples = tuple(tuple(next(scored) for _ in range(sampling.n)) if fit else () for fit in fits)
    return EvalResult(tuple(problems), samples, template, sampling)


def compare(base: EvalResult, trained: EvalResult) -> Estimate:
    """How much pass@1 rose from `base` to `trained`, paired by problem."""
    if [p.prompt for p in base.problems] != [p.prompt for p in trained.problems]:
        raise ValueError(
            "base and trained model were evaluated on different problems, which cannot be paired. "
            "Evaluate both with the same task, limit and seed."
        )
    return paired_difference(base.accuracies, trained.accuracies)


def score_rollouts(
    rollouts: Sequence[Rollout],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    rewards: Sequence[Reward],
) -> list[Sample]:
    """Every rollout's text, whether its problem's own scorer finds it right, and its rewards."""
    problems = [rollout.problem for rollout in rollouts]
    texts = [completion_text(template, rollout, tokenizer) for rollout in rollouts]
    rendered = {id(p): p.prompt for p in problems}
    rendered = {key: template.render(question, tokenizer) for key, question in rendered.items()}
    prompts = [rendered[id(problem)] for problem in problems]
    ids = [rollout.completion_ids.tolist() for rollout in rollouts]
    recorded = list(rewards)
    if all(reward.name != "format" for reward in recorded):
        recorded.append(load_reward("format"))
    values = score(recorded, prompts, texts, reward_columns(problems), ids)
    right = [False] * len(rollouts)
    for scorer in dict.fromkeys(problem.scorer for problem in problems):
        own = [i for i, problem in enumerate(problems) if problem.scorer == scorer]
        reward = load_reward(scorer)
        known = [values[r.name] for r in recorded if r.function is reward.function]
        if known:
            given = [known[0][i] for i in own]
        else:
            given = score(
                [reward],
                [prompts[i] for i in own],
                [texts[i] for i in own],
                reward_columns([problems[i] for i in own]),
                [ids[i] for i in own],
            )[reward.name]
        for i, value in zip(own, given, strict=True):
            if value is None:
                raise ValueError(
                    f"scorer {scorer!r} has nothing to say about problem {problems[i].prompt[:80]!r}: it "
                    f"lacks what the scorer needs (its columns: {', '.join(problems[i].columns) or 'none'}). "
                    "Give the problem another scorer."
                )
            right[i] = value >= 1.0
    return [
        Sample(
            text=text,
            answer=extract_answer(text),
            right=right[i],
            rewards={name: row[i] for name, row in values.items()},
            tokens=len(rollouts[i].completion_ids),
            truncated=rollouts[i].finish_reason == "length",
        )
        for i, text in enumerate(texts)
    ]

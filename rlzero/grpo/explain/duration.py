"""The wall time of a step and of the run, by part, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlzero.grpo.config import Recipe
    from rlzero.grpo.explain.lengths import Lengths
    from rlzero.grpo.explain.plan import Plan
    from rlzero.grpo.explain.rates import Rates
    from rlzero.grpo.explain.work import Work


@dataclass(frozen=True)
class Duration:
    """generation, reward, training, sync: of a rollout with all of its updates. evaluations, start: of the run. ahead:
    the next rollout is generated while this one is trained on."""

    generation: float
    reward: float
    training: float
    sync: float
    evaluations: float
    start: float
    rollouts: int
    updates_per_rollout: int
    ahead: bool

    @property
    def rollout(self) -> float:
        if self.ahead:
            return max(self.generation + self.reward, self.training) + self.sync
        return self.generation + self.reward + self.training + self.sync

    @property
    def step(self) -> float:
        """An optimizer step with its share of the rollout."""
        return self.rollout / self.updates_per_rollout

    @property
    def run(self) -> float:
        return self.start + self.rollouts * self.rollout + self.evaluations


def estimate_duration(recipe: Recipe, plan: Plan, lengths: Lengths, work: Work, rates: Rates) -> Duration:
    """Evaluations are made by every process; a step's answers are shared between them."""
    rows, asked = recipe.rollout.max_num_seqs, 1.0
    if recipe.selection.dynamic_sampling:
        asked = min(1 / max(lengths.signal, 1e-9), plan.prompts_at_most / plan.prompts_per_rollout)
    answers = round(asked * plan.answers_per_rollout / plan.processes)
    prompts = asked * plan.prompts_per_rollout / plan.processes
    quick = generation_seconds(lengths, plan.quick_samples, recipe.run.eval_quick_problems, rows, rates)
    full = generation_seconds(lengths, plan.full_samples, recipe.run.eval_problems, rows, rates)
    scored = plan.evaluated_answers * rates.score
    return Duration(
        generation=generation_seconds(lengths, answers, prompts, rows, rates),
        reward=answers * rates.score,
        training=_training_seconds(recipe, plan, lengths, work, rates),
        # New weights, and a few answers scored by both sides.
        sync=rates.sync + 2 * rates.microbatch * rates.forward / max(recipe.rollout.sync_check_every, 1),
        evaluations=plan.full_evaluations * full + plan.quick_evaluations * quick + scored,
        start=rates.start,
        rollouts=plan.rollouts,
        updates_per_rollout=plan.updates_per_rollout,
        ahead=plan.rollouts_ahead > 0,
    )


def generation_seconds(lengths: Lengths, answers: int, prompts: float, rows: int, rates: Rates) -> float:
    """Every token is a sequence in some step, and each batch of `rows` sequences takes as many steps as its longest
    answer has tokens. A prompt is read once, and what is left after its whole blocks once more for each further
    answer."""
    if not answers:
        return 0.0
    steps = -(-answers // rows) * lengths.completions(min(answers, rows))[-1]
    read = prompts * lengths.prompt + (answers - prompts) * (round(lengths.prompt) % rates.block)
    tokens = answers * lengths.completion
    return read * rates.prompt + tokens * rates.row + steps * rates.step + answers * rates.answer


def _training_seconds(recipe: Recipe, plan: Plan, lengths: Lengths, work: Work, rates: Rates) -> float:
    """Of all updates on a rollout: passes with gradients, and those without, for the reference and old policy."""
    tokens, microbatches = lengths.signal * work.run, max(1.0, lengths.signal * work.microbatches)
    once = tokens * rates.token + microbatches * rates.microbatch
    updates = plan.updates_per_rollout
    moved = sum(recipe.grpo.meets_moved_policy(minibatch) for minibatch in range(plan.minibatches))
    old = moved if recipe.old_logprobs == "auto" else 0
    if recipe.objective.top_entropy_quantile < 1:
        old = plan.minibatches
    if recipe.reference.in_reward:
        old += plan.minibatches
    ref = plan.minibatches if recipe.reference.beta else 0
    return updates * (once + rates.optimizer) + (old + ref) * rates.forward * once

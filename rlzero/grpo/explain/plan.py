"""What a recipe does, in numbers that follow from its settings alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from rlzero.grpo.combinations import check_processes, most_groups
from rlzero.grpo.config import Recipe
from rlzero.grpo.trainer import passed


@dataclass(frozen=True)
class Plan:
    """Counts over all processes, where nothing else is said.

    prompts_per_step, prompts_per_rollout, prompts_at_most: problems of an optimizer step, of a rollout, and the most
    that a rollout asks for (dynamic sampling). rollouts_ahead: how many are sampled before they are trained on, beside
    the one that is. full_evaluations: before and after; quick_evaluations: between; samples: answers of one.
    checkpoints: written in turn. prompts_per_process: of a rollout.
    """

    processes: int
    prompts_per_step: int
    prompts_per_rollout: int
    prompts_at_most: int
    num_generations: int
    minibatches: int
    iterations: int
    steps: int
    rollouts_ahead: int
    rollouts: int
    full_evaluations: int
    full_samples: int
    quick_evaluations: int
    quick_samples: int
    checkpoints: int
    prompts_per_process: int

    @property
    def updates_per_rollout(self) -> int:
        return self.minibatches * self.iterations

    @property
    def staleness(self) -> int:
        """Optimizer steps between the policy that sampled an answer and the one that last learns from it, at most."""
        return min(self.updates_per_rollout * (1 + self.rollouts_ahead), self.steps) - 1

    @property
    def answers_per_step(self) -> int:
        return self.prompts_per_step * self.num_generations

    @property
    def answers_per_rollout(self) -> int:
        return self.prompts_per_rollout * self.num_generations

    @property
    def answers(self) -> int:
        """Of the whole training, without evaluations and what dynamic sampling asks again."""
        return self.rollouts * self.answers_per_rollout

    @property
    def evaluated_answers(self) -> int:
        return self.full_evaluations * self.full_samples + self.quick_evaluations * self.quick_samples


def make_plan(recipe: Recipe, processes: int) -> Plan:
    """Raises ConfigError where groups cannot be shared out evenly, as the run itself would."""
    grpo, run = recipe.grpo, recipe.run
    check_processes(recipe, processes)
    rollouts = -(-grpo.max_steps // grpo.updates_per_rollout)
    ends = [min(done * grpo.updates_per_rollout, grpo.max_steps) for done in range(rollouts + 1)]
    spans = list(pairwise(ends))
    quick = sum(passed(run.eval_steps, before, after) and after < grpo.max_steps for before, after in spans)
    return Plan(
        processes=processes,
        prompts_per_step=grpo.prompts_per_step,
        prompts_per_rollout=grpo.prompts_per_rollout,
        prompts_at_most=most_groups(recipe),
        num_generations=recipe.rollout.num_generations,
        minibatches=grpo.steps_per_generation,
        iterations=grpo.num_iterations,
        steps=grpo.max_steps,
        rollouts_ahead=grpo.max_async_level,
        rollouts=rollouts,
        full_evaluations=2 if run.eval_problems else 0,
        full_samples=run.eval_problems * run.eval_samples,
        quick_evaluations=quick if run.eval_quick_problems else 0,
        quick_samples=run.eval_quick_problems * run.eval_quick_samples,
        checkpoints=sum(passed(run.save_steps, before, after) for before, after in spans),
        prompts_per_process=grpo.prompts_per_rollout // processes,
    )

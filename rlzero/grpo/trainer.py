"""Group Relative Policy Optimization: one step, read beside Algorithm 1 of DeepSeekMath (2402.03300)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from rlzero.grpo.advantage import ADVANTAGES, informative
from rlzero.grpo.aggregate import AGGREGATIONS
from rlzero.grpo.ahead import Ahead, Answer
from rlzero.grpo.batch import ScoredGroup, TrainingSample
from rlzero.grpo.clock import Clock
from rlzero.grpo.combinations import most_groups
from rlzero.grpo.config import Recipe
from rlzero.grpo.dynamic_sampling import DynamicSampling
from rlzero.grpo.loss import TOKEN_WEIGHTS, StepCounts
from rlzero.grpo.overlap import generate_and_score
from rlzero.grpo.overlong import loss_lengths
from rlzero.grpo.problems import ProblemFeed, Request
from rlzero.grpo.sampled import Sampled
from rlzero.grpo.schedule import length_at
from rlzero.grpo.scoring import Scorer, teaches
from rlzero.grpo.update import Minibatch, TrainingError, Updater
from rlzero.rollout.sync_check import SyncError, check_sync, default_tolerance
from rlzero.rollout.types import Engine, EngineLost, Sampling

# A weight sync is verified with the first completions of so many groups: enough to see any wrong weight, and cheap.
CHECK_SEQUENCES = 4


@dataclass(frozen=True)
class StepResult:
    """What a rollout and its updates did. step: optimizer steps done. groups: of this process, all that were sampled;
    advantages float32[N, G], NaN for groups that were not trained on. Statistics of sampling and update; seconds."""

    step: int
    groups: list[ScoredGroup]
    advantages: np.ndarray
    update: dict[str, float]
    seconds: dict[str, float]


class GRPOTrainer:
    """The policy and everything it learns with, and the number of optimizer steps done."""

    def __init__(
        self, recipe: Recipe, accelerator: Accelerator, model: PreTrainedModel, engine: Engine, feed: ProblemFeed,
        scorer: Scorer, pad_id: int,
    ) -> None:  # fmt: skip
        self.recipe, self.accelerator, self.engine = recipe, accelerator, engine
        self.feed, self.scorer = feed, scorer
        self.plan = DynamicSampling(recipe.grpo.prompts_per_rollout, most_groups(recipe), accelerator.num_processes)
        self.updater = Updater(recipe, accelerator, model, pad_id)
        self.model, self.scheduler = self.updater.model, self.updater.scheduler
        self.ahead = Ahead(accelerator.device) if recipe.grpo.max_async_level else None
        self.done = 0
        self._out_of_sync: SyncError | None = None

    def step(self) -> StepResult:
        """Sample, score, compare within groups, update, and hand the new weights to the engine."""
        clock, grpo = Clock(), self.recipe.grpo
        updates = min(grpo.updates_per_rollout, grpo.max_steps - self.done)
        sampled = self.sample(clock)
        self.sample_ahead(sampled.asked, updates)
        with clock("train"):
            own, ranks = sampled.trained(self.chosen(sampled))
            advantages_NG, minibatches, figures = self.compare([sampled.groups[i] for i in own], ranks)
            figures |= self.updater.update(minibatches, updates) | self.statistics(sampled)
        self.finish(sampled, updates)
        self.rest(clock)
        with clock("sync"):
            figures["sync_diff"] = self.sync(sampled.groups)
        shown_NG = np.full((len(sampled.groups), self.recipe.rollout.num_generations), np.nan, dtype=np.float32)
        shown_NG[own] = advantages_NG.numpy()
        return StepResult(self.done, sampled.groups, shown_NG, figures, clock.seconds)

    def sample(self, clock: Clock) -> Sampled:
        """Scored groups until the plan has enough: at once, or with dynamic sampling request after request."""
        sampled = Sampled()
        while count := self.plan.more(sampled.asked, sampled.found):
            request = self.feed.take(self.done, sampled.asked, count)
            if self.ahead is None:
                answer = self.answer(request, self.done, clock)
            else:
                with clock("generate"):
                    answer = self.ahead.take(partial(self.answer, request, self.done, Clock()))
            sampled.add(answer.scored, answer.useful, request.first, self._gather)
            sampled.staleness = self.done - answer.version
        self.engine.sleep()
        return sampled

    def sample_ahead(self, asked: int, updates: int) -> None:
        """Begin with the rollout of the step after this one, which asks so many problems and makes so many updates."""
        done = self.done + updates
        if self.ahead is not None and done < self.recipe.grpo.max_steps:
            request = self.feed.take(done, asked, self.recipe.grpo.prompts_per_rollout)
            request = replace(request, first=request.first - asked)
            self.ahead.start(partial(self.answer, request, done, Clock()))

    def answer(self, request: Request, done: int, clock: Clock) -> Answer:
        """Generate, with the weights that the engine has, and score what the step after `done` steps asks."""
        if self.ahead is not None and (saved := self.ahead.saved(request)):
            return saved
        version, sampling = self.engine.version, self.sampling(request.first, done)
        scored = generate_and_score(self.engine, self.scorer, request, sampling, clock)
        useful = teaches(*self.scorer.compared(scored, self.recipe.reward.multi_objective_aggregation))
        return Answer(scored, useful.tolist(), version)

    def sampling(self, first: int, done: int) -> Sampling:
        """How a step samples: the seed is a function of run seed and steps done, the position of the whole step."""
        rollout = self.recipe.rollout
        return Sampling(
            n=rollout.num_generations,
            max_tokens=length_at(rollout.length_schedule, done),
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            seed=derived_seed(self.recipe.run.seed, "step", done),
            first_position=first,
        )

    def chosen(self, sampled: Sampled) -> Sequence[int]:
        """Places of the groups that are trained on."""
        if self.recipe.selection.dynamic_sampling:
            return self.plan.chosen(sampled.signal)
        return range(sampled.asked)

    def compare(
        self, scored: Sequence[ScoredGroup], ranks: Sequence[int]
    ) -> tuple[Tensor, list[Minibatch], dict[str, float]]:
        """Advantages float32[N, G]; the minibatches, of the answers that have a part in the loss; figures.

        ranks: each group's position among all that are trained on, over all processes. Minibatches take them in turn,
        so that every process has its share of each.
        """
        objective = self.recipe.objective
        advantages_NG, figures = self.advantages(scored)
        learns_N = informative(advantages_NG) | self.recipe.learns_from_every_answer
        turns = [rank % self.recipe.grpo.steps_per_generation for rank in ranks]
        lengths_NG = [loss_lengths(s.group.rollouts, objective.mask_truncated_completions) for s in scored]
        counts, masked = self.count(lengths_NG, turns)
        minibatches = [Minibatch([], count) for count in counts]
        for group, advantages, lengths, learns, turn in zip(
            scored, advantages_NG.tolist(), lengths_NG, learns_N.tolist(), turns, strict=True
        ):
            if learns:
                weights = TOKEN_WEIGHTS[objective.loss_type](torch.tensor(lengths, dtype=torch.float32), counts[turn])
                rows = zip(group.group.rollouts, advantages, weights.tolist(), lengths, strict=True)
                minibatches[turn].samples.extend(TrainingSample(*row) for *row, length in rows if length)
        return advantages_NG, minibatches, figures | masked

    def advantages(self, scored: Sequence[ScoredGroup]) -> tuple[Tensor, dict[str, float]]:
        """float32[N, G], by the settings; and the KL of a token where it is part of the reward."""
        objective, reference = self.recipe.objective, self.recipe.reference
        aggregation, figures = self.recipe.reward.multi_objective_aggregation, {}
        rewards_NGK, weights_K = self.scorer.compared(scored, aggregation)
        if reference.in_reward:
            rollouts = [rollout for s in scored for rollout in s.group.rollouts]
            kl_NG = self.updater.kl(rollouts).view(rewards_NGK.shape[:2])
            rewards_NGK = rewards_NGK - reference.beta * kl_NG[..., None]
            total, tokens = self._sum_over_processes([float(kl_NG.sum()), sum(len(r.completion_ids) for r in rollouts)])
            figures["kl"] = total / max(tokens, 1)
        scale = {} if objective.scale_rewards is None else {"scale": objective.scale_rewards}
        advantage = partial(ADVANTAGES[objective.advantage], reduce=self._reduce, **scale)
        try:
            return AGGREGATIONS[aggregation](rewards_NGK, weights_K, advantage, self._reduce), figures
        except ValueError as error:
            raise TrainingError(str(error)) from None

    def count(
        self, lengths_NG: Sequence[Sequence[int]], turns: Sequence[int]
    ) -> tuple[list[StepCounts], dict[str, float]]:
        """What each minibatch holds over all processes, groups without signal included; the share of masked answers."""
        steps = self.recipe.grpo.steps_per_generation
        own = np.zeros((steps, 3), dtype=np.int64)
        for lengths, turn in zip(lengths_NG, turns, strict=True):
            own[turn] += (len(lengths), sum(lengths), lengths.count(0))
        totals = np.array(self._sum_over_processes(own.ravel())).reshape(steps, 3)
        longest, processes = self.recipe.rollout.max_completion_length, self.accelerator.num_processes
        counts = [
            StepCounts(int(sequences), int(tokens), longest, processes, int(local))
            for (sequences, tokens, _), local in zip(totals, own[:, 1], strict=True)
        ]
        if not self.recipe.objective.mask_truncated_completions:
            return counts, {}
        return counts, {"masked": float(totals[:, 2].sum() / max(totals[:, 0].sum(), 1))}

    def statistics(self, sampled: Sampled) -> dict[str, float]:
        """Of the sampling, where it is not always the same."""
        found: dict[str, float] = {}
        if self.recipe.rollout.max_completion_length_schedule is not None:
            found["completion_limit"] = float(length_at(self.recipe.rollout.length_schedule, self.done))
        if self.ahead is not None:
            found["sampling/staleness"] = float(sampled.staleness)
        if self.recipe.selection.dynamic_sampling:
            found |= self.plan.statistics(sampled.asked, sampled.found)
            found["sampling/refills"] = float(sampled.requests - 1)
        return found

    def finish(self, sampled: Sampled, updates: int) -> None:
        """The updates are made: what the next step starts from."""
        reference, before = self.recipe.reference, self.done
        self.feed.finish(before, sampled.right, self.recipe.rollout.num_generations)
        self.done += updates
        if reference.sync_ref_model and passed(reference.ref_model_sync_steps, before, self.done):
            self.updater.move_reference(reference.ref_model_mixup_alpha)

    def rest(self, clock: Clock) -> None:
        """Until the engine does nothing: where it samples ahead, the rest of that is time that no update hid."""
        if self.ahead is not None:
            with clock("generate"):
                self.ahead.rest()

    def sync(self, scored: Sequence[ScoredGroup]) -> float:
        """New weights to the engine; every Nth time both sides score a few completions. Returns mean |Δlogprob|; what
        is wrong with it `check_going_on` says, when the step is recorded."""
        model, every = self.accelerator.unwrap_model(self.model), self.recipe.rollout.sync_check_every
        try:
            self.engine.sync(model, self.done)
            if not every or math.ceil(self.done / self.recipe.grpo.updates_per_rollout) % every:
                return 0.0
            rollouts = [s.group.rollouts[0] for s in scored[:CHECK_SEQUENCES]]
            sequences = [np.concatenate([r.prompt_ids, r.completion_ids]).tolist() for r in rollouts]
            return check_sync(self.engine, model, sequences, self.sync_tolerance, autocast_dtype=self.autocast_dtype)
        except EngineLost as error:
            if self.accelerator.num_processes > 1:  # the others have gone on to the check, and would wait there
                raise
            self._out_of_sync = SyncError(str(error), math.nan)
        except SyncError as error:
            self._out_of_sync = error
        return self._out_of_sync.difference

    def check_going_on(self) -> None:
        """Raise SyncError where the engine has other weights than the trainer, and StuckError where too many steps in
        a row were skipped. The step before is done."""
        if self._out_of_sync is not None:
            raise self._out_of_sync
        self.updater.check_going_on()

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What accelerate computes in, where that is not the weights' own dtype."""
        return {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.accelerator.mixed_precision]

    @property
    def sync_tolerance(self) -> float:
        dtype = self.accelerator.unwrap_model(self.model).dtype
        wanted = self.recipe.rollout.sync_tolerance
        return default_tolerance(dtype, self.autocast_dtype or dtype) if wanted is None else wanted

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds beside model, optimizer, schedule and reference."""
        return {
            "feed": self.feed.state_dict(),
            "skipped_in_a_row": self.updater.skipped_in_a_row,
            "ahead": None if self.ahead is None else self.ahead.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.feed.load_state_dict(state["feed"])
        self.updater.skipped_in_a_row = state["skipped_in_a_row"]
        if self.ahead is not None:
            self.ahead.load_state_dict(state["ahead"])

    def close(self) -> None:
        """End what is underway, and the engine."""
        if self.ahead is not None:
            self.ahead.close()
        self.engine.close()

    def _gather(self, own: Tensor) -> Tensor:
        return self.accelerator.gather(own.to(self.accelerator.device)).cpu()

    def _reduce(self, own: Tensor) -> Tensor:
        """The sum over all processes, on the CPU."""
        return self.accelerator.reduce(own.to(self.accelerator.device), "sum").cpu()

    def _sum_over_processes(self, values: Sequence[float] | np.ndarray) -> list[float]:
        return self._reduce(torch.tensor([float(v) for v in values], dtype=torch.float64)).tolist()


def passed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]. Never for 0."""
    return bool(every) and after // every > before // every


def derived_seed(seed: int, *path: object) -> int:
    """A seed of 63 bits that depends on every part, so that no two uses of a run share a stream."""
    digest = blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

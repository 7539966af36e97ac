"""Group Relative Policy Optimization: one step, read beside Algorithm 1 of DeepSeekMath (2402.03300)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, get_scheduler

from rlzero.grpo.advantage import ADVANTAGES, has_signal
from rlzero.grpo.batch import Batch, ScoredGroup, TrainingSample, filler, pack
from rlzero.grpo.config import ConfigError, Recipe
from rlzero.grpo.loss import LOSSES, StepCounts, clipped_objective
from rlzero.grpo.mismatch import mismatch_sums
from rlzero.grpo.moe import ExpertRouting, prepare_experts
from rlzero.grpo.policy import policy_logprobs
from rlzero.grpo.problems import ProblemFeed
from rlzero.grpo.scoring import Scorer
from rlzero.rollout.sync_check import check_sync, default_tolerance
from rlzero.rollout.types import Engine, Sampling

# A weight sync is verified with the first completions of so many groups: enough to see any wrong weight, and cheap.
CHECK_SEQUENCES = 4


class TrainingError(RuntimeError):
    """The run cannot go on: the message says what happened and what to try."""


@dataclass(frozen=True)
class StepResult:
    """What one step did: its scored groups with their advantages float32[N, G], update statistics and seconds."""

    step: int
    groups: list[ScoredGroup]
    advantages: np.ndarray
    update: dict[str, float]
    seconds: dict[str, float]


class GRPOTrainer:
    """The policy, its optimizer and schedule, and the number of steps done."""

    def __init__(
        self, recipe: Recipe, accelerator: Accelerator, model: PreTrainedModel, engine: Engine, feed: ProblemFeed,
        scorer: Scorer, pad_id: int,
    ) -> None:  # fmt: skip
        self.recipe, self.accelerator, self.engine = recipe, accelerator, engine
        self.feed, self.scorer, self.pad_id = feed, scorer, pad_id
        grpo = recipe.grpo
        if grpo.prompts_per_step % accelerator.num_processes:
            raise ConfigError(
                f"prompts_per_step={grpo.prompts_per_step} must be a multiple of the "
                f"{accelerator.num_processes} processes, since a group stays on one of them."
            )
        prepare_experts(model)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=grpo.learning_rate, betas=(grpo.adam_beta1, grpo.adam_beta2),
            weight_decay=grpo.weight_decay,
        )  # fmt: skip
        self.scheduler = get_scheduler(
            grpo.lr_scheduler_type, optimizer, grpo.warmup_steps, grpo.max_steps * grpo.num_iterations
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.model.train()
        self.experts = ExpertRouting(accelerator, self.model, grpo)
        accelerator.register_for_checkpointing(self.scheduler)
        self.done = 0

    def step(self) -> StepResult:
        """Sample, score, compare within groups, update, and hand the new weights to the engine."""
        clock = Clock()
        with clock("generate"):
            problems, prompt_ids = self.feed.step(self.done)
            groups = self.engine.generate(problems, prompt_ids, self.sampling())
        with clock("reward"):
            scored = self.scorer.score(groups)
        with clock("train"):
            advantages, samples, counts = self.compare(scored)
            update = self.update(samples, counts)
        self.done += 1
        with clock("sync"):
            update["sync_diff"] = self.sync(scored)
        return StepResult(self.done, scored, advantages.numpy(), update, clock.seconds)

    def sampling(self) -> Sampling:
        """How this step samples: the seed is a function of run seed and step, the position of the whole step."""
        rollout = self.recipe.rollout
        return Sampling(
            n=rollout.num_generations,
            max_tokens=rollout.max_completion_length,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            seed=derived_seed(self.recipe.run.seed, "step", self.done),
            first_position=self.feed.offset,
        )

    def compare(self, scored: Sequence[ScoredGroup]) -> tuple[torch.Tensor, list[TrainingSample], StepCounts]:
        """Advantages float32[N, G], and the samples that have a gradient, each with its weight in the loss."""
        grpo = self.recipe.grpo
        rewards_NG = torch.tensor(np.stack([s.total for s in scored]), dtype=torch.float32)
        advantages_NG = ADVANTAGES[grpo.advantage](rewards_NG)
        rollouts = [s.group.rollouts for s in scored]
        tokens = sum(len(r.completion_ids) for group in rollouts for r in group)
        totals = self._sum_over_processes([rewards_NG.numel(), tokens])
        counts = StepCounts(int(totals[0]), int(totals[1]), self.recipe.rollout.max_completion_length)
        samples = []
        for group, advantages, signal in zip(rollouts, advantages_NG, has_signal(rewards_NG), strict=True):
            if signal:
                lengths = torch.tensor([len(r.completion_ids) for r in group], dtype=torch.float32)
                weights = LOSSES[grpo.loss_type](lengths, counts)
                samples += [
                    TrainingSample(*row) for row in zip(group, advantages.tolist(), weights.tolist(), strict=True)
                ]
        return advantages_NG, samples, counts

    def update(self, samples: Sequence[TrainingSample], counts: StepCounts) -> dict[str, float]:
        """`num_iterations` optimizer steps on the samples; statistics of the last."""
        batches = self._as_many_everywhere(pack(samples, self.recipe.grpo.tokens_per_microbatch, self.pad_id))
        old = self._old_logprobs(batches) if self.recipe.grpo.num_iterations > 1 else [None] * len(batches)
        stats: dict[str, float] = {}
        for _ in range(self.recipe.grpo.num_iterations):
            sums = UpdateSums()
            for i, batch in enumerate(batches):
                last = i == len(batches) - 1
                shared = nullcontext() if last else self.accelerator.no_sync(self.model)
                with shared, self.experts.update(batch):
                    sums.add(self._backward(batch, old[i]))
            if batches:
                grad_norm = self._optimizer_step()
            else:
                # Without gradients it changes nothing; the schedule goes on.
                grad_norm = 0.0
                self.optimizer.step()
            self.scheduler.step()
            stats = sums.means(self._sum_over_processes(sums.values)) | {"grad_norm": grad_norm}
            stats |= self.experts.finish()
        return stats

    def _backward(self, batch: Batch, old_logprobs: torch.Tensor | None) -> list[torch.Tensor]:
        """Gradient of one microbatch. Returns the sums that `UpdateSums` keeps."""
        grpo, mask = self.recipe.grpo, batch.completion_mask
        logprobs, entropy = policy_logprobs(self.model, batch, self.recipe.rollout.temperature)
        old_logprobs = logprobs.detach() if old_logprobs is None else old_logprobs
        token_loss, clipped = clipped_objective(
            logprobs, old_logprobs, batch.advantages, grpo.epsilon, grpo.epsilon_high or grpo.epsilon
        )
        loss = (token_loss * mask * batch.weights[:, None]).sum()
        # DDP and FSDP average gradients over processes; the weights already count all of them.
        self.accelerator.backward(loss * self.accelerator.num_processes)
        sums = [loss.detach(), mask.sum(), (entropy * mask).sum(), (clipped & mask).sum()]
        return [*sums, *mismatch_sums(logprobs.detach() - batch.sampler_logprobs, mask)]

    @torch.no_grad()
    def _old_logprobs(self, batches: Sequence[Batch]) -> list[torch.Tensor | None]:
        found: list[torch.Tensor | None] = []
        for batch in batches:
            with self.experts.replay(batch):
                found.append(policy_logprobs(self.model, batch, self.recipe.rollout.temperature)[0])
        return found

    def _optimizer_step(self) -> float:
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.grpo.max_grad_norm)
        grad_norm = float(norm)
        if not np.isfinite(grad_norm):
            raise TrainingError(
                f"the gradient norm is {grad_norm} at step {self.done + 1}, and an update would destroy the weights. "
                "Lower learning_rate, or look for a reward or log-probability that is not finite."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return grad_norm

    def sync(self, scored: Sequence[ScoredGroup]) -> float:
        """New weights to the engine; every Nth time both sides score a few completions. Returns mean |Δlogprob|."""
        model = self.accelerator.unwrap_model(self.model)
        self.engine.sync(model, self.done)
        every = self.recipe.rollout.sync_check_every
        if not every or self.done % every:
            return 0.0
        rollouts = [s.group.rollouts[0] for s in scored[:CHECK_SEQUENCES]]
        sequences = [np.concatenate([r.prompt_ids, r.completion_ids]).tolist() for r in rollouts]
        return check_sync(self.engine, model, sequences, self.sync_tolerance, autocast_dtype=self.autocast_dtype)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What accelerate computes in, where that is not the weights' own dtype."""
        return {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.accelerator.mixed_precision]

    @property
    def sync_tolerance(self) -> float:
        dtype = self.accelerator.unwrap_model(self.model).dtype
        wanted = self.recipe.rollout.sync_tolerance
        return default_tolerance(dtype, self.autocast_dtype or dtype) if wanted is None else wanted

    def _as_many_everywhere(self, batches: list[Batch]) -> list[Batch]:
        """Every process must run as many forward passes as the one with most; without signal anywhere, none."""
        count = torch.tensor([len(batches)], device=self.accelerator.device)
        most = int(self.accelerator.gather(count).max())
        batches = batches + [filler(batches[0] if batches else None, self.pad_id)] * (most - len(batches))
        return [batch.to(self.accelerator.device) for batch in batches]

    def _sum_over_processes(self, values: Sequence[float]) -> list[float]:
        vector = torch.tensor([float(v) for v in values], dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(vector, "sum").tolist()


class UpdateSums:
    """Running sums of one update; the largest difference is kept apart, since it does not add."""

    def __init__(self) -> None:
        self.values, self.largest = [0.0] * 7, 0.0

    def add(self, sums: Sequence[torch.Tensor]) -> None:
        *added, largest = [float(s) for s in sums]
        self.values = [a + b for a, b in zip(self.values, added, strict=True)]
        self.largest = max(self.largest, largest)

    def means(self, totals: Sequence[float]) -> dict[str, float]:
        loss, tokens, entropy, clipped, difference, kl, far = totals
        if not tokens:
            return {"loss": 0.0, "trained_tokens": 0.0}
        return {
            "loss": loss,
            "trained_tokens": tokens,
            "entropy": entropy / tokens,
            "clip_ratio": clipped / tokens,
            "logprob_diff": difference / tokens,
            "mismatch_kl": kl / tokens,
            "ratio_above_2": far / tokens,
            "logprob_diff_max": self.largest,
        }


class Clock:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def derived_seed(seed: int, *path: object) -> int:
    """A seed of 63 bits that depends on every part, so that no two uses of a run share a stream."""
    digest = blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

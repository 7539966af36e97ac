"""The optimizer's side of a step: from answers with advantages to new weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel, get_scheduler

from rlzero.grpo.batch import Batch, TrainingSample, filler, pack
from rlzero.grpo.config import Recipe
from rlzero.grpo.entropy import entropy_bonus, entropy_threshold
from rlzero.grpo.kl import kl_in_reward
from rlzero.grpo.loss import StepCounts
from rlzero.grpo.mismatch import mismatch_sums
from rlzero.grpo.moe import ExpertRouting, prepare_experts
from rlzero.grpo.objective_config import loss_options
from rlzero.grpo.policy import policy_logprobs, prepare_policy
from rlzero.grpo.processes import prepare
from rlzero.grpo.reference import Reference, make_reference
from rlzero.grpo.sequences import Rows
from rlzero.grpo.token_loss import Logprobs, token_loss
from rlzero.grpo.update_stats import UpdateStats
from rlzero.models.chance import remove_chance
from rlzero.models.compiled import CompiledLayers
from rlzero.report.run_dir import RunDirectory
from rlzero.rollout.types import Rollout


class TrainingError(RuntimeError):
    """The run cannot go on: the message says what happened and what to try."""


class StuckError(TrainingError):
    """Step after step could not be made. The state is whole, and the last of them is done."""


@dataclass(frozen=True)
class Minibatch:
    """What an optimizer step is made of: this process's answers that have a part in the loss, and the counts of all."""

    samples: list[TrainingSample]
    counts: StepCounts


@dataclass(frozen=True)
class Microbatch:
    """A batch with what is computed once per rollout, before its first update; None where nobody asks for it.

    old, ref: float32[R, T] log-probabilities of the policy then and of the reference. entropies: float32[R, T] of the
    policy then, by which tokens are chosen.
    """

    batch: Batch
    old: Tensor | None
    ref: Tensor | None
    entropies: Tensor | None


@dataclass(frozen=True)
class Prepared:
    """A minibatch, packed. threshold: the entropy from which tokens are learned from, −inf for all."""

    microbatches: list[Microbatch]
    threshold: float
    counts: StepCounts


class Updater:
    """The policy, its optimizer, schedule and reference."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, model: PreTrainedModel, pad_id: int) -> None:
        self.recipe, self.accelerator, self.pad_id = recipe, accelerator, pad_id
        grpo = recipe.grpo
        prepare_experts(model)
        remove_chance(model)
        self.packed = prepare_policy(model)
        compiles, backend = recipe.model.torch_compile, recipe.model.torch_compile_backend
        self._compiled = CompiledLayers(model, backend).in_place if compiles else nullcontext
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=grpo.learning_rate, betas=(grpo.adam_beta1, grpo.adam_beta2),
            weight_decay=grpo.weight_decay,
        )  # fmt: skip
        self.scheduler = get_scheduler(grpo.lr_scheduler_type, optimizer, grpo.warmup_steps, grpo.max_steps)
        self.model, self.optimizer = prepare(accelerator, model, optimizer)
        self.model.train()
        self.experts = ExpertRouting(accelerator, self.model, grpo)
        self.reference = make_reference(accelerator, self.model, recipe) if recipe.reference.beta else None
        self.skipped_in_a_row = 0
        self._loss_options = loss_options(recipe.objective, recipe.reference, recipe.correction)

    def update(self, minibatches: Sequence[Minibatch], most: int) -> dict[str, float]:
        """An optimizer step on each minibatch, `num_iterations` times over, `most` steps at most; their statistics."""
        stats, figures = UpdateStats(self.accelerator), {}
        with self._compiled():
            prepared = self._prepare(minibatches)
            for step in (prepared * self.recipe.grpo.num_iterations)[:most]:
                figures = self._step(step, stats)
        return stats.means() | figures

    def _step(self, step: Prepared, stats: UpdateStats) -> dict[str, float]:
        """One optimizer step. Returns the experts' figures."""
        measured = []
        for i, rows in enumerate(step.microbatches):
            # Whole gradients would be the largest part of a sharded model's memory: they are shared out at once.
            shares = i == len(step.microbatches) - 1 or self.accelerator.is_fsdp2
            shared = nullcontext() if shares else self.accelerator.no_sync(self.model)
            with shared, self.experts.update(rows.batch):
                measured.append(self._backward(rows, step))
        learns = not measured or self._accept(step, stats, measured)
        # Without gradients it changes nothing; the schedule goes on.
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        if not measured:
            stats.idle()
        return self.experts.finish(learns)

    def _accept(self, step: Prepared, stats: UpdateStats, measured: Sequence[Mapping[str, Tensor]]) -> bool:
        """Count the update; where loss or gradient is not finite, drop its gradients and keep its batch."""
        figures, grad_norm = stats.everywhere(measured), self._clipped_norm()
        if np.isfinite([figures["loss"], grad_norm]).all():
            stats.add(figures, grad_norm)
            self.skipped_in_a_row = 0
            return True
        stats.skip()
        self.skipped_in_a_row += 1
        self.optimizer.zero_grad()
        self._keep(step, {"loss": figures["loss"], "grad_norm": grad_norm})
        return False

    def _backward(self, rows: Microbatch, step: Prepared) -> dict[str, Tensor]:
        """Gradient of one microbatch. Returns its figures, as `UpdateStats` takes them."""
        objective, batch, mask = self.recipe.objective, rows.batch, rows.batch.completion_mask
        logprobs, entropies = policy_logprobs(
            self.model, batch, self.recipe.rollout.temperature, entropy_gradient=objective.entropy_coef > 0
        )
        present = logprobs.detach()
        # A sampler may not know the log-probability of a token (NaN).
        old = present if rows.old is None else torch.where(rows.old.isnan(), present, rows.old)
        losses, figures = token_loss(
            self._loss_options, Logprobs(logprobs, old, batch.sampler_logprobs, rows.ref), Rows(mask),
            batch.advantages[:, None], entropies.detach() if rows.entropies is None else rows.entropies, step.threshold,
        )  # fmt: skip
        loss = (losses * batch.weights[:, None]).sum()
        if objective.entropy_coef:
            loss = loss - objective.entropy_coef * entropy_bonus(entropies, mask, step.counts.tokens)
        # DDP and FSDP average gradients over processes; the weights already count all of them.
        self.accelerator.backward(loss * self.accelerator.num_processes)
        figures |= {"loss": loss.detach(), "tokens": mask.sum(), "entropy": (entropies.detach() * mask).sum()}
        trained = present if self.recipe.old_logprobs == "sampler" else old
        apart = mismatch_sums(trained - batch.sampler_logprobs, mask)
        return figures | dict(zip(("difference", "k3", "far", "logprob_diff_max"), apart, strict=True))

    @torch.no_grad()
    def logprobs(self, batches: Sequence[Batch]) -> list[tuple[Tensor, Tensor]]:
        """Log-probabilities and entropies of each batch by the model as it is, float32[R, T], routed as in updates."""
        found = []
        for batch in batches:
            with self.experts.replay(batch):
                found.append(policy_logprobs(self.model, batch, self.recipe.rollout.temperature))
        return found

    def kl(self, rollouts: Sequence[Rollout]) -> Tensor:
        """float32[len(rollouts)]: the KL of each answer between the policy, as it is now, and the reference.

        Every process calls it equally often.
        """
        # An advantage is not known yet: in its place stands whose row it is.
        batches = self._batches([TrainingSample(rollout, float(i), 0.0) for i, rollout in enumerate(rollouts)])
        with self._compiled():
            (refs,), olds = self._ref_logprobs([batches]), self.logprobs(batches)
        found = torch.zeros(len(rollouts))
        for batch, (old, _), ref in zip(batches, olds, refs, strict=True):
            kl_R = kl_in_reward(self.recipe.reference.kl_estimator, old, ref, Rows(batch.completion_mask))
            own_R = batch.completion_mask.any(dim=1)  # a filler is nobody's
            found[batch.advantages[own_R].long().cpu()] = kl_R[own_R].cpu()
        return found

    def move_reference(self, alpha: float) -> None:
        """By the share `alpha` towards the policy as it is now."""
        assert isinstance(self.reference, Reference), "beta is 0, or adapters are trained"
        self.reference.mix(alpha)

    def check_going_on(self) -> None:
        """Raise StuckError where too many steps in a row were skipped."""
        if self.skipped_in_a_row >= self.recipe.grpo.max_skipped_steps:
            raise StuckError(
                f"loss or gradient was not finite in {self.skipped_in_a_row} steps in a row, up to step "
                f"{self.scheduler.last_epoch}, and an update would destroy the weights: none was made. Lower "
                "learning_rate in another run, or look for a reward or log-probability that is not finite in the "
                f"batches that are kept in {self._skipped_folder}."
            )

    def _prepare(self, minibatches: Sequence[Minibatch]) -> list[Prepared]:
        """Everything that must be known before the first update, since the policy moves with it."""
        packed = [self._batches(minibatch.samples) for minibatch in minibatches]
        nothing: list[list[Tensor | None]] = [[None] * len(batches) for batches in packed]
        refs = self._ref_logprobs(packed) if self.recipe.reference.in_loss else nothing
        prepared = []
        for k, (minibatch, batches, ref) in enumerate(zip(minibatches, packed, refs, strict=True)):
            old, entropies = self._old(batches, moved=self.recipe.grpo.meets_moved_policy(k))
            rows = [Microbatch(*parts) for parts in zip(batches, old, ref, entropies, strict=True)]
            prepared.append(Prepared(rows, self._threshold(rows), minibatch.counts))
        return prepared

    def _old(self, batches: Sequence[Batch], moved: bool) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Old log-probabilities and entropies of a minibatch, where they cannot be had from the update itself."""
        chooses = self.recipe.objective.top_entropy_quantile < 1
        asks = moved and self.recipe.old_logprobs == "auto"
        passes = self.logprobs(batches) if asks or chooses else []
        nothing: list[Tensor | None] = [None] * len(batches)
        old = [logprobs for logprobs, _ in passes] if asks else nothing
        if self.recipe.old_logprobs == "sampler":
            old = [batch.sampler_logprobs for batch in batches]
        return old, [entropies for _, entropies in passes] if chooses else nothing

    def _threshold(self, microbatches: Sequence[Microbatch]) -> float:
        """The entropy that the tokens learned from reach, over all processes. Answers of advantage 0 have no part."""
        share = self.recipe.objective.top_entropy_quantile
        learning = [
            rows.entropies[rows.batch.completion_mask & (rows.batch.advantages != 0)[:, None]]
            for rows in microbatches
            if rows.entropies is not None
        ]
        return entropy_threshold(torch.cat(learning), share, self._gather_uneven) if learning else -math.inf

    def _gather_uneven(self, values: Tensor) -> Tensor:
        padded = self.accelerator.pad_across_processes(values, pad_index=math.nan)
        everywhere = self.accelerator.gather(padded)
        return everywhere[~everywhere.isnan()]

    def _ref_logprobs(self, packed: Sequence[Sequence[Batch]]) -> list[list[Tensor | None]]:
        assert self.reference is not None, "beta is 0"
        with self.reference.in_place():
            return [[logprobs for logprobs, _ in self.logprobs(batches)] for batches in packed]

    def _batches(self, samples: Sequence[TrainingSample]) -> list[Batch]:
        """Every process must run as many forward passes as the one with most; without signal anywhere, none."""
        grpo = self.recipe.grpo
        batches = pack(
            samples, grpo.tokens_per_microbatch, self.pad_id, packed=self.packed, shared_prefix=grpo.shared_prefix
        )
        count = torch.tensor([len(batches)], device=self.accelerator.device)
        missing = int(self.accelerator.gather(count).max()) - len(batches)
        batches += [filler(batches[0] if batches else None, self.pad_id, packed=self.packed)] * missing
        return [batch.to(self.accelerator.device) for batch in batches]

    def _clipped_norm(self) -> float:
        """The norm of the gradient before it is clipped."""
        return float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.grpo.max_grad_norm))

    def _keep(self, step: Prepared, figures: Mapping[str, float]) -> None:
        """Leave the batch of a skipped step in the run directory, for `torch.load`."""
        own = [{"old": rows.old, "ref": rows.ref, **vars(rows.batch)} for rows in step.microbatches]
        tensors = [{k: v.cpu() for k, v in rows.items() if isinstance(v, Tensor)} for rows in own]
        everywhere = gather_object(tensors)
        if self.accelerator.is_main_process:
            self._skipped_folder.mkdir(parents=True, exist_ok=True)
            number = self.scheduler.last_epoch + 1
            torch.save(
                {"step": number, **figures, "microbatches": everywhere},
                self._skipped_folder / f"step-{number:06d}.pt",
            )

    @property
    def _skipped_folder(self) -> Path:
        return RunDirectory(self.recipe.run.output_dir).skipped

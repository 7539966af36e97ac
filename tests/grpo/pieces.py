"""Real pieces of a trainer on a random model: rollouts with sampled log-probabilities, rewards, and the trainer."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from data.problem import Problem
from rlzero.grpo.batch import Batch, ScoredGroup
from rlzero.grpo.config import Recipe
from rlzero.grpo.loss import StepCounts
from rlzero.grpo.parse import CONCERNS
from rlzero.grpo.scoring import Scorer
from rlzero.grpo.trainer import GRPOTrainer
from rlzero.grpo.update import Microbatch, Prepared
from rlzero.models.adapter import add_adapters
from rlzero.models.load import load_model
from rlzero.rollout.types import Group, Rollout

VOCABULARY, PAD = 266, 256


def make_recipe(rollout: dict | None = None, **settings) -> Recipe:
    """Every setting by its name, whichever dataclass it belongs to."""
    settings = {**(rollout or {}), **settings}
    parts = []
    for concern in CONCERNS:
        names = [f.name for f in fields(concern) if f.name in settings]
        parts.append(concern(**{name: settings.pop(name) for name in names}))
    assert not settings, f"no option is called {sorted(settings)}"
    return Recipe(*parts)


def make_rollout(rng: np.random.Generator, prompt: int, completion: int) -> Rollout:
    """Random tokens; the sampler's log-probabilities are random too, as from another policy."""
    ids = rng.integers(0, 256, prompt + completion)
    logprobs = np.log(rng.uniform(0.001, 0.02, completion)).astype(np.float32)
    return Rollout(Problem("1+1=?", "2"), ids[:prompt], ids[prompt:], logprobs, "stop")


def make_groups(rewards: list[list[float]], seed: int = 0) -> list[ScoredGroup]:
    """One scored group per row of rewards, answers of 1 to 12 tokens."""
    rng = np.random.default_rng(seed)
    groups = []
    for row in rewards:
        prompt = int(rng.integers(3, 9))
        rollouts = tuple(make_rollout(rng, prompt, int(rng.integers(1, 13))) for _ in row)
        groups.append(ScoredGroup(Group(rollouts[0].problem, rollouts), (), np.array(row, dtype=np.float32)))
    return groups


def make_trainer(folder: Path, recipe: Recipe) -> GRPOTrainer:
    """The real trainer with the tiny model of a folder."""
    model = load_model(folder, "float32")
    # Shaken, so that the loss of a random model has gradients of ordinary size everywhere.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    if recipe.model.lora_r is not None:
        add_adapters(model, recipe.model.lora_r, recipe.model.lora_alpha)
    return bare_trainer(recipe, model)


def bare_trainer(
    recipe: Recipe, model: PreTrainedModel, accelerator: Accelerator | None = None, pad_id: int = PAD
) -> GRPOTrainer:
    """The real trainer; it gets its groups from the test, so it has no engine, no problems and no rewards."""
    accelerator = Accelerator(cpu=True) if accelerator is None else accelerator
    return GRPOTrainer(recipe, accelerator, model, None, None, Scorer((), None, None), pad_id)


def updated(trainer: GRPOTrainer, groups: list[ScoredGroup]) -> dict[str, float]:
    """All updates of one rollout, as a step makes them."""
    _, minibatches, figures = trainer.compare(groups, range(len(groups)))
    return figures | trainer.updater.update(minibatches, trainer.recipe.grpo.updates_per_rollout)


def gradients(trainer: GRPOTrainer, groups: list[ScoredGroup]) -> dict[str, torch.Tensor]:
    """What the last update hands to the optimizer, before clipping."""
    found: dict[str, torch.Tensor] = {}

    def keep() -> float:
        found.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
        trainer.updater.optimizer.zero_grad()
        return 0.0

    trainer.updater._clipped_norm = keep  # type: ignore[method-assign]
    updated(trainer, groups)
    return found


def backward(trainer: GRPOTrainer, batch: Batch, old: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """The gradient of one microbatch by itself; its figures."""
    rows = Microbatch(batch, old, ref=None, entropies=None)
    return trainer.updater._backward(rows, Prepared([rows], -math.inf, StepCounts(1, 1, 1)))

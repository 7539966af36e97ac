"""Real pieces of a trainer on a random model: rollouts with sampled log-probabilities, rewards, and the trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from data.problem import Problem
from rlzero.grpo.batch import ScoredGroup
from rlzero.grpo.config import DataConfig, GRPOConfig, ModelConfig, Recipe, RewardConfig, RolloutConfig, RunConfig
from rlzero.grpo.trainer import GRPOTrainer
from rlzero.models.load import load_model
from rlzero.rollout.types import Group, Rollout

VOCABULARY, PAD = 266, 256


def make_recipe(rollout: dict | None = None, **grpo) -> Recipe:
    return Recipe(
        ModelConfig(), DataConfig(), RewardConfig(), RolloutConfig(**(rollout or {})), GRPOConfig(**grpo), RunConfig()
    )


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
    """The real trainer with the real model; it gets its groups from the test, so it has no engine and no feed."""
    model = load_model(folder, "float32")
    # Shaken, so that the loss of a random model has gradients of ordinary size everywhere.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return GRPOTrainer(recipe, Accelerator(cpu=True), model, None, None, None, PAD)


def gradients(trainer: GRPOTrainer, groups: list[ScoredGroup]) -> dict[str, torch.Tensor]:
    """What one update hands to the optimizer, before clipping."""
    found: dict[str, torch.Tensor] = {}

    def keep() -> float:
        found.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
        trainer.optimizer.zero_grad()
        trainer.optimizer.step()  # without gradients it does nothing, and the schedule expects it
        return 0.0

    trainer._optimizer_step = keep  # type: ignore[method-assign]
    _, samples, counts = trainer.compare(groups)
    trainer.update(samples, counts)
    return found

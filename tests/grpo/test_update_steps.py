"""The optimizer steps of a rollout: minibatches and iterations, clipping, and steps whose figures are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlzero.grpo.batch import ScoredGroup
from rlzero.grpo.trainer import GRPOTrainer
from rlzero.grpo.update import Microbatch, Prepared, StuckError
from rlzero.grpo.update_stats import UpdateStats
from tests.grpo.pieces import make_groups, make_recipe, make_trainer, updated
from tests.grpo.test_update import REWARDS


@pytest.fixture(scope="module")
def make(tiny_model_dir):
    return lambda **settings: make_trainer(tiny_model_dir, make_recipe(**settings))


def weights_of(trainer: GRPOTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def by_hand(trainer: GRPOTrainer, parts: list[list[ScoredGroup]], iterations: int) -> None:
    """Each part is a minibatch: all old log-probabilities first, then an optimizer step on each, times over."""
    steps = []
    for part in parts:
        _, (minibatch,), _ = trainer.compare(part, range(len(part)))
        batches = trainer.updater._batches(minibatch.samples)
        passes = trainer.updater.logprobs(batches)
        rows = [Microbatch(b, old, None, None) for b, (old, _) in zip(batches, passes, strict=True)]
        steps.append(Prepared(rows, -math.inf, minibatch.counts))
    for step in steps * iterations:
        trainer.updater._step(step, UpdateStats(trainer.accelerator))


@pytest.mark.parametrize("iterations", [1, 3])
def test_minibatches_have_the_old_log_probabilities_of_the_policy_that_sampled(make, iterations):
    """Groups take turns: the first and third are one minibatch, the second and fourth the other."""
    groups = make_groups([*REWARDS, [1.0, 0.0, 0.0, 0.5]])
    settings = {"learning_rate": 0.01, "num_iterations": iterations}
    trainer, other = make(**settings, steps_per_generation=2, prompts_per_step=2), make(**settings)
    stats = updated(trainer, groups)
    by_hand(other, [[groups[0], groups[2]], [groups[1], groups[3]]], iterations)
    assert stats["clip_ratio"] > 0
    for name, weight in weights_of(other).items():
        torch.testing.assert_close(weights_of(trainer)[name], weight, rtol=1e-4, atol=1e-5, msg=name)
    assert trainer.scheduler.last_epoch == 2 * iterations


def test_passes_for_old_log_probabilities_are_made_only_where_the_policy_moves_before_they_are_needed(make):
    for settings, passes in (
        ({}, 0),
        ({"steps_per_generation": 3}, 2),
        ({"num_iterations": 2}, 1),
        ({"steps_per_generation": 3, "num_iterations": 2}, 3),
        ({"steps_per_generation": 3, "old_logprobs": "sampler"}, 0),
        ({"top_entropy_quantile": 0.5}, 1),
        ({"beta": 0.1}, 1),
        ({"beta": 0.1, "kl_in_reward": True}, 2),
    ):
        trainer, made = make(**settings), []
        original = trainer.updater.logprobs
        trainer.updater.logprobs = lambda batches, original=original, made=made: (
            made.append(batches) or original(batches)
        )
        updated(trainer, make_groups([*REWARDS, *REWARDS]))
        assert len(made) == passes, settings


def test_a_run_makes_no_more_steps_than_it_was_asked_for(make):
    trainer = make(steps_per_generation=2, num_iterations=2)
    _, minibatches, _ = trainer.compare(make_groups(REWARDS), range(3))
    trainer.updater.update(minibatches, 3)
    assert trainer.scheduler.last_epoch == 3


def test_ratios_are_those_to_the_sampler_where_it_is_asked_for(make):
    """On policy the ratio is 1 and nothing is clipped, unless the engine's own log-probabilities are the old ones."""
    groups = make_groups(REWARDS)
    assert updated(make(), groups)["clip_ratio"] == 0
    off = updated(make(old_logprobs="sampler"), groups)
    assert off["clip_ratio"] > 0.1
    # The mismatch is that of policy and engine either way.
    assert off["logprob_diff"] == pytest.approx(updated(make(), groups)["logprob_diff"])


def test_token_whose_sampler_log_probability_is_unknown_has_ratio_1(make):
    groups = make_groups([[1.0, 0.0]])
    for rollout in groups[0].group.rollouts:
        rollout.sampler_logprobs[:] = np.nan
    stats = updated(make(old_logprobs="sampler"), groups)
    assert stats["clip_ratio"] == 0
    assert math.isfinite(stats["loss"])


def test_gradient_is_clipped_to_its_norm_and_the_norm_before_is_recorded(make):
    groups, norms = make_groups(REWARDS), []
    trainer = make(max_grad_norm=0.01)
    optimizer_step = trainer.updater.optimizer.step

    def step() -> None:
        norms.append(torch.stack([p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]).norm())
        optimizer_step()

    trainer.updater.optimizer.step = step
    stats = updated(trainer, groups)
    assert float(norms[0]) == pytest.approx(0.01, rel=1e-3)
    assert stats["grad_norm"] == pytest.approx(updated(make(max_grad_norm=1e6), groups)["grad_norm"], rel=1e-4)
    assert stats["grad_norm"] > 0.02


POISON = [[math.inf, 0.0], [1.0, 0.0]]


def test_step_that_is_not_finite_is_skipped_counted_and_kept_and_the_next_one_is_made(make, tmp_path):
    trainer = make(output_dir=str(tmp_path), max_skipped_steps=2, lr_scheduler_type="linear", max_steps=10)
    before = weights_of(trainer)
    stats = updated(trainer, make_groups(POISON))
    assert stats["skipped"] == 1
    assert math.isnan(stats["loss"])
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(trainer).items())
    assert trainer.scheduler.last_epoch == 1
    kept = torch.load(tmp_path / "skipped" / "step-000001.pt")
    assert kept["step"] == 1
    assert math.isnan(kept["loss"])
    (microbatch,) = kept["microbatches"]
    assert microbatch["input_ids"].shape[0] == 4
    assert microbatch["advantages"].isnan().any()

    trainer.updater.check_going_on()
    assert updated(trainer, make_groups(REWARDS))["skipped"] == 0
    assert any(not torch.equal(before[name], weight) for name, weight in weights_of(trainer).items())
    assert trainer.updater.skipped_in_a_row == 0
    for _ in range(2):
        updated(trainer, make_groups(POISON))
    with pytest.raises(StuckError, match=r"not finite in 2 steps in a row, up to step 4.*Lower learning_rate.*skipped"):
        trainer.updater.check_going_on()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_or_a_gradient_alone_that_is_not_finite_is_enough_to_skip(make, tmp_path, what):
    trainer = make(output_dir=str(tmp_path))
    updater, before = trainer.updater, weights_of(trainer)
    backward = updater._backward
    if what == "loss":
        updater._backward = lambda *args: {**backward(*args), "loss": torch.tensor(math.inf)}
    else:
        updater._clipped_norm = lambda: math.inf
    assert updated(trainer, make_groups(REWARDS))["skipped"] == 1
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(trainer).items())


def test_skipped_minibatch_does_not_spoil_the_figures_of_the_others(make, tmp_path):
    trainer = make(output_dir=str(tmp_path), steps_per_generation=2)
    stats = updated(trainer, make_groups([POISON[0], POISON[1]]))
    assert stats["skipped"] == 1
    alone = updated(make(), make_groups(POISON)[1:])
    assert stats["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
    assert stats["trained_tokens"] == alone["trained_tokens"]

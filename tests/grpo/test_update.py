"""What the trainer hands to the objectives: each setting against every answer computed by itself, without packing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rewards.registry import load_rewards
from rlzero.grpo.advantage import ADVANTAGES
from rlzero.grpo.aggregate import normalize_then_sum
from rlzero.grpo.batch import ScoredGroup
from rlzero.grpo.kl import kl_in_reward
from rlzero.grpo.loss import TOKEN_WEIGHTS, StepCounts
from rlzero.grpo.objective import Bounds
from rlzero.grpo.scoring import Scorer
from rlzero.grpo.sequences import Rows
from rlzero.grpo.token_loss import Logprobs, LossOptions, token_loss
from rlzero.grpo.trainer import GRPOTrainer
from rlzero.grpo.update import Microbatch, Prepared, StuckError
from rlzero.grpo.update_stats import UpdateStats
from rlzero.measure.evaluate import Sample
from rlzero.rollout.types import Rollout
from tests.grpo.pieces import gradients, make_groups, make_recipe, make_trainer, updated

# A group without signal is among them, and answers of one token.
REWARDS = [[0.0, 1.0, 1.2, 0.0], [1.0, 1.0, 1.0, 1.0], [0.2, 0.0, 0.0, 1.0]]
WIDE = {"epsilon": 0.3, "epsilon_high": 0.5}
# The random rollouts of `make_groups` come from no policy: with their log-probabilities as the old ones, ratios are
# far from 1 and every bound acts.
OFF = {"old_logprobs": "sampler"}
CORRECTED = {"vllm_importance_sampling_correction": True}


@pytest.fixture(scope="module")
def make(tiny_model_dir):
    def make(**settings) -> GRPOTrainer:
        """Its reference, where it has one, is another model than the policy."""
        trainer = make_trainer(tiny_model_dir, make_recipe(**settings))
        if trainer.updater.reference is not None:
            generator = torch.Generator().manual_seed(1)
            for kept in trainer.updater.reference._kept.values():
                kept += 0.05 * torch.randn(kept.shape, generator=generator)
        return trainer

    return make


def truncated(groups: list[ScoredGroup]) -> list[ScoredGroup]:
    """Every third answer ran into the length limit."""
    found = []
    for group in groups:
        rollouts = [replace(r, finish_reason="length") if i % 3 == 0 else r for i, r in enumerate(group.group.rollouts)]
        found.append(replace(group, group=replace(group.group, rollouts=tuple(rollouts))))
    return found


def distribution(trainer: GRPOTrainer, rollout: Rollout) -> tuple[torch.Tensor, torch.Tensor]:
    """float32[C] log-probabilities of the completion, and entropies, with gradient."""
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
    logits = trainer.model(input_ids=ids).logits[0, len(rollout.prompt_ids) - 1 : -1]
    logprobs = (logits / trainer.recipe.rollout.temperature).log_softmax(-1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, ids[0, len(rollout.prompt_ids) :, None])[:, 0], entropies


def by_the_reference(trainer: GRPOTrainer, rollout: Rollout) -> torch.Tensor | None:
    if trainer.updater.reference is None:
        return None
    with torch.no_grad(), trainer.updater.reference.in_place():
        return distribution(trainer, rollout)[0]


def slow_loss(
    trainer: GRPOTrainer, groups: list[ScoredGroup], advantages_NG: torch.Tensor, options: LossOptions, *,
    old: str = "policy", quantile: float = 1.0, entropy_coef: float = 0.0, mask_truncated: bool = False,
) -> torch.Tensor:  # fmt: skip
    """The loss of a step, an answer at a time."""
    rollouts = [r for group in groups for r in group.group.rollouts]
    lengths = [0 if mask_truncated and r.finish_reason == "length" else len(r.completion_ids) for r in rollouts]
    counts = StepCounts(len(rollouts), sum(lengths), trainer.recipe.rollout.max_completion_length)
    weights = TOKEN_WEIGHTS[options.loss_type](torch.tensor(lengths, dtype=torch.float32), counts)
    advantages = advantages_NG.flatten().tolist()
    references = [by_the_reference(trainer, r) for r in rollouts]
    found = [distribution(trainer, r) for r in rollouts]
    chosen_from = [e for (_, e), a, length in zip(found, advantages, lengths, strict=True) if a and length]
    threshold = -math.inf if quantile == 1 else float(torch.quantile(torch.cat(chosen_from).detach(), 1 - quantile))
    total = torch.zeros(())
    for rollout, reference, (logprobs, entropies), advantage, weight, length in zip(
        rollouts, references, found, advantages, weights, lengths, strict=True
    ):
        if not length:
            continue
        sampler = torch.from_numpy(rollout.sampler_logprobs)
        before = sampler if old == "sampler" else logprobs.detach()
        losses, _ = token_loss(
            options,
            Logprobs(logprobs[None], before[None], sampler[None], None if reference is None else reference[None]),
            Rows(torch.ones(1, length, dtype=torch.bool)), torch.tensor([[advantage]]), entropies[None].detach(),
            threshold,
        )  # fmt: skip
        total = total + (losses * weight).sum() - entropy_coef * entropies.sum() / sum(lengths)
    return total


def assert_gradients(trainer: GRPOTrainer, groups: list[ScoredGroup], advantages_NG: torch.Tensor, *args, **settings):
    found = gradients(trainer, groups)
    trainer.model.zero_grad()
    slow_loss(trainer, groups, advantages_NG, *args, **settings).backward()
    assert max(gradient.abs().max() for gradient in found.values()) > 1e-5
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


def grpo_advantages(groups: list[ScoredGroup], name: str = "grpo", **scale) -> torch.Tensor:
    return ADVANTAGES[name](torch.tensor(np.stack([group.total for group in groups])), **scale)


# settings of the run -> the same in the objectives' own words
LOSSES = {
    "dapo": ({**OFF, **WIDE}, {"bounds": Bounds(0.3, 0.5)}),
    "grpo": ({**OFF, **WIDE, "loss_type": "grpo"}, {"loss_type": "grpo", "bounds": Bounds(0.3, 0.5)}),
    "bnpo": ({**OFF, "loss_type": "bnpo"}, {"loss_type": "bnpo"}),
    "dr_grpo": ({**OFF, "loss_type": "dr_grpo"}, {"loss_type": "dr_grpo"}),
    "gspo": ({**OFF, "loss_type": "gspo"}, {"loss_type": "gspo"}),
    "gspo_token": ({**OFF, "loss_type": "gspo_token"}, {"loss_type": "gspo_token"}),
    "cispo": (
        {**OFF, "loss_type": "cispo", "epsilon_high": 2.0}, {"loss_type": "cispo", "bounds": Bounds(0.2, 2.0)},
    ),
    "sapo": (
        {**OFF, "loss_type": "sapo", "sapo_temperature_pos": 0.8, "sapo_temperature_neg": 1.5},
        {"loss_type": "sapo", "bounds": Bounds(sapo_temperature_pos=0.8, sapo_temperature_neg=1.5)},
    ),
    "dual clip": ({**OFF, "delta": 1.5}, {"bounds": Bounds(delta=1.5)}),
    "kl": ({"beta": 0.3, "use_bias_correction_kl": False}, {"beta": 0.3}),
    "kl corrected": (
        {**OFF, "beta": 0.3, "kl_estimator": "k2"},
        {"beta": 0.3, "kl_estimator": "k2", "use_bias_correction_kl": True},
    ),
    "off-policy mask": ({"off_policy_mask_threshold": 0.1}, {"off_policy_mask_threshold": 0.1}),
    "tis": (
        {**CORRECTED, "vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 1.5},
        {"importance_sampling_mode": "token_truncate", "importance_sampling_clip_max": 1.5},
    ),
    "mis": (
        {**CORRECTED, "vllm_importance_sampling_clip_min": 0.5},
        {"importance_sampling_mode": "sequence_mask", "importance_sampling_clip_min": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("budget", [10_000, 40])
@pytest.mark.parametrize("case", LOSSES)
def test_every_loss_gets_what_it_asks_for(make, case, budget):
    settings, literal = LOSSES[case]
    groups = make_groups(REWARDS)
    assert_gradients(
        make(**settings, tokens_per_microbatch=budget), groups, grpo_advantages(groups), LossOptions(**literal),
        old=settings.get("old_logprobs", "policy"),
    )  # fmt: skip


@pytest.mark.parametrize("budget", [10_000, 40])
def test_entropy_bonus_is_about_all_answers_and_its_mean_is_that_of_the_step(make, budget):
    groups = make_groups(REWARDS)
    trainer = make(entropy_coef=0.2, temperature=0.8, tokens_per_microbatch=budget)
    assert_gradients(trainer, groups, grpo_advantages(groups), LossOptions(), entropy_coef=0.2)


@pytest.mark.parametrize("budget", [10_000, 40])
def test_tokens_of_highest_entropy_are_those_of_the_whole_step(make, budget):
    """A pull to the reference stays on all of them."""
    groups = make_groups(REWARDS)
    trainer = make(top_entropy_quantile=0.3, beta=0.1, use_bias_correction_kl=False, tokens_per_microbatch=budget)
    assert_gradients(trainer, groups, grpo_advantages(groups), LossOptions(beta=0.1), quantile=0.3)


def test_truncated_answers_have_no_part_in_the_loss_but_in_the_groups_mean(make):
    groups = truncated(make_groups(REWARDS))
    trainer = make(mask_truncated_completions=True, loss_type="grpo")
    assert_gradients(trainer, groups, grpo_advantages(groups), LossOptions(loss_type="grpo"), mask_truncated=True)
    _, _, figures = trainer.compare(groups, range(3))
    assert figures == {"masked": 0.5}


@pytest.mark.parametrize(
    ("name", "settings", "scale"),
    [
        ("grpo", {"scale_rewards": "batch"}, {"scale": "batch"}),
        ("grpo", {"scale_rewards": "none"}, {"scale": "none"}),
        ("dr_grpo", {"scale_rewards": "none"}, {}),
        ("rloo", {}, {}),
        ("rloo", {"scale_rewards": "group"}, {"scale": "group"}),
        ("reinforce++", {"scale_rewards": "batch"}, {}),
        ("reinforce++_baseline", {}, {}),
        ("max_rl", {}, {}),
    ],
)
def test_every_advantage_and_scale_reaches_the_gradient(make, name, settings, scale):
    groups = make_groups(REWARDS)
    advantages = grpo_advantages(groups, name, **scale)
    assert_gradients(make(advantage=name, **settings), groups, advantages, LossOptions())


def test_rewards_can_be_compared_one_by_one(make):
    """`format` is recorded in every answer and is no reward of this run; one answer has no `accuracy`."""
    groups, table = [], [[[1.0, 0.3], [None, 0.1], [0.0, 0.3], [0.0, 0.0]], [[1.0, 0.2]] * 4]
    for group, rows in zip(make_groups([[0.0] * 4] * 2), table, strict=True):
        samples = tuple(Sample("", None, False, {"accuracy": a, "coin": c, "format": 9.0}, 1, False) for a, c in rows)
        groups.append(replace(group, samples=samples))
    trainer = make(multi_objective_aggregation="normalize_then_sum")
    trainer.scorer = Scorer(load_rewards(["accuracy", "coin"], [1.0, 0.5]), None, None)
    rewards = torch.tensor([[[math.nan if r is None else r for r in row] for row in rows] for rows in table])
    wanted = normalize_then_sum(rewards, torch.tensor([1.0, 0.5]), ADVANTAGES["grpo"])
    assert wanted[0].abs().min() > 0.1
    assert not wanted[1].any()
    assert_gradients(trainer, groups, wanted, LossOptions())


@pytest.mark.parametrize("budget", [10_000, 40])
def test_kl_in_the_reward_is_that_of_the_whole_answer_and_its_gradient_is_in_no_loss(make, budget):
    groups = make_groups(REWARDS)
    trainer = make(beta=0.2, kl_in_reward=True, kl_estimator="k1", tokens_per_microbatch=budget)
    rewards, tokens, divergence = [], 0, 0.0
    for group in groups:
        row = []
        for rollout, reward in zip(group.group.rollouts, group.total, strict=True):
            with torch.no_grad():
                now, then = distribution(trainer, rollout)[0], by_the_reference(trainer, rollout)
            kl = float(kl_in_reward("k1", now[None], then[None], Rows(torch.ones(1, len(now), dtype=torch.bool))))
            row.append(float(reward) - 0.2 * kl)
            tokens, divergence = tokens + len(now), divergence + kl
        rewards.append(row)
    advantages, figures = trainer.advantages(groups)
    torch.testing.assert_close(advantages, ADVANTAGES["grpo"](torch.tensor(rewards)), rtol=1e-3, atol=1e-3)
    assert figures["kl"] == pytest.approx(divergence / tokens, rel=1e-3)
    assert_gradients(trainer, groups, advantages, LossOptions())


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


def test_skipped_minibatch_does_not_spoil_the_figures_of_the_others(make, tmp_path):
    trainer = make(output_dir=str(tmp_path), steps_per_generation=2)
    stats = updated(trainer, make_groups([POISON[0], POISON[1]]))
    assert stats["skipped"] == 1
    alone = updated(make(), make_groups(POISON)[1:])
    assert stats["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
    assert stats["trained_tokens"] == alone["trained_tokens"]

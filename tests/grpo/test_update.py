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
from rlzero.measure.evaluate import Sample
from rlzero.rollout.types import Rollout
from tests.grpo.pieces import gradients, make_groups, make_recipe, make_trainer

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
    "gspo": ({**OFF, "loss_type": "gspo"}, {"loss_type": "gspo", "bounds": Bounds(3e-4, 4e-4)}),
    "gspo_token": (
        {**OFF, "loss_type": "gspo_token", "epsilon": 0.1}, {"loss_type": "gspo_token", "bounds": Bounds(0.1, 0.1)},
    ),
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

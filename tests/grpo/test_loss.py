"""The loss of a token and the weight that it has, against the papers' formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzero.grpo.loss import TOKEN_WEIGHTS, StepCounts
from tests.grpo.pieces import gradients, make_groups, make_recipe, make_trainer, updated

REWARDS = [[0.0, 1.0, 1.2, 0.0], [1.0, 1.0, 1.0, 1.0], [0.2, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
EXACT = {"rtol": 1e-4, "atol": 1e-8}


@pytest.fixture(scope="module")
def make(tiny_model_dir):
    return lambda rollout=None, **grpo: make_trainer(tiny_model_dir, make_recipe(rollout, **grpo))


def literal_loss(name: str, losses: list[list[float]], longest: int) -> float:
    """losses[row][token], over all rows of the step."""
    if name in ("dapo", "bnpo", "cispo"):
        return math.fsum(x for row in losses for x in row) / sum(map(len, losses))
    if name in ("grpo", "gspo", "gspo_token", "sapo"):
        return math.fsum(math.fsum(row) / len(row) for row in losses) / len(losses)
    return math.fsum(x for row in losses for x in row) / (len(losses) * longest)


@pytest.mark.parametrize("name", sorted(TOKEN_WEIGHTS))
@settings(max_examples=50, deadline=None)
@given(losses=st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=9), min_size=1, max_size=6))
def test_weights_average_tokens_as_the_paper_does(name, losses):
    counts = StepCounts(len(losses), sum(map(len, losses)), 16)
    weights = TOKEN_WEIGHTS[name](torch.tensor([float(len(row)) for row in losses]), counts).tolist()
    found = math.fsum(weight * x for weight, row in zip(weights, losses, strict=True) for x in row)
    assert found == pytest.approx(literal_loss(name, losses, 16), rel=1e-5, abs=1e-6)


def test_bnpo_weighs_processes_alike_and_tokens_within_one():
    losses = [[[1.0, 2.0, 3.0]], [[5.0], [-2.0]]]
    found = 0.0
    for local in losses:
        counts = StepCounts(3, 5, 16, processes=2, local_tokens=sum(map(len, local)))
        weights = TOKEN_WEIGHTS["bnpo"](torch.tensor([float(len(row)) for row in local]), counts).tolist()
        found += math.fsum(weight * x for weight, row in zip(weights, local, strict=True) for x in row)
    assert found == pytest.approx((6 / 3 + 3 / 2) / 2)


@pytest.mark.parametrize("name", sorted(TOKEN_WEIGHTS))
def test_answer_without_tokens_in_the_loss_has_a_finite_weight(name):
    assert TOKEN_WEIGHTS[name](torch.tensor([0.0, 3.0]), StepCounts(2, 3, 16)).isfinite().all()


@pytest.mark.parametrize("loss_type", sorted(TOKEN_WEIGHTS))
@settings(max_examples=8, deadline=None)
@given(budget=st.integers(1, 400), seed=st.integers(0, 3))
def test_gradient_does_not_depend_on_how_the_step_is_cut(make, loss_type, budget, seed):
    groups = make_groups(REWARDS, seed)
    options = {"loss_type": loss_type, "epsilon_high": 5.0 if loss_type == "cispo" else None}
    whole = gradients(make(**options, tokens_per_microbatch=10**6), groups)
    cut = gradients(make(**options, tokens_per_microbatch=budget), groups)
    assert whole.keys() == cut.keys()
    for name in whole:
        torch.testing.assert_close(cut[name], whole[name], rtol=1e-3, atol=1e-7, msg=name)
    assert max(g.abs().max() for g in whole.values()) > 1e-5


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_group_without_signal_contributes_nothing_but_still_counts(make, loss_type):
    """Skipping such groups gives the gradient of the whole step, computed here token by token without skipping."""
    groups = make_groups(REWARDS)
    trainer = make(loss_type=loss_type)
    found = gradients(trainer, groups)
    rows, losses = [], []
    for group in groups:
        mean = math.fsum(group.total.tolist()) / 4
        spread = math.sqrt(math.fsum((r - mean) ** 2 for r in group.total.tolist()) / 3)
        rows += [
            (rollout, (float(r) - mean) / (spread + 1e-4))
            for rollout, r in zip(group.group.rollouts, group.total, strict=True)
        ]
    for rollout, advantage in rows:
        ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
        logprobs = trainer.model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        losses.append(-advantage * logprobs[len(rollout.prompt_ids) - 1 :])
    loss = {
        "dapo": torch.cat(losses).sum() / sum(map(len, losses)),
        "grpo": torch.stack([row.mean() for row in losses]).mean(),
        "dr_grpo": torch.cat(losses).sum() / (len(losses) * trainer.recipe.rollout.max_completion_length),
    }[loss_type]
    trainer.model.zero_grad()
    loss.backward()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_only_groups_with_signal_are_run_through_the_model(make):
    _, (minibatch,), _ = make().compare(make_groups(REWARDS), range(5))
    assert len(minibatch.samples) == 12
    assert minibatch.counts.sequences == 20


def test_step_without_any_signal_changes_no_weight_and_moves_the_schedule(make):
    trainer = make(lr_scheduler_type="linear", max_steps=10)
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    stats = updated(trainer, make_groups([[1.0, 1.0], [0.0, 0.0]]))
    assert stats == {"loss": 0.0, "trained_tokens": 0.0, "grad_norm": 0.0, "skipped": 0.0}
    assert all(torch.equal(before[n], p) for n, p in trainer.model.named_parameters())
    assert trainer.scheduler.last_epoch == 1


def test_later_updates_on_the_same_rollouts_are_clipped(make):
    trainer = make(num_iterations=4, learning_rate=0.05)
    stats = updated(trainer, make_groups(REWARDS))
    assert stats["clip_ratio"] == pytest.approx(stats["clip_low"] + stats["clip_high"])
    assert stats["clip_low"] > 0 < stats["clip_high"]


def test_update_raises_what_was_rewarded_and_lowers_what_was_not(make):
    trainer = make(learning_rate=1e-3)
    groups = make_groups([[1.0, 0.0]])
    ids = [torch.tensor([[*r.prompt_ids, *r.completion_ids]]) for r in groups[0].group.rollouts]

    def likelihoods() -> list[float]:
        with torch.no_grad():
            return [-trainer.model(input_ids=i, labels=i).loss.item() for i in ids]

    before = likelihoods()
    updated(trainer, groups)
    after = likelihoods()
    assert after[0] > before[0]
    assert after[1] < before[1]

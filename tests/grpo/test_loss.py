"""The loss of a token and the weight that it has, against the papers' formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzero.grpo.loss import LOSSES, StepCounts, clipped_objective
from tests.grpo.pieces import gradients, make_groups, make_recipe, make_trainer

REWARDS = [[0.0, 1.0, 1.2, 0.0], [1.0, 1.0, 1.0, 1.0], [0.2, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
EXACT = {"rtol": 1e-4, "atol": 1e-8}


@pytest.fixture(scope="module")
def make(tiny_model_dir):
    return lambda rollout=None, **grpo: make_trainer(tiny_model_dir, make_recipe(rollout, **grpo))


def literal_loss(name: str, losses: list[list[float]], longest: int) -> float:
    """losses[row][token], over all rows of the step."""
    if name == "dapo":
        return math.fsum(x for row in losses for x in row) / sum(map(len, losses))
    if name == "grpo":
        return math.fsum(math.fsum(row) / len(row) for row in losses) / len(losses)
    return math.fsum(x for row in losses for x in row) / (len(losses) * longest)


@pytest.mark.parametrize("name", ["dapo", "grpo", "dr_grpo"])
@given(losses=st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=9), min_size=1, max_size=6))
def test_weights_average_tokens_as_the_paper_does(name, losses):
    counts = StepCounts(len(losses), sum(map(len, losses)), 16)
    weights = LOSSES[name](torch.tensor([float(len(row)) for row in losses]), counts).tolist()
    found = math.fsum(weight * x for weight, row in zip(weights, losses, strict=True) for x in row)
    assert found == pytest.approx(literal_loss(name, losses, 16), rel=1e-5, abs=1e-6)


def test_every_loss_has_a_literal_formula_here():
    assert set(LOSSES) == {"dapo", "grpo", "dr_grpo"}


@given(
    rows=st.lists(
        st.tuples(st.floats(-2, 2), st.lists(st.floats(-1, 1), min_size=3, max_size=3)), min_size=1, max_size=4
    ),
    epsilon=st.floats(0.05, 0.3),
    epsilon_high=st.floats(0.05, 0.5),
)
def test_clip_is_ppos_formula(rows, epsilon, epsilon_high):
    advantages = torch.tensor([a for a, _ in rows], dtype=torch.float64)
    policy = torch.tensor([ratios for _, ratios in rows], dtype=torch.float64)
    loss, acted = clipped_objective(policy, torch.zeros_like(policy), advantages, epsilon, epsilon_high)
    for i, (advantage, ratios) in enumerate(rows):
        for j, log_ratio in enumerate(ratios):
            ratio = math.exp(log_ratio)
            kept = min(max(ratio, 1 - epsilon), 1 + epsilon_high)
            assert loss[i, j].item() == pytest.approx(-min(ratio * advantage, kept * advantage), abs=1e-12)
            if abs(ratio - kept) > 1e-9 and abs(advantage) > 1e-9:
                assert bool(acted[i, j]) == (min(ratio * advantage, kept * advantage) != ratio * advantage)


def test_on_policy_gradient_is_that_of_reinforce():
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    advantages = torch.tensor([1.5, -0.5])
    clipped_objective(logprobs, logprobs.detach(), advantages, 0.2, 0.2)[0].sum().backward()
    assert logprobs.grad is not None
    assert torch.equal(logprobs.grad, -advantages[:, None].expand(2, 2))


def test_clipped_token_has_no_gradient():
    logprobs = torch.tensor([[0.5]], requires_grad=True)
    loss, acted = clipped_objective(logprobs, torch.zeros(1, 1), torch.tensor([1.0]), 0.2, 0.2)
    loss.sum().backward()
    assert acted.item()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == 0


@pytest.mark.parametrize("loss_type", sorted(LOSSES))
@settings(max_examples=8, deadline=None)
@given(budget=st.integers(1, 400), seed=st.integers(0, 3))
def test_gradient_does_not_depend_on_how_the_step_is_cut(make, loss_type, budget, seed):
    groups = make_groups(REWARDS, seed)
    whole = gradients(make(loss_type=loss_type, tokens_per_microbatch=10**6), groups)
    cut = gradients(make(loss_type=loss_type, tokens_per_microbatch=budget), groups)
    assert whole.keys() == cut.keys()
    for name in whole:
        torch.testing.assert_close(cut[name], whole[name], rtol=1e-3, atol=1e-7, msg=name)
    assert max(g.abs().max() for g in whole.values()) > 1e-5


@pytest.mark.parametrize("loss_type", sorted(LOSSES))
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
    _, samples, counts = make().compare(make_groups(REWARDS))
    assert len(samples) == 12
    assert counts.sequences == 20


def test_step_without_any_signal_changes_no_weight_and_moves_the_schedule(make):
    trainer = make(lr_scheduler_type="linear", max_steps=10)
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    _, samples, counts = trainer.compare(make_groups([[1.0, 1.0], [0.0, 0.0]]))
    stats = trainer.update(samples, counts)
    assert stats == {"loss": 0.0, "trained_tokens": 0.0, "grad_norm": 0.0}
    assert all(torch.equal(before[n], p) for n, p in trainer.model.named_parameters())
    assert trainer.scheduler.last_epoch == 1


def test_later_updates_on_the_same_rollouts_are_clipped(make):
    trainer = make(num_iterations=4, learning_rate=0.05)
    _, samples, counts = trainer.compare(make_groups(REWARDS))
    assert trainer.update(samples, counts)["clip_ratio"] > 0


def test_update_raises_what_was_rewarded_and_lowers_what_was_not(make):
    trainer = make(learning_rate=1e-3)
    _, samples, counts = trainer.compare(make_groups([[1.0, 0.0]]))
    ids = [torch.tensor([[*s.rollout.prompt_ids, *s.rollout.completion_ids]]) for s in samples]

    def likelihoods() -> list[float]:
        with torch.no_grad():
            return [-trainer.model(input_ids=i, labels=i).loss.item() for i in ids]

    before = likelihoods()
    trainer.update(samples, counts)
    after = likelihoods()
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(make):
    from rlzero.grpo.trainer import TrainingError

    trainer = make()
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    _, samples, counts = trainer.compare(make_groups([[1.0, float("inf")]]))
    with pytest.raises(TrainingError, match=r"gradient norm is nan at step 1.*Lower learning_rate"):
        trainer.update(samples, counts)
    assert all(torch.equal(before[n], p) for n, p in trainer.model.named_parameters())

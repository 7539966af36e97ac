"""KL estimators: their values, and what each does to the policy in the loss, by exact expectations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzero.grpo.kl import KL_ESTIMATORS, kl_in_loss, kl_in_reward
from rlzero.grpo.sequences import Rows, Segments

logits = st.lists(st.floats(-2, 2), min_size=4, max_size=4)


@settings(deadline=None)
@given(difference=st.floats(-5, 5))
def test_estimators_are_schulmans(difference):
    """In his notation r = p / q for samples of q: r = π_ref / π = exp(−d)."""
    r = math.exp(-difference)
    wanted = {"k1": -math.log(r), "k2": math.log(r) ** 2 / 2, "k3": (r - 1) - math.log(r)}
    assert set(wanted) == set(KL_ESTIMATORS)
    for name, estimate in KL_ESTIMATORS.items():
        found = float(estimate(torch.tensor(difference, dtype=torch.float64)))
        assert found == pytest.approx(wanted[name], rel=1e-9, abs=1e-12), name


def expectation(name: str, policy_logits: list, ref_logits: list, old_logits: list | None, weighted: bool):
    """Exact expectation of the KL term over one token sampled from π_old (None: from π), and its gradient by the
    policy's logits; the sampling itself has no gradient, as in training."""
    theta = torch.tensor(policy_logits, dtype=torch.float64, requires_grad=True)
    policy, ref = theta.log_softmax(0), torch.tensor(ref_logits, dtype=torch.float64).log_softmax(0)
    old = policy.detach() if old_logits is None else torch.tensor(old_logits, dtype=torch.float64).log_softmax(0)
    ratio = torch.exp(policy - old) if weighted else None
    term = kl_in_loss(name, policy, ref, torch.ones(4, dtype=torch.bool), ratio)
    total = (old.exp() * term).sum()
    total.backward()
    return float(total.detach()), theta.grad


def divergence(policy_logits: list, ref_logits: list, reverse: bool):
    """KL(π ‖ π_ref), or KL(π_ref ‖ π), and its gradient by the policy's logits."""
    theta = torch.tensor(policy_logits, dtype=torch.float64, requires_grad=True)
    policy, ref = theta.log_softmax(0), torch.tensor(ref_logits, dtype=torch.float64).log_softmax(0)
    total = (policy.exp() * (policy - ref)).sum() if reverse else (ref.exp() * (ref - policy)).sum()
    total.backward()
    return float(total.detach()), theta.grad


@settings(deadline=None)
@given(policy=logits, ref=logits, old=logits)
def test_k1_and_k3_estimate_the_divergence_without_bias_also_weighted_off_policy(policy, ref, old):
    wanted = divergence(policy, ref, reverse=True)[0]
    for name in ("k1", "k3"):
        assert expectation(name, policy, ref, None, False)[0] == pytest.approx(wanted, abs=1e-12)
        assert expectation(name, policy, ref, old, True)[0] == pytest.approx(wanted, abs=1e-12)


@settings(deadline=None)
@given(policy=logits, ref=logits)
def test_in_the_loss_each_estimator_descends_what_the_table_says(policy, ref):
    torch.testing.assert_close(expectation("k1", policy, ref, None, False)[1], torch.zeros(4, dtype=torch.float64))
    for name, reverse in (("k2", True), ("k3", False)):
        found = expectation(name, policy, ref, None, False)[1]
        torch.testing.assert_close(found, divergence(policy, ref, reverse)[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(KL_ESTIMATORS))
@settings(deadline=None)
@given(policy=logits, ref=logits, old=logits)
def test_with_bias_correction_every_estimator_has_the_gradient_of_the_reverse_kl(name, policy, ref, old):
    wanted = divergence(policy, ref, reverse=True)[1]
    for sampler in (None, old):
        found = expectation(name, policy, ref, sampler, True)[1]
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_on_policy_corrected_k3_has_the_gradient_of_k2_token_by_token():
    values = torch.tensor([-0.3, -2.0, -1.1], dtype=torch.float64)
    ref, mask, gradients = values.flip(0), torch.ones(3, dtype=torch.bool), []
    for name in ("k2", "k3"):
        policy = values.clone().requires_grad_()
        ratio = torch.exp(policy - values) if name == "k3" else None
        kl_in_loss(name, policy, ref, mask, ratio).sum().backward()
        gradients.append(policy.grad)
    torch.testing.assert_close(*gradients, rtol=1e-14, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["k1", "k3"])
def test_gradient_is_that_of_finite_differences(name, weighted):
    old = torch.tensor([[-0.4, -1.0, -0.7]], dtype=torch.float64)
    ref, mask = old.flip(1), torch.tensor([[True, True, False]])

    def total(policy: torch.Tensor) -> torch.Tensor:
        return kl_in_loss(name, policy, ref, mask, torch.exp(policy - old) if weighted else None).sum()

    assert torch.autograd.gradcheck(total, (old + 0.1).requires_grad_())


def test_kl_in_the_reward_is_the_sum_over_an_answer_in_both_layouts():
    old = torch.tensor([[-0.5, -1.0, 9.0], [-0.25, -2.0, -1.0]], dtype=torch.float64)
    ref = torch.tensor([[-1.0, -0.75, -9.0], [-0.5, -2.0, -2.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    wanted = [0.5 - 0.25, 0.25 + 0.0 + 1.0]
    assert kl_in_reward("k1", old, ref, Rows(mask)).tolist() == pytest.approx(wanted)
    packed = Segments(mask.flatten(), torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    assert kl_in_reward("k1", old.flatten(), ref.flatten(), packed).tolist() == pytest.approx(wanted)


def test_outside_the_mask_there_is_no_divergence():
    policy = torch.tensor([300.0, -1.0], requires_grad=True)
    for name in KL_ESTIMATORS:
        term = kl_in_loss(name, policy, torch.tensor([-300.0, -1.0]), torch.tensor([False, True]))
        assert term.tolist() == [0.0, 0.0]

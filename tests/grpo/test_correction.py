"""Corrections for engine mismatch against their formulas with loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzero.grpo.correction import CORRECTIONS, correction, off_policy_mask
from rlzero.grpo.sequences import Rows, Segments

steps = st.lists(
    st.lists(st.tuples(st.floats(-3, -0.01), st.floats(-3, -0.01)), min_size=1, max_size=5), min_size=1, max_size=4
)
LOW, HIGH = 0.5, 2.0


def padded(step: list[list[tuple[float, float]]]) -> tuple[torch.Tensor, torch.Tensor, Rows]:
    """old and sampler log-probabilities with rubbish outside the mask."""
    longest = 1 + max(map(len, step))
    old = torch.full((len(step), longest), 700.0, dtype=torch.float64)
    sampler, mask = torch.full_like(old, -700.0), torch.zeros_like(old, dtype=torch.bool)
    for i, tokens in enumerate(step):
        mask[i, : len(tokens)] = True
        old[i, : len(tokens)] = torch.tensor([p for p, _ in tokens], dtype=torch.float64)
        sampler[i, : len(tokens)] = torch.tensor([s for _, s in tokens], dtype=torch.float64)
    return old, sampler, Rows(mask)


def literal(name: str, tokens: list[tuple[float, float]], low: float, high: float) -> list[tuple[float, float]]:
    """Ratio and weight of every token of an answer."""
    found = []
    for old, sampler in tokens:
        ratio = math.exp(old - sampler)
        if name.startswith("sequence"):
            ratio = math.prod(math.exp(o - s) for o, s in tokens)
        if name.endswith("truncate"):
            found.append((ratio, min(max(ratio, low), high)))
        else:
            found.append((ratio, ratio if low <= ratio <= high else 0.0))
    return found


@pytest.mark.parametrize("name", sorted(CORRECTIONS))
@pytest.mark.parametrize(("low", "high"), [(LOW, HIGH), (None, HIGH), (LOW, None)])
@settings(deadline=None)
@given(step=steps)
def test_weight_is_its_formula_and_statistics_count_what_it_changed(name, low, high, step):
    old, sampler, rows = padded(step)
    weight, stats = correction(name, old, sampler, rows, low, high)
    weight = weight.expand_as(old)
    bounds = (low or 0.0, high or math.inf)
    wanted = [literal(name, tokens, *bounds) for tokens in step]
    for i, tokens in enumerate(wanted):
        assert weight[i, : len(tokens)].tolist() == pytest.approx([w for _, w in tokens], rel=1e-9, abs=1e-12)
    ratios = [ratio for tokens in wanted for ratio, _ in tokens]
    if all(min(abs(r / b - 1) for b in bounds if b) > 1e-9 for r in ratios):
        assert int(stats["corrected"]) == sum(not bounds[0] <= r <= bounds[1] for r in ratios)
    assert float(stats["ratio_max"]) == pytest.approx(max(ratios), rel=1e-9)


@pytest.mark.parametrize("name", sorted(CORRECTIONS))
def test_packed_tokens_have_the_weights_of_padded_ones(name):
    old, sampler, rows = padded(
        [[(-0.5, -1.0), (-0.7, -0.6)], [(-3.0, -0.1)], [(-1.0, -1.0), (-0.1, -2.0), (-1.0, -0.9)]]
    )
    weight, stats = correction(name, old, sampler, rows, LOW, HIGH)
    segments = Segments(rows.mask.flatten(), torch.arange(3).repeat_interleave(old.shape[1]), 3)
    packed, packed_stats = correction(name, old.flatten(), sampler.flatten(), segments, LOW, HIGH)
    torch.testing.assert_close(packed[segments.mask], weight.expand_as(old)[rows.mask])
    assert stats == packed_stats


def test_without_bounds_the_weighted_sampler_is_the_policy():
    """Σ_v μ(v) ρ(v) f(v) = Σ_v π(v) f(v)."""
    policy, sampler = (torch.tensor(x, dtype=torch.float64).log_softmax(0) for x in ([0.2, -1.0, 1.5], [1.0, 0.0, 0.3]))
    weight, _ = correction("token_truncate", policy, sampler, Rows(torch.ones(3, dtype=torch.bool)), None, None)
    torch.testing.assert_close(sampler.exp() * weight, policy.exp())


def test_weight_has_no_gradient():
    old = torch.tensor([[-1.0]], requires_grad=True)
    assert not correction("token_mask", old, torch.tensor([[-1.1]]), Rows(torch.ones(1, 1).bool()), None, 2.0)[
        0
    ].requires_grad


@pytest.mark.parametrize("name", sorted(CORRECTIONS))
def test_token_that_the_engine_gave_no_probability_for_is_not_corrected(name):
    old, sampler = torch.tensor([[-1.0, -2.0]]), torch.tensor([[math.nan, -2.0]])
    weight, stats = correction(name, old, sampler, Rows(torch.ones(1, 2).bool()), 0.5, 2.0)
    assert weight.expand(1, 2).tolist() == [[1.0, 1.0]]
    assert int(stats["corrected"]) == 0


@settings(deadline=None)
@given(step=steps, advantages=st.lists(st.floats(-1, 1), min_size=4, max_size=4), threshold=st.floats(0.05, 1))
def test_off_policy_mask_drops_what_failed_and_is_no_longer_likely(step, advantages, threshold):
    policy, sampler, rows = padded(step)
    own = torch.tensor(advantages[: len(step)], dtype=torch.float64)
    keep = off_policy_mask(policy, sampler, own[:, None], rows, threshold)
    for i, tokens in enumerate(step):
        drift = math.fsum(s - p for p, s in tokens) / len(tokens)
        if abs(drift - threshold) > 1e-9:
            assert bool(keep[i]) == (advantages[i] >= 0 or drift <= threshold)

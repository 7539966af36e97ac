"""Entropy bonus and high-entropy tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzero.grpo.entropy import entropy_bonus, entropy_threshold, high_entropy

values = st.lists(st.floats(0, 6), min_size=1, max_size=40)


@settings(deadline=None)
@given(entropies=values, share=st.floats(0, 1))
def test_threshold_is_the_quantile_over_the_step(entropies, share):
    step = torch.tensor(entropies, dtype=torch.float64)
    found = entropy_threshold(step, share)
    if share == 1:
        assert found == -math.inf
    else:
        assert found == pytest.approx(float(torch.quantile(step, 1 - share)), abs=1e-12)


@settings(deadline=None)
@given(entropies=st.lists(st.floats(0, 6), min_size=5, max_size=40, unique=True), share=st.sampled_from([0.2, 0.5]))
def test_as_many_tokens_learn_as_the_share_says(entropies, share):
    step = torch.tensor(entropies, dtype=torch.float64)
    kept = high_entropy(step, torch.ones_like(step, dtype=torch.bool), entropy_threshold(step, share))
    assert abs(int(kept.sum()) - share * len(entropies)) <= 1
    assert step[kept].min() > step[~kept].max()


def test_threshold_counts_the_tokens_of_all_processes():
    here, there = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])
    everywhere = lambda own: torch.cat([own, there])  # noqa: E731
    assert entropy_threshold(here, 0.5, everywhere) == 3.0
    assert entropy_threshold(here[:0], 0.5, everywhere) == 4.0
    assert entropy_threshold(here[:0], 0.5) == -math.inf


def test_share_of_zero_leaves_the_highest_and_of_one_all():
    step, mask = torch.tensor([[1.0, 3.0], [2.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    for share, wanted in ((0.0, [[False, True], [False, False]]), (1.0, [[True, True], [True, False]])):
        assert high_entropy(step, mask, entropy_threshold(step[mask], share)).tolist() == wanted


@settings(deadline=None)
@given(rows=st.lists(st.lists(st.floats(0, 6), min_size=3, max_size=3), min_size=1, max_size=5), data=st.data())
def test_bonus_is_the_mean_entropy_however_the_step_is_cut(rows, data):
    cut = data.draw(st.integers(0, len(rows)))
    step = torch.tensor(rows, dtype=torch.float64)
    mask = torch.ones_like(step, dtype=torch.bool)
    mask[0, 0] = False
    step = step.masked_fill(~mask, math.nan)
    parts = [entropy_bonus(step[part], mask[part], int(mask.sum())) for part in (slice(0, cut), slice(cut, None))]
    assert float(sum(parts)) == pytest.approx(float(step[mask].mean()), abs=1e-12)


def test_bonus_raises_the_entropy_of_a_distribution():
    """Its gradient, by finite differences and by −π (log π + H)."""
    logits = torch.tensor([[0.3, -1.0, 0.7]], dtype=torch.float64, requires_grad=True)

    def bonus(logits: torch.Tensor) -> torch.Tensor:
        entropies = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
        return entropy_bonus(entropies, torch.ones(1, dtype=torch.bool), 1)

    assert torch.autograd.gradcheck(bonus, logits)
    bonus(logits).backward()
    with torch.no_grad():
        wanted = -logits.softmax(-1) * (logits.log_softmax(-1) + bonus(logits))
    torch.testing.assert_close(logits.grad, wanted)

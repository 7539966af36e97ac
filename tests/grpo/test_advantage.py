"""Advantages against their formulas, written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlzero.grpo.advantage import ADVANTAGES, has_signal

groups = st.integers(2, 8).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0, 1.2, -1.0]), min_size=size, max_size=size), min_size=1, max_size=5
    )
)


def literal(name: str, row: list[float]) -> list[float]:
    mean = math.fsum(row) / len(row)
    if name == "dr_grpo":
        return [r - mean for r in row]
    spread = math.sqrt(math.fsum((r - mean) ** 2 for r in row) / (len(row) - 1))
    return [(r - mean) / (spread + 1e-4) for r in row]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo"])
@given(rows=groups)
def test_advantage_is_its_formula(name, rows):
    found = ADVANTAGES[name](torch.tensor(rows)).tolist()
    for row, values in zip(rows, found, strict=True):
        assert values == pytest.approx(literal(name, row), abs=2e-3 if len(set(row)) == 1 else 1e-5)


def test_every_advantage_has_a_literal_formula_here():
    assert set(ADVANTAGES) == {"grpo", "dr_grpo"}


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@given(rows=groups)
def test_advantages_of_a_group_add_up_to_zero_and_no_group_sees_another(name, rows):
    together = ADVANTAGES[name](torch.tensor(rows))
    assert together.sum(dim=1).abs().max() < 1e-3
    for i, row in enumerate(rows):
        assert torch.equal(ADVANTAGES[name](torch.tensor([row]))[0], together[i])


@given(rows=groups)
def test_signal_means_that_rewards_differ(rows):
    assert has_signal(torch.tensor(rows)).tolist() == [len(set(row)) > 1 for row in rows]


@pytest.mark.parametrize("value", [0.0, 0.1, 1.2, 1e4])
def test_equal_rewards_have_no_signal_however_they_round(value):
    assert not has_signal(torch.full((1, 8), value)).item()

"""Advantages against their formulas, written out in float64 with loops."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzero.grpo.advantage import (
    ADVANTAGES,
    FREE_SCALE,
    SCALES,
    TIE,
    batch_moments,
    grpo,
    has_signal,
    informative,
    max_rl,
)  # fmt: skip
from rlzero.grpo.aggregate import AGGREGATIONS, normalize_then_sum, sum_then_normalize

# None: no reward function applied to this answer.
REWARDS = st.sampled_from([0.0, 0.2, 0.5, 1.0, 1.2, None])
steps = st.integers(2, 8).flatmap(
    lambda size: st.lists(st.lists(REWARDS, min_size=size, max_size=size), min_size=1, max_size=5)
)
whole_steps = st.integers(2, 8).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0, 1.2]), min_size=size, max_size=size), min_size=1, max_size=5
    )
)


def tensor(step: list) -> torch.Tensor:
    """float64, None as NaN."""
    if isinstance(step, list):
        return torch.stack([tensor(part) for part in step])
    return torch.tensor(math.nan if step is None else step, dtype=torch.float64)


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def spread(values: list[float]) -> float:
    """std with n − 1."""
    if len(values) < 2:
        return 0.0
    return math.sqrt(math.fsum((v - mean(values)) ** 2 for v in values) / (len(values) - 1))


def known(row: list) -> list[float]:
    return [r for r in row if r is not None]


def literal(name: str, step: list[list], scale: str = "") -> list[list[float]]:
    """The paper's advantage of every answer; 0 where an answer has no reward."""
    everything = [r for row in step for r in known(row)]
    centred = [r - mean(known(row)) for row in step for r in known(row)]
    found = []
    for row in step:
        values = known(row)
        divisor = {
            "group": spread(values) + 1e-4,
            "batch": spread(everything) + 1e-4,
        }.get(scale, 1.0)
        advantages = []
        for i, r in enumerate(row):
            others = [x for j, x in enumerate(row) if j != i and x is not None]
            if r is None or (name == "rloo" and not others):
                advantage = 0.0
            elif name == "rloo":
                advantage = (r - mean(others)) / divisor
            elif name == "reinforce++":
                advantage = (r - mean(everything)) / (spread(everything) + 1e-4)
            elif name == "reinforce++_baseline":
                advantage = (r - mean(values)) / (spread(centred) + 1e-4)
            elif name == "max_rl":
                advantage = 0.0 if sum(values) == 0 else (r - mean(values)) / mean(values)
            else:
                advantage = (r - mean(values)) / divisor
            advantages.append(advantage)
        found.append(advantages)
    return found


def together(function, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """What each of several processes finds, with a reduction that adds over them."""
    barrier, sums, found = threading.Barrier(len(parts)), [None] * len(parts), [None] * len(parts)

    def process(rank: int) -> None:
        def reduce(values: torch.Tensor) -> torch.Tensor:
            sums[rank] = values
            barrier.wait(timeout=20)
            total = torch.stack(sums).sum(0)
            barrier.wait(timeout=20)
            return total

        found[rank] = function(parts[rank], reduce)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


CASES = [(name, "") for name in sorted(ADVANTAGES)] + [(name, scale) for name in FREE_SCALE for scale in SCALES]


@pytest.mark.parametrize(("name", "scale"), CASES)
@settings(deadline=None)
@given(step=steps)
def test_advantage_is_its_formula(name, scale, step):
    chosen = {"scale": scale} if scale else {}
    found = ADVANTAGES[name](tensor(step), **chosen)
    default = {"grpo": "group"}.get(name, "none")
    assert found.dtype == torch.float64
    for row, values in zip(found.tolist(), literal(name, step, scale or default), strict=True):
        assert row == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - {"reinforce++"}))
@settings(deadline=None)
@given(step=steps)
def test_advantages_of_a_group_add_up_to_zero(name, step):
    assert ADVANTAGES[name](tensor(step)).sum(dim=1).abs().max() < 1e-9


@settings(deadline=None)
@given(step=steps)
def test_whitened_advantages_of_a_step_have_mean_zero_and_std_one(step):
    found = ADVANTAGES["reinforce++"](tensor(step))
    scored = found[~tensor(step).isnan()]
    if (found != 0).any():
        assert float(scored.mean()) == pytest.approx(0, abs=1e-9)
        assert float(scored.std()) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - {"reinforce++", "reinforce++_baseline"}))
@settings(deadline=None)
@given(step=steps)
def test_no_group_sees_another(name, step):
    whole = ADVANTAGES[name](tensor(step))
    for i, row in enumerate(step):
        assert torch.equal(ADVANTAGES[name](tensor([row]))[0], whole[i])


@pytest.mark.parametrize(("name", "scale"), [*CASES, ("gdpo", "")])
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_advantages_do_not_depend_on_how_groups_lie_on_processes(name, scale, cut):
    """Also where a process has no group at all."""
    rewards = tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0], [0.2, None, 1.2], [None, 0.5, None]])

    def advantages(part: torch.Tensor, reduce=lambda sums: sums) -> torch.Tensor:
        if name == "gdpo":
            two = torch.stack([part, 1 - 2 * part], dim=-1)
            return normalize_then_sum(two, torch.tensor([1.0, 0.5], dtype=torch.float64), grpo, reduce)
        return ADVANTAGES[name](part, reduce=reduce, **({"scale": scale} if scale else {}))

    found = torch.cat(together(advantages, [rewards[:cut], rewards[cut:]]))
    torch.testing.assert_close(found, advantages(rewards), rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(step=whole_steps)
def test_signal_means_that_rewards_differ(step):
    assert has_signal(tensor(step)).tolist() == [len(set(row)) > 1 for row in step]


def test_signal_does_not_come_from_answers_without_reward():
    assert has_signal(tensor([[None, None], [None, 1.0], [0.0, 1.0]])).tolist() == [False, False, True]


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@pytest.mark.parametrize("value", [0.0, 0.1, 1.2, 1e4])
def test_equal_rewards_teach_nothing_however_they_round(name, value):
    rewards = torch.full((3, 7), value)
    assert not has_signal(rewards).any()
    assert not informative(ADVANTAGES[name](rewards)).any()


def test_reinforce_pp_learns_from_groups_of_equal_rewards():
    rewards = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert not has_signal(rewards).any()
    assert informative(ADVANTAGES["reinforce++"](rewards)).all()


def test_max_rl_estimates_the_gradient_of_its_series_of_pass_at_k():
    """In expectation over G answers, Σ_i A_i ∇log p(o_i) / G is ∇ Σ_{k<G} pass@k / k. Enumerated for a policy with one
    parameter: right with probability p, so ∇log is 1/p where right and −1/(1 − p) where wrong."""
    p, size = 0.3, 4
    expectation = 0.0
    for right in range(size + 1):
        rewards = torch.tensor([[1.0] * right + [0.0] * (size - right)], dtype=torch.float64)
        scores = torch.tensor([1 / p] * right + [-1 / (1 - p)] * (size - right), dtype=torch.float64)
        chance = math.comb(size, right) * p**right * (1 - p) ** (size - right)
        expectation += chance * float((max_rl(rewards)[0] * scores).mean())
    # pass@k = 1 − (1 − p)^k has the derivative k (1 − p)^(k − 1).
    assert expectation == pytest.approx(sum((1 - p) ** (k - 1) for k in range(1, size)), abs=1e-12)


def test_max_rl_refuses_what_its_equation_is_not_for():
    with pytest.raises(ValueError, match=r"needs rewards of 0 or more; got -0\.5.*another advantage"):
        max_rl(torch.tensor([[1.0, -0.5]]))


def test_a_large_offset_of_all_rewards_loses_no_digits_of_the_spread():
    _, std = batch_moments(torch.tensor([[1e4, 1e4 + 1], [1e4, 1e4 + 1]]))
    assert float(std) == pytest.approx(math.sqrt(1 / 3), rel=1e-6)


@settings(deadline=None)
@given(step=steps, weights=st.tuples(st.floats(0, 2), st.floats(0, 2)))
def test_several_rewards_are_aggregated_by_their_formulas(step, weights):
    """Two rewards, the second the reverse of the first and missing where the first is 0.2."""
    second = [[None if r in (None, 0.2) else 1 - r for r in row] for row in step]
    both = torch.stack([tensor(step), tensor(second)], dim=-1)
    weights_K = torch.tensor(weights, dtype=torch.float64)
    totals = [
        [
            None if a is None and b is None else weights[0] * (a or 0.0) + weights[1] * (b or 0.0)
            for a, b in zip(*rows, strict=True)
        ]
        for rows in zip(step, second, strict=True)
    ]
    # Weights may be so small that a group's totals are a tie.
    tied = [max(known(row), default=0.0) - min(known(row), default=0.0) <= TIE for row in totals]
    advantages = literal("grpo", totals, "group")
    wanted = [[0.0] * len(row) if tie else row for row, tie in zip(advantages, tied, strict=True)]
    torch.testing.assert_close(sum_then_normalize(both, weights_K, grpo), tensor(wanted), rtol=1e-9, atol=1e-7)

    parts = [literal("grpo", rewards, "group") for rewards in (step, second)]
    sums = [[weights[0] * a + weights[1] * b for a, b in zip(*rows, strict=True)] for rows in zip(*parts, strict=True)]
    scored = [
        s for row, total in zip(sums, totals, strict=True) for s, t in zip(row, total, strict=True) if t is not None
    ]
    divisor = spread(scored) + 1e-4
    wanted = [[0.0 if spread(scored) <= 1e-6 else s / divisor for s in row] for row in sums]
    torch.testing.assert_close(normalize_then_sum(both, weights_K, grpo), tensor(wanted), rtol=1e-9, atol=1e-7)


def test_gdpo_tells_apart_what_the_sum_does_not():
    """Rewards (1, 0) and (0, 1) have one sum; where the second is rarer, it is worth more."""
    rewards = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    weights = torch.ones(2, dtype=torch.float64)
    summed, decoupled = (AGGREGATIONS[name](rewards, weights, grpo)[0] for name in AGGREGATIONS)
    assert summed[0] == summed[1]
    assert decoupled[1] > decoupled[0]

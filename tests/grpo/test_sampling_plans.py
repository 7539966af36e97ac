"""Dynamic sampling, curriculum, length schedule and overlong filtering: plans without a model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.problem import Problem
from rlzero.grpo.curriculum import CURRICULA, MEMORY, Curriculum
from rlzero.grpo.dynamic_sampling import DynamicSampling
from rlzero.grpo.overlong import loss_lengths
from rlzero.grpo.sampled import Sampled
from rlzero.grpo.schedule import length_at, parse_lengths
from rlzero.rollout.types import Rollout


def sample_until_full(plan: DynamicSampling, rate: float, seed: int) -> tuple[list[int], list[bool]]:
    """What a step asks for where each group has signal with probability `rate`, and which had."""
    rng, rounds, signal = np.random.default_rng(seed), [], []
    while count := plan.more(len(signal), sum(signal)):
        rounds.append(count)
        signal += (rng.random(count) < rate).tolist()
    return rounds, signal


@settings(deadline=None)
@given(
    wanted=st.integers(1, 64), batches=st.integers(1, 10), multiple=st.sampled_from([1, 2, 4]),
    rate=st.floats(0, 1), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_step_fills_or_reaches_its_limit_and_never_more_than_doubles(wanted, batches, multiple, rate, seed):
    plan = DynamicSampling(wanted * multiple, wanted * multiple * batches, multiple)
    rounds, signal = sample_until_full(plan, rate, seed)
    assert rounds[0] == plan.wanted
    assert all(count % multiple == 0 for count in rounds)
    assert len(signal) <= plan.limit
    assert sum(signal) >= plan.wanted or len(signal) == plan.limit
    assert all(count <= sum(rounds[:i]) for i, count in enumerate(rounds) if i)
    assert len(rounds) <= 64


def test_a_full_step_asks_for_nothing_more():
    assert DynamicSampling(8, 80).more(8, 8) == 0
    assert DynamicSampling(8, 80).more(12, 9) == 0


def test_a_nearly_full_step_asks_for_few_groups():
    assert DynamicSampling(32, 320).more(32, 30) == 3
    assert DynamicSampling(32, 320, multiple=4).more(32, 30) == 4


def test_a_step_without_any_signal_stops_at_the_limit():
    rounds, signal = sample_until_full(DynamicSampling(8, 20), 0.0, 0)
    assert rounds == [8, 8, 4]
    assert not any(signal)


@settings(deadline=None)
@given(signal=st.lists(st.booleans(), max_size=40), wanted=st.integers(1, 16))
def test_the_first_groups_with_signal_are_trained_on(signal, wanted):
    chosen = DynamicSampling(wanted, 100).chosen(signal)
    assert all(signal[position] for position in chosen)
    assert len(chosen) == min(wanted, sum(signal))
    assert chosen == sorted(chosen)
    skipped = set(range(max(chosen, default=-1))) - set(chosen)
    assert not any(signal[position] for position in skipped)


def test_groups_that_are_trained_on_are_numbered_among_themselves_over_all_processes():
    """So that minibatches, which take them in turn, are equally large whichever were left out."""
    first, second = Sampled(places=[0, 1, 4]), Sampled(places=[2, 3, 5])
    chosen = [1, 3, 4, 5]
    assert first.trained(chosen) == ([1, 2], [0, 2])
    assert second.trained(chosen) == ([1, 2], [1, 3])


def test_statistics_of_a_step():
    assert DynamicSampling(8, 80).statistics(20, 10) == {
        "sampling/groups": 20.0, "sampling/with_signal": 0.5, "sampling/surplus": 2.0, "sampling/filled": 1.0,
    }  # fmt: skip
    assert DynamicSampling(8, 80).statistics(80, 4)["sampling/filled"] == 0.5


@pytest.mark.parametrize("settings", [(8, 7, 1), (0, 5, 1), (8, 80, 3)])
def test_dynamic_sampling_that_can_never_fill_is_refused(settings):
    with pytest.raises(
        ValueError, match=r"dynamic sampling must want.*got wanted=\d+, multiple=\d+, limit=\d+\. Raise"
    ):
        DynamicSampling(*settings)


def observed(name: str = "learnability") -> Curriculum:
    """Problem 0 never asked, 1 always solved, 2 never, 3 every other time."""
    curriculum = Curriculum(4, name, seed=7)
    curriculum.observe([1, 2, 3], [16, 0, 8], [16, 16, 16])
    return curriculum


def test_pass_rates_are_counted_and_never_certain():
    assert observed().pass_rate_P.tolist() == pytest.approx([1 / 2, 17 / 18, 1 / 18, 9 / 18])


def test_each_weighting_is_its_formula():
    rates = observed().pass_rate_P
    formulas = {"learnability": rates * (1 - rates), "failures": 1 - rates}
    assert set(formulas) == set(CURRICULA)
    for name, weights in formulas.items():
        assert observed(name).weights_P == pytest.approx(weights / weights.sum())


def test_old_counts_fade_when_a_problem_is_asked_again():
    curriculum = observed()
    curriculum.observe([2], [16], [16])
    assert curriculum.pass_rate_P[2] == pytest.approx((16 + 1) / (16 * MEMORY + 16 + 2))
    assert curriculum.pass_rate_P[3] == observed().pass_rate_P[3]


def test_order_in_which_processes_report_does_not_matter():
    one, other = Curriculum(4), Curriculum(4)
    one.observe([1, 2, 1], [3, 1, 2], [4, 4, 4])
    other.observe([1, 1, 2], [2, 3, 1], [4, 4, 4])
    assert one.draw(5, 3) == other.draw(5, 3)
    assert one.pass_rate_P.tolist() == other.pass_rate_P.tolist()


@settings(deadline=None)
@given(step=st.integers(0, 10**6), count=st.integers(1, 4))
def test_a_draw_has_no_problem_twice_and_is_a_function_of_seed_step_and_counts(step, count):
    drawn = observed().draw(step, count)
    assert len(set(drawn)) == count
    assert drawn == observed().draw(step, count)


def test_seeds_and_steps_draw_differently():
    draws = {tuple(Curriculum(50, seed=seed).draw(step, 10)) for seed in range(3) for step in range(3)}
    assert len(draws) == 9


def test_problems_are_drawn_as_often_as_their_weight_says():
    curriculum = observed()
    counts = np.bincount([curriculum.draw(step, 1)[0] for step in range(4000)], minlength=4)
    # Four standard deviations of a share over 4000 draws are at most 0.032.
    assert counts / 4000 == pytest.approx(curriculum.weights_P, abs=0.032)


def test_restored_curriculum_goes_on_as_if_never_interrupted():
    resumed = Curriculum(4, "learnability", seed=7)
    resumed.load_state_dict(observed().state_dict())
    original = observed()
    for curriculum in (resumed, original):
        curriculum.observe([0, 2], [1, 4], [8, 8])
    assert resumed.draw(3, 4) == original.draw(3, 4)
    assert resumed.weights_P.tolist() == original.weights_P.tolist()


def test_saved_state_does_not_change_afterwards():
    curriculum = observed()
    state = curriculum.state_dict()
    curriculum.observe([3], [8], [8])
    assert state["asked"][3] == 16


def test_curriculum_of_another_pool_and_impossible_draws_are_refused():
    with pytest.raises(ValueError, match=r"has 4 problems and this run's pool 5: resume with the data"):
        Curriculum(5).load_state_dict(observed().state_dict())
    with pytest.raises(ValueError, match=r"from 1 to all 4 of the pool; got 5\. Enlarge"):
        observed().draw(0, 5)


def test_length_grows_at_the_steps_of_r1_zero():
    schedule = parse_lengths(["0:32768", "8200:65536"])
    assert [length_at(schedule, done) for done in (0, 8199, 8200, 10_399)] == [32_768, 32_768, 65_536, 65_536]
    assert parse_lengths(["0:32_768"]) == ((0, 32_768),)


@pytest.mark.parametrize(
    "entries", [[], ["5:100"], ["0:100", "0:200"], ["0:100", "50:200", "20:300"], ["0:0"], ["8200"]]
)
def test_schedule_that_makes_no_sense_is_refused(entries):
    with pytest.raises(ValueError, match=r"max_completion_length_schedule .* write for example"):
        parse_lengths(entries)


def test_truncated_answers_have_no_token_in_the_loss_where_they_are_masked():
    rollouts = [
        Rollout(Problem("1+1=?", "2"), np.arange(3), np.arange(length), np.zeros(length, np.float32), reason)
        for length, reason in ((5, "stop"), (9, "length"), (2, "stop"))
    ]
    assert loss_lengths(rollouts, mask_truncated_completions=False) == [5, 9, 2]
    assert loss_lengths(rollouts, mask_truncated_completions=True) == [5, 0, 2]

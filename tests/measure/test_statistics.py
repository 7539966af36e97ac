"""Statistics against enumeration, hand computation and simulation."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb, isclose, prod, sqrt
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlzero.measure.statistics import (
    bootstrap,
    clustered_stderr,
    majority_right,
    paired_difference,
    pass_at_k,
    proportion,
    student_quantile,
)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_sample(n: int) -> None:
    for right in range(n + 1):
        samples = [i < right for i in range(n)]
        for k in range(1, n + 1):
            subsets = list(combinations(samples, k))
            assert pass_at_k(n, right, k) == float(Fraction(sum(map(any, subsets)), len(subsets)))


def test_pass_at_k_is_exact_where_floating_point_products_would_drift() -> None:
    assert pass_at_k(10_000, 3, 5_000) == float(1 - Fraction(comb(9_997, 5_000), comb(10_000, 5_000)))


@pytest.mark.parametrize(("n", "right", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_pass_at_k_refuses_impossible_counts(n: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, right, k)


def test_clustered_error_equals_the_hand_computed_one() -> None:
    # Mean 3/6. Sums of deviations: 2 - 1 = 1, 0 - 1 = -1, 1 - 1 = 0. Var = 2 / 36 × 3/2.
    assert isclose(clustered_stderr([[1, 1], [0, 0], [1, 0]]), sqrt(2 / 36 * 3 / 2))


def test_clustered_error_does_not_shrink_when_the_same_answer_is_sampled_again() -> None:
    outcomes = [1.0, 0.0, 0.0, 1.0, 1.0]
    once = clustered_stderr([[x] for x in outcomes])
    assert isclose(once, clustered_stderr([[x] * 16 for x in outcomes]))


def test_one_problem_says_nothing_about_others() -> None:
    estimate = proportion([[1.0, 0.0, 1.0]])
    assert (estimate.stderr, estimate.low, estimate.high) == (float("inf"), 0.0, 1.0)


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=1, max_size=12)
    )
)
def test_an_interval_of_a_proportion_stays_in_0_1_and_holds_its_value(samples: list[list[float]]) -> None:
    estimate = proportion(samples)
    assert 0 <= estimate.low <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= estimate.high <= 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_thirty_problems_without_any_variation_leave_a_tenth_of_doubt(value: float) -> None:
    estimate = proportion([[value] * 64] * 30)
    assert 0.1 < estimate.high - estimate.low < 0.15


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((0.2, 0.2), 0.5), ((0.3, 8), 0.3 / 8.3), ((5, 0.2), 5 / 5.2), ((50, 50), 0.5)],
)
def test_intervals_cover_the_truth_about_as_often_as_they_say(shape: tuple[float, float], expected: float) -> None:
    rng = np.random.default_rng(0)
    problems, n, trials = 100, 8, 600
    covered = 0
    for _ in range(trials):
        difficulty = rng.beta(*shape, size=problems)
        samples = (rng.random((problems, n)) < difficulty[:, None]).astype(float).tolist()
        estimate = proportion(samples)
        covered += estimate.low <= expected <= estimate.high
    assert 0.92 <= covered / trials <= 0.985


@pytest.mark.parametrize("k", [2, 4, 8])
def test_intervals_of_pass_at_k_cover_the_truth_too(k: int) -> None:
    rng = np.random.default_rng(1)
    problems, n, trials = 100, 8, 400
    expected = 1 - beta_moment(0.5, 2, k)
    covered = 0
    for _ in range(trials):
        right = rng.binomial(n, rng.beta(0.5, 2, size=problems))
        estimate = proportion([[pass_at_k(n, int(r), k)] for r in right], trials=n // k)
        covered += estimate.low <= expected <= estimate.high
    assert 0.92 <= covered / trials <= 0.99


def beta_moment(a: float, b: float, k: int) -> float:
    """E[(1 − p)^k] for p ~ Beta(a, b)."""
    return prod((b + i) / (a + b + i) for i in range(k))


def test_the_bootstrap_agrees_with_the_clustered_error() -> None:
    rng = Random(0)
    values = [rng.gauss(50, 10) for _ in range(200)]
    estimate = bootstrap(values)
    assert isclose(estimate.stderr, clustered_stderr([[v] for v in values]), rel_tol=0.1)
    assert estimate.low < estimate.value < estimate.high
    assert estimate == bootstrap(values)


def test_pairing_removes_the_difficulty_of_the_problems() -> None:
    rng = Random(1)
    before = [rng.random() * 0.8 for _ in range(100)]
    after = [b + 0.1 + rng.gauss(0, 0.01) for b in before]
    estimate = paired_difference(before, after)
    assert 0.09 < estimate.low < estimate.high < 0.11
    unpaired = sqrt(sum(clustered_stderr([[v] for v in values]) ** 2 for values in (before, after)))
    assert estimate.stderr < unpaired / 10


def test_a_paired_difference_refuses_different_problems() -> None:
    with pytest.raises(ValueError, match="same problems twice, got 2 and 3"):
        paired_difference([1, 0], [1, 0, 1])


@pytest.mark.parametrize(("degrees", "table"), [(5, 2.5706), (10, 2.2281), (29, 2.0452), (255, 1.9693)])
def test_students_quantile_matches_the_tables(degrees: int, table: float) -> None:
    assert student_quantile(degrees) == pytest.approx(table, abs=5e-4)


@pytest.mark.parametrize(
    ("answers", "right", "expected"),
    [
        (["7", "7", "8"], [True, True, False], 1.0),
        (["7", "8", "8"], [True, False, False], 0.0),
        (["7", "8"], [True, False], 0.5),
        (["7", "8", "9"], [True, False, False], 1 / 3),
        ([None, None, "7"], [False, False, True], 1.0),  # no answer is no vote
        ([None, None], [False, False], 0.0),
        (["1/2", "0.5", "3"], [True, True, False], 1.0),  # right answers vote together
    ],
)
def test_majority_votes_over_answers(answers: list[str | None], right: list[bool], expected: float) -> None:
    assert majority_right(answers, right) == expected


def test_equal_wrong_answers_vote_together_however_they_are_written() -> None:
    answers, right = ["7", "7", "1.0", "1", "1.00"], [True, True, False, False, False]
    assert majority_right(answers, right) == 1.0
    assert majority_right(answers, right, lambda a, b: float(a) == float(b)) == 0.0


def test_no_samples_are_refused() -> None:
    for figure in (proportion, bootstrap, clustered_stderr):
        with pytest.raises(ValueError, match="at least one sample"):
            figure([])

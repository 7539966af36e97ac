"""How good a model is and how sure that is. The unit that is resampled, clustered and paired is the problem.

Several samples of one problem are not independent: an error computed over samples is too small. See 'Adding
error bars to evals' (arXiv 2411.00640).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, fsum, sqrt
from statistics import NormalDist

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error and its interval at `LEVEL`."""

    value: float
    stderr: float
    low: float
    high: float


def pass_at_k(n: int, right: int, k: int) -> float:
    """Probability that at least one of k samples is right, from `right` among n: 1 − C(n−c, k) / C(n, k).

    Unbiased (arXiv 2107.03374, section 2.1); in exact integers, rounded once.
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= right <= n and 1 <= k <= n, got n={n}, right={right}, k={k}.")
    return (comb(n, k) - comb(n - right, k)) / comb(n, k)


def majority_right(
    answers: Sequence[str | None],
    right: Sequence[bool],
    same: Callable[[str, str], bool] = str.__eq__,
) -> float:
    """Whether the most frequent answer is right (maj@n); on a tie, the chance that a random tie-break is.

    answers: what was extracted from each completion; None does not vote. right: whether each scored as right:
    all right answers vote together, however they are written. same: whether two wrong answers are equal.
    """
    wrong: list[tuple[str, int]] = []
    right_votes = 0
    for answer, is_right in zip(answers, right, strict=True):
        if is_right:
            right_votes += 1
        elif answer is not None:
            for i, (text, votes) in enumerate(wrong):
                if text == answer or same(text, answer):
                    wrong[i] = (text, votes + 1)
                    break
            else:
                wrong.append((answer, 1))
    most = max((votes for _, votes in wrong), default=0)
    if right_votes == 0 or right_votes < most:
        return 0.0
    return 1 / (1 + sum(votes == right_votes for _, votes in wrong))


def clustered_stderr(samples: Sequence[Sequence[float]]) -> float:
    """Standard error of the mean over all samples, clustered by problem: samples[problem][sample].

    Var = Σ_g (Σ_i (x_gi − x̄))² / N² (arXiv 2411.00640, section 2.2), times G / (G − 1) for the mean that was
    estimated from the same G problems. One problem alone says nothing about others: infinite.
    """
    groups = len(samples)
    total = sum(len(group) for group in samples)
    _need(total)
    if groups < 2:
        return float("inf")
    mean = fsum(fsum(group) for group in samples) / total
    squares = fsum(fsum(x - mean for x in group) ** 2 for group in samples)
    return sqrt(squares * groups / (groups - 1)) / total


def proportion(samples: Sequence[Sequence[float]], trials: int = 1) -> Estimate:
    """The mean of values in [0, 1], samples[problem][sample], with an interval that stays in [0, 1].

    trials: independent trials that each value averages over; n // k for a pass@k from n samples.

    Wilson's interval at the effective number of samples p(1 − p) / stderr² (Dean and Pagano, 2015), with
    Student's quantile for the G problems. Where all values agree, stderr is 0 and says nothing: then the
    effective number is that of problems, so that 30 problems all wrong leave an upper end above 0.1.
    """
    groups = len(samples)
    total = sum(len(group) for group in samples)
    _need(total)
    value = fsum(fsum(group) for group in samples) / total
    stderr = clustered_stderr(samples)
    if groups < 2:
        return Estimate(value, stderr, 0.0, 1.0)
    spread = value * (1 - value)
    effective = groups if spread <= 0 else total * trials if stderr == 0 else min(spread / stderr**2, total * trials)
    z2 = student_quantile(groups - 1) ** 2 / effective
    centre = (value + z2 / 2) / (1 + z2)
    half = sqrt(z2 * max(spread, 0.0) + z2 * z2 / 4) / (1 + z2)
    # Rounding may move an end past the value itself where the two should meet.
    return Estimate(value, stderr, max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value)))


def bootstrap(values: Sequence[float], draws: int = 2000, seed: int = 0) -> Estimate:
    """The mean of one value per problem, with the percentile interval of resampled problems.

    For figures without bounds, such as lengths. stderr is the spread of the resampled means itself.
    """
    _need(len(values))
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return Estimate(float(data[0]), float("inf"), float("-inf"), float("inf"))
    rng = np.random.default_rng(seed)
    means = np.array([data[rng.integers(len(data), size=len(data))].mean() for _ in range(draws)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(data.mean()), float(means.std(ddof=1)), float(low), float(high))


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """The mean of after − before over the same problems, one value per problem each.

    Pairing removes how hard each problem is from the error (arXiv 2411.00640, section 4.2).
    """
    if len(before) != len(after):
        raise ValueError(
            f"a paired difference needs the same problems twice, got {len(before)} and {len(after)} values."
        )
    differences = [b - a for a, b in zip(before, after, strict=True)]
    _need(len(differences))
    value = fsum(differences) / len(differences)
    stderr = clustered_stderr([[d] for d in differences])
    half = student_quantile(len(differences) - 1) * stderr if len(differences) > 1 else float("inf")
    return Estimate(value, stderr, value - half, value + half)


def student_quantile(degrees: int, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t by the expansion of Abramowitz and Stegun, 26.7.5.

    Good to four digits from 10 degrees on and to 0.1% from 4; for 1 degree it is 11% short.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees ** (power + 1) for power, term in enumerate(terms))


def _need(count: int) -> None:
    if count < 1:
        raise ValueError("a figure needs at least one sample, got none. Check that there are problems.")

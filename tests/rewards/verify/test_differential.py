"""Where the exact form and sympy could both decide, they agree. Pairs are equal or unequal by construction."""

from __future__ import annotations

import random

import pytest
import sympy

from rewards import explain
from tests.rewards.verify.generate import X, expression, rewritten

CHANGES = (sympy.Integer(1), sympy.Rational(1, 100), sympy.sqrt(2), X)


def _disagreements(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    found = []
    done = 0
    while done < count:
        gold, value = expression(rng, rng.choice((1, 2, 2, 3)))
        # Without the exponential: e^{e^{100}} + 1 is out of reach of any check by numbers.
        if value.has(sympy.zoo, sympy.nan, sympy.oo) or sympy.count_ops(value) > 60:
            continue
        equal = rng.random() < 0.6
        answer, _ = rewritten(rng, value if equal else value + rng.choice(CHANGES))
        verdict = explain(gold, answer, timeout=20)
        if verdict.equal != equal:
            found.append(f"{gold} | {answer}: {verdict}")
        done += 1
    return found


def test_the_exact_form_agrees_with_sympy_on_generated_pairs():
    assert _disagreements(seed=11, count=1000) == []


@pytest.mark.slow
def test_the_exact_form_agrees_with_sympy_on_ten_thousand_generated_pairs():
    assert _disagreements(seed=2501, count=10_000) == []

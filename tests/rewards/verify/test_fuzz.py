"""Fuzzed answers neither crash nor stall the verifier, and the order of the two sides never matters."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import explain, extract_answer, verify
from tests.rewards.verify.fuzz import PIECES, SEEDS, random_text

PROPERTY = settings(max_examples=400, deadline=None)
texts = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(PIECES), max_size=25).map("".join),
    st.sampled_from(SEEDS),
)


def _fuzz(seed: int, count: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        gold = rng.choice(SEEDS) if rng.random() < 0.5 else random_text(rng)
        answer = random_text(rng)
        verdict = explain(gold, answer)
        assert verdict.rule != "error", (gold, answer, verdict.reason)
        if verdict.seconds > 1.0 and verdict.rule not in ("sympy", "undecided"):
            # What is slow by itself is so again; a machine that was busy elsewhere is not.
            assert min(explain(gold, answer).seconds for _ in range(3)) < 1.0, (gold, answer, verdict)
        extract_answer(answer)


@PROPERTY
@given(texts, texts)
def test_any_pair_of_strings_has_a_verdict_that_does_not_depend_on_the_order(gold, answer):
    forward, backward = explain(gold, answer), explain(answer, gold)
    assert forward.rule != "error", forward.reason
    assert forward.equal == backward.equal


@PROPERTY
@given(texts)
def test_every_text_that_says_something_equals_itself(text):
    assert verify(text, text) == bool(text.strip())


@PROPERTY
@given(st.integers(min_value=-(10**40), max_value=10**40))
def test_an_integer_equals_itself_with_separators_and_not_its_neighbour(number):
    assert verify(str(number), f"{number:,}")
    assert verify(str(number), f"{number:,}".replace(",", "\\,"))
    assert not verify(str(number), str(number + 1))


@PROPERTY
@given(st.fractions(max_denominator=10**6), st.integers(min_value=1, max_value=1000))
def test_a_fraction_equals_itself_unreduced_and_no_other(fraction, factor):
    top, bottom = fraction.numerator, fraction.denominator
    assert verify(f"{top}/{bottom}", rf"\frac{{{top * factor}}}{{{bottom * factor}}}")
    assert not verify(f"{top}/{bottom}", rf"\frac{{{top + 1}}}{{{bottom}}}")


@PROPERTY
@given(st.text(max_size=200))
def test_extraction_never_raises(completion):
    found = extract_answer(completion)
    assert found is None or found.strip()


def test_random_answers_do_not_crash():
    _fuzz(seed=3, count=3000)


@pytest.mark.slow
def test_a_hundred_thousand_random_answers_do_not_crash():
    _fuzz(seed=4, count=100_000)

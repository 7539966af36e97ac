"""Chains: values, workings, and the split by hash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.chains import Chain, contains_heldout, is_heldout, written_out
from rewards.expression import evaluate
from tests.data.exact import runs, value_of

numbers = st.integers(0, 200)
chains = st.builds(
    lambda first, rest: Chain((first, *(n for _, n in rest)), tuple(o for o, _ in rest)),
    st.integers(-99, 199),
    st.lists(st.tuples(st.sampled_from("+-*"), numbers), max_size=6),
)


@given(chains)
def test_value_is_that_of_two_independent_evaluators(chain):
    assert chain.value == value_of(chain.text)
    if chain.operands[0] >= 0:
        assert evaluate(chain.text).value == chain.value


@given(chains)
def test_every_line_of_the_working_has_the_value_of_the_chain(chain):
    lines = written_out(chain).split("=")
    assert lines[0] == chain.text
    assert {value_of(line) for line in lines} == {chain.value}
    assert lines[-1] == str(chain.value)
    assert len(lines) == len(chain.operands)


def test_working_does_products_first_and_then_goes_from_left_to_right():
    chain = Chain((20, 3, 4, 5, 2), ("-", "*", "+", "*"))
    assert written_out(chain) == "20-3*4+5*2=20-12+5*2=20-12+10=8+10=18"


@given(chains)
def test_text_holds_something_held_out_exactly_when_a_run_of_a_line_is_held_out(chain):
    for text in (written_out(chain), f"User: {chain.text}=? Assistant:<think>{chain.text}</think>"):
        assert contains_heldout(text) == any(is_heldout(run) for run in runs(text))


@given(st.text(alphabet="0123456789+-*=?,; a", max_size=40))
def test_held_out_runs_are_found_in_any_text(text):
    assert contains_heldout(text) == any(is_heldout(run) for run in runs(text))


def test_single_products_are_never_held_out():
    assert not any(is_heldout(f"{a}*{b}") for a in range(60) for b in range(60))


def test_about_one_expression_in_32_is_held_out():
    share = sum(is_heldout(f"{a}+{b}") for a in range(200) for b in range(200)) / 40_000
    assert 0.028 < share < 0.035


@pytest.mark.parametrize("text", ["", "12", "-5", "3 + 4", "2024-", "a-b", "=?"])
def test_text_without_a_chain_holds_nothing_held_out(text):
    assert not contains_heldout(text)

"""Countdown's reward and its exact evaluator."""

from __future__ import annotations

import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.coin import coin
from rewards.countdown import countdown
from rewards.expression import ExpressionError, evaluate


def reward(answer, target=24, numbers=(4, 6, 8, 8)):
    return countdown([""], [f"<think>try</think><answer>{answer}</answer>"], [target], [numbers])[0]


@pytest.mark.parametrize("answer", ["4*6+8-8", "(4 × 6) + 8 − 8", "4*6+8-8 = 24", r"4 \times 6 + 8 - 8", "6*(8-4)*8/8"])
def test_expression_of_the_given_numbers_that_reaches_the_target_earns_one(answer):
    numbers = [int(n) for n in (6, 8, 4, 8, 8)] if answer.startswith("6*(") else (4, 6, 8, 8)
    assert reward(answer, numbers=numbers) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "24",
        "4*6",
        "4*6+8-8+0",
        "4*6*8/8*1",
        "4*6+8-8=25",
        "4*6+8-8=24=24",
        "4*6+8",
        "46-8-8-6",
        "",
        "4*6+8/(8-8)",
        "4**6+8-8",
        "__import__('os')",
    ],
)
def test_anything_else_earns_nothing(answer):
    assert reward(answer) == 0.0


def test_each_number_is_used_exactly_as_often_as_it_is_given():
    assert reward("6+6", 12, [6, 6]) == 1.0
    assert reward("6+6", 12, [6]) == 0.0
    assert reward("12", 12, [6, 6]) == 0.0


def test_negative_target_can_be_reached_and_stated():
    assert reward("3-8", -5, [3, 8]) == reward("3-8 = -5", -5, [3, 8]) == 1.0
    assert reward("3-8=5", 5, [3, 8]) == 0.0


def test_division_is_exact():
    assert reward("1/3*3", 1, [1, 3, 3]) == 1.0
    assert reward("7/2", 3, [7, 2]) == 0.0


def test_other_kinds_of_problem_do_not_apply():
    assert countdown(["", ""], ["x", "x"], [None, 3], [[1], None]) == [None, None]


def test_answer_in_the_thought_alone_earns_nothing():
    assert countdown([""], ["<think>4*6+8-8"], [24], [(4, 6, 8, 8)]) == [0.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "()",
        "(1",
        "1)",
        "1+",
        "+1",
        "-1",
        "1 2",
        "1e3",
        "0x1",
        "1//2",
        "1/0",
        "1/(2-2)",
        "٣",
        "1_0",
        "a",
        "²",
        "(" * 300 + "1" + ")" * 99,
        "(" * 41 + "1" + ")" * 41,
        "9" * 21,
        "1" + "+1" * 200,
    ],
)
def test_text_that_is_no_bounded_expression_is_refused(text):
    with pytest.raises(ExpressionError):
        evaluate(text)


expressions = st.recursive(
    st.integers(0, 99).map(lambda n: (str(n), Fraction(n))),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
        lambda t: (
            f"({t[0][0]}{t[1]}{t[2][0]})",
            {"+": t[0][1] + t[2][1], "-": t[0][1] - t[2][1], "*": t[0][1] * t[2][1]}[t[1]],
        )
    ),
    max_leaves=8,
)


@given(expressions)
def test_value_is_exact(pair):
    assert evaluate(pair[0]).value == pair[1]


@pytest.mark.parametrize(
    ("text", "value"),
    [("2+3*4", 14), ("8-3-2", 3), ("16/4/2", 2), ("2*(3+4)", 14), ("1/3+1/6", Fraction(1, 2))],
)
def test_precedence_and_association_are_those_of_school(text, value):
    assert evaluate(text).value == value


@given(st.text(max_size=300))
def test_no_text_does_anything_but_evaluate_or_be_refused(text):
    with contextlib.suppress(ExpressionError):
        evaluate(text)


def test_coin_is_fair_repeatable_and_blind_to_the_answer():
    prompts = [str(i) for i in range(2000)]
    values = coin(prompts, ["<answer>1</answer>"] * 2000)
    assert values == coin(prompts, ["<answer>1</answer>"] * 2000, answer=["1"] * 2000)
    assert values != coin(prompts, ["<answer>1</answer>"] * 2000, seed=1)
    assert 900 < sum(values) < 1100

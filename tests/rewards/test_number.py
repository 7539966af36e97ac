"""The reward `number` pays for a value that was worked out."""

from __future__ import annotations

import pytest

from rewards.accuracy import accuracy
from rewards.number import number

RIGHT = ["-5", " -5.", "7 - 12 = -5", "The answer is -5.", "<think>7-12=-5</think><answer>-5</answer>", "−5"]
WRONG = ["7 - 12", "<answer>7-12</answer>", "-5 = 7 - 12", "7 - 12 = 5", "5", "", "-5 or 5", "<think>-5", "0 - 5"]


@pytest.mark.parametrize("text", RIGHT)
def test_the_value_is_paid_for(text):
    assert number([""], [text], answer=["-5"]) == [1.0]


@pytest.mark.parametrize("text", WRONG)
def test_an_expression_or_another_value_is_not(text):
    assert number([""], [text], answer=["-5"]) == [0.0]


def test_accuracy_alone_would_pay_for_repeating_the_question():
    assert accuracy([""], ["<answer>7-12</answer>"], answer=["-5"]) == [1.0]


def test_a_row_without_gold_answer_does_not_count():
    assert number(["", ""], ["1", "1"], answer=[None, "1"]) == [None, 1.0]

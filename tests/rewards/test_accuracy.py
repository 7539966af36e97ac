"""The accuracy reward around the verifier."""

from __future__ import annotations

import pytest

from rewards.accuracy import accuracy


def reward(answer, gold="42", prompt="What is 6 * 7?"):
    return accuracy([prompt], [f"<think>hm</think><answer>{answer}</answer>"], [gold])[0]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("42", "42"),
        (r"\boxed{42}", "42"),
        ("x = 42", "42"),
        ("-42", "-42"),
        ("1/2", "0.5"),
        (r"\frac{1}{2}", "0.5"),
        (r"3.2 \times 10^{5}", "320000"),
        ("2+3i", "2+3i"),
        ("x+1", "x+1"),
    ],
)
def test_right_answer_earns_one(answer, gold):
    assert reward(answer, gold) == 1.0


@pytest.mark.parametrize(
    "answer", ["6*7", "6 * 7", r"6 \times 7", "40+2", "(50-8)", r"\frac{84}{2}", "84/2", "42 = 6*7", "21×2", "43", ""]
)
def test_number_that_still_has_to_be_computed_is_no_answer(answer):
    assert reward(answer) == 0.0


def test_formula_copied_from_the_prompt_is_no_answer():
    assert reward("2^{10}", "1024", "What is $2^{10}$?") == 0.0
    assert reward(r"\sqrt{16}", "4", r"Simplify $\sqrt{ 16 }$.") == 0.0


def test_row_without_gold_answer_does_not_apply():
    assert accuracy(["q"], ["<answer>42</answer>"], [None]) == [None]


@pytest.mark.parametrize("turn", ["<think>42", "<think>the answer is 42</think>", "<think>a</think><answer>42", ""])
def test_truncated_completion_or_answer_in_the_thought_earns_nothing(turn):
    assert accuracy(["q"], [turn], ["42"]) == [0.0]

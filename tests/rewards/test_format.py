"""The format rewards, strict and graded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.format import TAGS, format, format_graded

GOOD = "<think>a thought</think><answer>42</answer>"


def strict(text):
    return format([""], [text])[0]


def graded(text):
    return format_graded([""], [text])[0]


@pytest.mark.parametrize(
    "text", [GOOD, f" {GOOD}\n", GOOD.replace("><", ">\n\n<"), "<think>\na\n</think>\n<answer>\n2\n</answer>"]
)
def test_well_formed_turn_earns_one(text):
    assert strict(text) == graded(text) == 1.0


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("", 0.0),
        ("42", 0.0),
        (f"Sure! {GOOD}", 0.0),
        (f"{GOOD} Done.", 0.8),
        (GOOD[: -len("</answer>")], 0.6),  # truncated
        ("<think>a thought", 0.2),
        ("<think>a</think>42", 0.4),
        ("<think>a</think>so<answer>42</answer>", 0.4),
        ("<think></think><answer>42</answer>", 0.2),
        ("<think> \n</think><answer>42</answer>", 0.2),
        ("<think>a</think><answer> </answer>", 0.6),
        ("<answer>42</answer><think>a</think>", 0.0),
        (GOOD + GOOD, 0.0),
        ("<think>a<think>b</think><answer>42</answer>", 0.0),
        ("<think>a</think></think><answer>42</answer>", 0.2),
        ("<think>a <answer>1</answer></think><answer>42</answer>", 0.4),
        ("<THINK>a</THINK><ANSWER>42</ANSWER>", 0.0),
    ],
)
def test_fault_earns_nothing_strict_and_the_steps_before_it_graded(text, grade):
    assert strict(text) == 0.0
    assert graded(text) == pytest.approx(grade)


@given(st.lists(st.sampled_from([*TAGS, "x", " ", "\n"]), max_size=12).map("".join))
def test_strict_is_exactly_the_full_grade(text):
    assert (strict(text) == 1.0) == (graded(text) == 1.0)
    assert 0.0 <= graded(text) <= 1.0

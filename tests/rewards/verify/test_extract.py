"""Every kind of completion has a defined answer."""

from __future__ import annotations

import pytest

from rewards import extract_answer

WELL_FORMED = [
    ("<think>a</think><answer>42</answer>", "42"),
    ("<think>a</think>\n<answer>\n42\n</answer>\n", "42"),
    ("<think>a</think><answer>42</answer><|im_end|>", "42"),
    ("<think>a</think><answer>42</answer><｜end▁of▁sentence｜>", "42"),
    ("<answer>42</answer>", "42"),
    ("a</think><answer>42</answer>", "42"),
    ("<think>it says <answer>41</answer></think><answer>42</answer>", "42"),
    ("<think>a</think><answer>42</answer>\nUser: and now?", "42"),
    (r"<think>a</think><answer>\boxed{42}</answer>", "42"),
    (r"<think>a</think><answer>It is $\boxed{42}$.</answer>", "42"),
    (r"<think>a</think><answer>\boxed{1} or \boxed{2}</answer>", r"\boxed{1} or \boxed{2}"),
    ("<think>a<think>b</think><answer>42</answer>", "42"),
    ("<think>a</think>b</think><answer>42</answer>", "42"),
]
WITHOUT_ANSWER = [
    "",
    "   ",
    "<think>42",
    "<think>a</think>",
    "<think>the answer is 42",
    r"<think>\boxed{42}</think>",
    "<think><answer>42</answer></think>",
    "<think>a</think><answer>42",
    "<think>a</think>42</answer>",
    "<think>a</think></answer>42<answer>",
    "<think>a</think><answer></answer>",
    "<think>a</think><answer>  </answer>",
    "<think>a</think><answer>1</answer><answer>42</answer>",
    "<think>a</think><answer><answer>42</answer></answer>",
    "<think>a</think><answer>42</answer><think>b",
    r"<think>a</think>\boxed{}",
    r"<think>a</think>\boxed{42",
    "I think that this is a long sentence without any marker at all.",
]
STATED = [
    (r"<think>a</think> so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    (r"\boxed{1} then \boxed{2}", "2"),
    (r"\boxed{a{b}c}", "a{b}c"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{1} and \boxed{2", "1"),
    (r"\fbox{7}", "7"),
    (r"\boxed 5", "5"),
    (r"\boxed{42} The answer is 41.", "42"),
    ("She has 42 eggs.\n#### 42", "42"),
    ("#### 1,234\n", "1,234"),
    ("#### 1\n#### 2", "2"),
    ("So the answer is 42.", "42"),
    ("The answer is 3.14.", "3.14"),
    (r"The answer is $\frac{1}{2}$.", r"$\frac{1}{2}$"),
    ("The answer is 42. Wait, the answer is 43.", "43"),
    ("The answer to the problem is 42.", "42"),
    ("the final answer is: **42**", "42"),
    ("**Answer:** 42", "42"),
    ("**Final Answer**\n\n42", "42"),
    ("The answer is (C).", "(C)"),
    ("The correct option is C.", "C"),
    ("答案是42。", "42"),
    ("最终答案为：$42$。", "$42$"),
    ("故选：C。", "C"),
    ("42", "42"),
    ("x = 5", "x = 5"),
]


@pytest.mark.parametrize(("completion", "answer"), WELL_FORMED)
def test_a_well_formed_completion_gives_what_stands_between_the_answer_tags(completion, answer):
    assert extract_answer(completion) == answer


@pytest.mark.parametrize("completion", WITHOUT_ANSWER)
def test_truncated_nested_repeated_or_missing_tags_and_answers_in_the_thought_give_none(completion):
    assert extract_answer(completion) is None


@pytest.mark.parametrize(("completion", "answer"), STATED)
def test_without_tags_the_last_committed_answer_counts(completion, answer):
    assert extract_answer(completion) == answer


def test_a_completion_that_is_no_string_is_named():
    with pytest.raises(TypeError, match="completion must be a str, got NoneType"):
        extract_answer(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["a" + " " * 200_000 + "b", "<|" * 100_000, "answer " * 40_000, r"\boxed{" * 30_000, "{" * 200_000, "####" * 60_000,
     "<think>" * 40_000 + "</think>" * 40_000, "." * 200_000 + "a", "answer" + " " * 200_000 + "x", "選" * 100_000],
)  # fmt: skip
def test_long_completions_cost_no_more_than_their_length(text):
    # Quadratic work on these would run into the suite's deadline.
    for _ in range(3):
        extract_answer(text)

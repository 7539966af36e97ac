"""Prompt templates by name and as text."""

from __future__ import annotations

import pytest

from data.charset import byte_tokenizer
from data.templates import TEMPLATES, Template, get_template

QUESTION = "What is {x} in \\boxed{3}?"
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


def chat_tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_template_holds_the_question_word_for_word_and_ends_with_its_prefill(name):
    template = get_template(name)
    prompt = template.render(QUESTION, chat_tokenizer())
    assert prompt.count(QUESTION) == 1
    assert prompt.endswith(template.prefill)


def test_default_is_the_papers_table_1():
    prompt = get_template("r1_zero").render("1+1")
    assert prompt.startswith("A conversation between User and Assistant. The user asks a question,")
    assert "i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: 1+1. Ass" in prompt
    assert prompt.endswith("Assistant:")


def test_boxed_template_asks_for_a_box():
    assert "\\boxed{}" in get_template("boxed").render("1+1")


def test_chat_template_of_the_tokenizer_goes_around_the_text():
    assert get_template("chat").render("Hi", chat_tokenizer()) == "<user>Hi<a>"


@pytest.mark.parametrize("tokenizer", [None, byte_tokenizer()])
def test_chat_without_a_chat_template_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"needs a tokenizer with a chat template.*--template r1_zero"):
        get_template("chat").render("Hi", tokenizer)


def test_text_itself_can_be_the_template():
    assert get_template("Q: {prompt}\nA:").render("1+1") == "Q: 1+1\nA:"
    assert get_template("{prompt} \\boxed{{}}").render("1+1") == "1+1 \\boxed{}"


def test_unknown_name_says_which_exist():
    with pytest.raises(ValueError, match=r"unknown template 'r1_zeroo': choose one of .*r1_zero"):
        get_template("r1_zeroo")


@pytest.mark.parametrize(
    "text", ["no place", "{question}", "{prompt} \\boxed{}", "{prompt} {", "{{prompt}}", "{prompt!x}"]
)
def test_text_that_would_lose_the_question_or_break_on_a_brace_is_refused(text):
    with pytest.raises(ValueError, match=r"must have \{prompt\} where the question goes"):
        Template("mine", text)

"""Every instruction is followed by its example and not by its counter-example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.instructions import CHECKS, follows, instructions
from rewards.registry import RewardError

CASES = [
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "A Cat and a dog.", "A category and a dog."),
    ("keywords:frequency", {"keyword": "yes", "frequency": 2, "relation": "at least"}, "Yes yes", "yes, yesterday"),
    ("keywords:forbidden_words", {"forbidden_words": ["bad"]}, "a badge", "a Bad one"),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 2, "let_relation": "less than"}, "tEn", "eel"),
    ("language:response_language", {"language": "zh"}, "今天天气很好", "The weather is good"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "exactly"}, "It costs 3.5. Yes!", "One."),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "don't go", "a b c"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First this.\n\nThen that.",
        "Then this.\n\nFirst that.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name], [date]", "Dear [name], []"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. I forgot", "Bye.\nP.S."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n* b\n* c"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "My answer is yes. My answer is no."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and ** **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\n**Section 2**\nb",
        "Section 1\nsee Section 2",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', '{"a": [1}'),
    ("detectable_format:title", {}, "<<My day>>\nIt was", "<<>> It was"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "Say hi. Hi!", "Say hi."),
    ("startend:end_checker", {"end_phrase": "Any questions?"}, "Done. Any questions?", "Any questions? No."),
    ("startend:quotation", {}, '"all of it"', '"some" of it'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at most"},
        "NASA and ESA",
        "NASA ESA JAXA",
    ),
    ("change_case:english_capital", {}, "THE END OF THAT", "The END"),
    ("change_case:english_lowercase", {}, "the end of that", "The end"),
    ("punctuation:no_comma", {}, "a and b", "a, b"),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_instruction_is_followed_by_its_example_alone(name, arguments, good, bad):
    assert follows(good, name, arguments)
    assert not follows(bad, name, arguments)


def test_every_instruction_has_an_example():
    assert sorted(CHECKS) == sorted(case[0] for case in CASES)


def test_reward_reads_the_response_alone_and_wants_all_instructions():
    names = ["punctuation:no_comma", "keywords:existence"]
    arguments = [{"keywords": None}, {"keywords": ["cat"], "relation": None}]
    turns = ["<think>a, b</think><answer>a cat</answer>", "<think>cat</think> a dog", "<think>cat", "a, cat"]
    both = ([names] * 4, [arguments] * 4)
    assert instructions([""] * 4, turns, *both) == [1.0, 0.0, 0.0, 0.0]
    assert instructions([""] * 4, turns, *both, partial=True) == [1.0, 0.5, 0.0, 0.5]
    assert instructions([""], ["x"], [None], [None]) == [None]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("punctuation:no_commas", {}, "unknown instruction 'punctuation:no_commas'; there are"),
        ("punctuation:no_comma", {"x": 1}, "cannot take the arguments {'x': 1}"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "about"}, "unknown relation 'about'"),
        ("language:response_language", {"language": "xx"}, "unknown language 'xx'"),
    ],
)
def test_bad_instruction_is_an_error_not_a_zero(name, arguments, says):
    with pytest.raises(RewardError, match=says):
        instructions([""], ["text"], [[name]], [[arguments]])


@given(st.text(max_size=300), st.sampled_from(CASES))
def test_any_text_gets_a_verdict(text, case):
    assert follows(text, case[0], case[1]) in (True, False)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("piece", ["!", "*", "\n", "<<", "**w", " ", "a", "P.S", "[", '"', "\n-"])
def test_long_text_is_judged_in_linear_time(piece, case):
    # A pattern that backtracks over 200,000 characters would run into the suite's timeout.
    follows(piece * (200_000 // len(piece)), case[0], case[1])

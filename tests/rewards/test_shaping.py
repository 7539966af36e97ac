"""The small rewards beside accuracy and format."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.choice import choice, letter
from rewards.language_consistency import COMMON_WORDS, SCRIPTS, consistency, language_consistency
from rewards.length_cosine import length_cosine
from rewards.overlong import overlong
from rewards.registry import RewardError, load_reward, score
from rewards.repetition import repetition
from rewards.tag_count import tag_count
from rewards.turn import response, thought

GOOD = "<think>a</think><answer>42</answer>"


def test_tag_count_pays_a_quarter_for_each_tag_that_stands_once():
    texts = [GOOD, GOOD[:-9], "42", GOOD * 2, "</answer>"]
    assert tag_count([""] * 5, texts) == [1.0, 0.75, 0.0, 0.0, 0.25]


def test_overlong_follows_equation_13_of_dapo():
    lengths = [0, 80, 81, 90, 100, 150]
    values = overlong([[0] * n for n in lengths], max_completion_length=100, cache=20)
    assert values == pytest.approx([0, 0, -0.05, -0.5, -1, -1])


def test_overlong_equals_trls():
    rewards = pytest.importorskip("trl.rewards")
    ids = [[0] * n for n in range(0, 130, 7)]
    theirs = rewards.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=30)(ids)
    assert overlong(ids, max_completion_length=100, cache=30) == pytest.approx(theirs)


def test_overlong_without_its_limits_says_how_to_give_them():
    with pytest.raises(RewardError, match=r"needs 'max_completion_length'.*overlong\(max_completion_length=…\)"):
        score([load_reward("overlong")], ["q"], ["a"], {}, [[1]])
    with pytest.raises(RewardError, match="0 < cache <= max_completion_length"):
        overlong([[1]], max_completion_length=10, cache=0)


def test_repetition_punishes_the_share_of_repeated_ngrams():
    texts = ["a b c d e f", "a b c a b c", "x", "", "no no no no no no", "等等等等等等", "!!!!!!!!!!"]
    values = repetition([""] * len(texts), texts)
    assert values[:5] == pytest.approx([0, -0.25, 0, 0, -0.75])
    assert max(values[5:]) < -0.7
    assert repetition([""], ["a b c a b c"], ngram_size=2, max_penalty=-0.5) == pytest.approx([-0.2])


def test_length_cosine_prefers_short_right_and_long_wrong_answers():
    right, wrong = GOOD, GOOD.replace("42", "41")
    lengths = [0, 50, 99, 100]
    both = length_cosine(
        [""] * 8,
        [right] * 4 + [wrong] * 4,
        ["42"] * 8,
        [[0] * n for n in lengths * 2],
        max_completion_length=100,
    )
    assert both[:3] == pytest.approx([1.0, 0.75, 0.5], abs=1e-3)
    assert both[4:7] == pytest.approx([-1.0, -0.75, -0.5], abs=1e-3)
    assert both[3] == both[7] == -1.0
    assert length_cosine([""], [right], [None], [[0]], max_completion_length=100) == [None]


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "(B)",
        "B.",
        "B)",
        "**B**",
        r"\text{B}",
        r"$\mathrm{B}$",
        "B. Paris",
        "B: 3.5 m",
        "Option B",
        "the answer is B",
        "（B）",
        "选B",
        "答案是B",
        "B、巴黎",
    ],
)
def test_a_letter_is_read_whatever_is_written_around_it(text):
    assert letter(text) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",
        "A dog",
        "A or B",
        "A, B",
        "A) or B)",
        "A/B",
        "A. Lyon B. Paris",
        "(A) Lyon, (B) Paris",
        "AB",
        "not B",
        "K",
        "5",
        "A和B",
        "B" * 3000,
    ],
)
def test_several_letters_or_none_are_no_choice(text):
    assert letter(text) is None


def test_choice_compares_letters_and_skips_other_problems():
    texts = [
        "<think>A</think><answer>(b) Paris</answer>",
        "<think>B</think><answer>C</answer>",
        "<think>B</think>",
    ]
    assert choice([""] * 3, texts, ["B"] * 3) == [1.0, 0.0, 0.0]
    assert choice([""] * 2, [GOOD] * 2, ["42", None]) == [None, None]


SENTENCES = {
    "en": "We need the sum of both numbers, and then we have to check that it is even.",
    "fr": "Nous avons une somme de deux nombres, donc elle est paire pour tous les cas.",
    "de": "Wir haben zwei Zahlen, und die Summe ist gerade, weil wir sie addieren.",
    "es": "Tenemos los dos números, pero entonces la suma puede ser muy grande.",
    "it": "Abbiamo due numeri, quindi la somma che abbiamo è pari, perché sono pari.",
    "pt": "Temos uma soma de dois números, então ela não pode ser ímpar, você também.",
    "nl": "Wij hebben twee getallen, dus het is niet oneven, omdat een som wordt gemaakt.",
    "zh": "我们需要先把两个数加起来，然后检查结果是否为偶数。",
    "ja": "まず二つの数を足して、それから結果が偶数かどうかを確かめます。",
    "ko": "먼저 두 수를 더한 다음 결과가 짝수인지 확인합니다.",
    "ru": "Сначала сложим два числа, затем проверим, чётная ли сумма.",
    "ar": "نجمع العددين أولا ثم نتحقق من أن الناتج زوجي.",
    "hi": "पहले दोनों संख्याओं को जोड़ते हैं, फिर देखते हैं कि परिणाम सम है।",
    "th": "ก่อนอื่นเราบวกเลขสองจำนวนแล้วตรวจสอบผลลัพธ์",
    "el": "Πρώτα προσθέτουμε τους δύο αριθμούς και μετά ελέγχουμε το αποτέλεσμα.",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_is_in_its_language_and_in_no_other(language):
    for other, text in SENTENCES.items():
        share = consistency(text, language)
        # Chinese and Japanese share characters.
        if other == language:
            assert share > 0.99, other
        elif {language, other} != {"zh", "ja"}:
            assert share < 0.2, other


def test_mixing_languages_costs_the_share_that_is_mixed():
    mixed = f"{SENTENCES['en']} {SENTENCES['zh']}"
    assert 0.3 < consistency(mixed, "en") < 0.8
    assert consistency(mixed, "en") + consistency(mixed, "zh") == pytest.approx(1.0)


def test_formulas_numbers_and_code_are_no_words_but_foreign_prose_in_them_is():
    text = "我们得到 $x = \\frac{a}{b} \\sin(ab)$ 以及 \\(kx\\) 和 ```print(total)``` 等于 12"
    assert consistency(text, "zh") == 1.0
    assert consistency("so we get $\\text{这里需要检查结果}$", "en") < 0.6


def test_thought_without_words_is_consistent_and_an_empty_one_is_not():
    assert language_consistency([""] * 2, ["<think>1+1=2</think>2", "<think> </think>2"]) == [1.0, 0.0]


def test_only_the_thought_is_judged_and_the_language_may_be_a_column():
    turn = f"<think>{SENTENCES['zh']}</think><answer>the sum of the numbers</answer>"
    assert language_consistency([""] * 2, [turn] * 2, language=["zh", "en"]) == [1.0, 0.0]
    assert language_consistency([""], [turn], language="zh") == [1.0]


def test_unknown_language_is_an_error_that_lists_the_known():
    with pytest.raises(RewardError, match=r"got 'xx'; it knows: en "):
        consistency("hello", "xx")


def test_the_words_that_tell_languages_apart_belong_to_one_each():
    for a, b in itertools.combinations(COMMON_WORDS.values(), 2):
        assert not a & b
    assert all(SCRIPTS[language] == ("LATIN",) for language in COMMON_WORDS)


@given(st.text(max_size=200), st.sampled_from(sorted(SCRIPTS)))
def test_consistency_is_a_share_for_any_text(text, language):
    assert 0.0 <= consistency(text, language) <= 1.0


@pytest.mark.parametrize(
    ("turn", "inside", "visible"),
    [
        (GOOD, "a", "42"),
        (" <think>a</think>\n42 ", "a", "42"),
        ("<think>a", "a", ""),
        ("a</think> 42", "a", "42"),  # the prompt opened the thought
        ("plain", "plain", "plain"),
        ("<think>a</think><answer>42", "a", ""),
        ("<think>a</think></answer>42<answer>", "a", ""),
        (GOOD + "<answer>43</answer>", "a", ""),
    ],
)
def test_a_turn_is_a_thought_and_a_response(turn, inside, visible):
    assert (thought(turn), response(turn)) == (inside, visible)

"""Countdown problems: solvable, disjoint under any order of the numbers, repeatable."""

from __future__ import annotations

from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.countdown import PHRASINGS, Countdown, combinations_of, is_heldout
from data.problem import Problem
from data.sources import load_source
from rewards.countdown import is_solution
from rewards.registry import load_reward, score
from rlzero.measure.text import reward_columns
from tests.data.exact import reachable, value_of

SOURCES = {
    "default": Countdown(),
    "two": Countdown(count=2),
    "four": Countdown(count=4, large_share=0.5),
    "words": Countdown(phrasing="tinyzero"),
}


def sides(source: Countdown) -> tuple[list[Problem], list[Problem]]:
    return [source.train(seed, i) for seed in (0, 1) for i in range(100)], source.heldout(100)


def key(problem: Problem) -> tuple:
    return tuple(sorted(problem.columns["numbers"])), problem.columns["target"]


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_gold_answers_pass_their_own_scorer_and_targets_are_reachable(source):
    problems = [p for side in sides(source) for p in side]
    texts = [f"<think></think><answer>{p.answer}</answer>" for p in problems]
    values = score([load_reward(problems[0].scorer)], [p.prompt for p in problems], texts, reward_columns(problems))
    assert set(values["countdown"]) == {1.0}
    for problem in problems[::5]:
        numbers, target = problem.columns["numbers"], problem.columns["target"]
        assert value_of(problem.answer) == target
        assert reachable(tuple(numbers), target)
        assert str(target) in problem.prompt
        assert " ".join(map(str, numbers)) in problem.prompt


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_no_order_of_the_numbers_leaks_a_held_out_problem(source):
    trained, held = sides(source)
    assert not {key(p) for p in trained} & {key(p) for p in held}
    assert len({key(p) for p in held}) == len(held)
    for problem in held:
        numbers, target = problem.columns["numbers"], problem.columns["target"]
        assert all(is_heldout(order, target) for order in permutations(numbers))
    assert not any(is_heldout(p.columns["numbers"], p.columns["target"]) for p in trained)


def test_problem_depends_on_seed_and_index_alone():
    one, other = Countdown(), Countdown()
    later = [other.train(3, i) for i in reversed(range(50))]
    assert [one.train(3, i) for i in range(50)] == later[::-1]
    assert one.heldout(20) == other.heldout(20)
    assert one.train(3, 0) != one.train(4, 0)
    assert one.heldout(20, seed=0) != one.heldout(20, seed=1)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=4).map(tuple), st.integers(0, 12))
def test_combinations_are_every_expression_with_its_exact_value(numbers, max_factor):
    """Brute force over texts: each expression with products of two small factors at most stands in one combination."""
    wanted = set()
    for order in permutations(numbers):
        for operators in product("+-*", repeat=len(numbers) - 1):
            text = str(order[0]) + "".join(f"{o}{n}" for o, n in zip(operators, order[1:], strict=True))
            products = [part.split("*") for part in text.replace("-", "+").split("+")]
            small = all(len(p) == 1 or (len(p) == 2 and max(map(int, p)) <= max_factor) for p in products)
            if small and value_of(text) >= 0:
                wanted.add(text)
    found = combinations_of(tuple(sorted(numbers)), max_factor)
    texts = [chain.text for _, chains in found for chain in chains]
    assert len(texts) == len(set(texts))
    assert set(texts) == wanted
    for value, chains in found:
        assert {value_of(chain.text) for chain in chains} == {value}


def test_orders_of_terms_and_factors_are_one_combination():
    by_value = {value: chains for value, chains in combinations_of((2, 3, 7), 9) if value == 13}
    assert {chain.text for chain in by_value[13]} == {"2*3+7", "3*2+7", "7+2*3", "7+3*2"}


@pytest.mark.parametrize(
    ("options", "holds"),
    [
        ({"count": 4}, lambda numbers, target: len(numbers) == 4),
        ({"max_target": 20}, lambda numbers, target: 1 <= target <= 20),
        ({"small": [1, 4], "large_share": 0}, lambda numbers, target: all(1 <= n <= 4 for n in numbers)),
        ({"large_share": 1, "large": [50, 60]}, lambda numbers, target: sum(50 <= n <= 60 for n in numbers) == 1),
    ],
)
def test_difficulty_options_hold_for_every_problem(options, holds):
    source = load_source("countdown", options=options)
    problems = [source.train(0, i) for i in range(50)] + source.heldout(10)
    assert all(holds(p.columns["numbers"], p.columns["target"]) for p in problems)


def test_narrow_difficulty_gives_the_held_out_problems_there_are():
    source = Countdown(count=2, small=(2, 5), large_share=0)
    held = source.heldout(256)
    assert 0 < len(held) < 30
    assert all(is_heldout(*key(p)) for p in held)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"phrasing": "Make {target}."}, "phrasing"),
        ({"phrasing": "Make {target} from {numbers} {now}."}, "phrasing"),
        ({"count": 1}, "count=1"),
        ({"count": 9}, "count=9"),
        ({"small": [5, 2]}, r"small=\(5, 2\)"),
        ({"small": [5]}, "small"),
        ({"small": 5}, "small"),
        ({"large": [0, 9]}, "large"),
        ({"large_share": 2}, "large_share=2"),
        ({"max_target": 0}, "max_target"),
        ({"small": [100, 200], "large": [200, 300], "max_target": 0}, "max_target"),
        ({"numbers": 3}, "numbers"),
    ],
)
def test_wrong_option_is_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        load_source("countdown", options=options)


def test_tinyzero_words_allow_what_the_scorer_allows():
    assert "(+, -, *, /)" in PHRASINGS["tinyzero"]
    assert is_solution("<answer>(1 + 2) / 3</answer>", 1, [1, 2, 3])

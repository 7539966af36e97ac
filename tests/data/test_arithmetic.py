"""Arithmetic problems: right, disjoint, repeatable, as difficult as asked."""

from __future__ import annotations

import re

import pytest

from data.arithmetic import Arithmetic
from data.chains import is_heldout
from data.problem import Problem
from data.sources import load_source
from rewards.registry import load_reward, score
from rlzero.measure.text import reward_columns
from tests.data.exact import runs, value_of

SOURCES = {
    "default": Arithmetic(),
    "easy": Arithmetic(operands={2: 1}, max_term=20, max_factor=0, low=0, high=40),
    "long": Arithmetic(operands={"6": 1.0, "8": 1.0}, max_term=99, low=-500, high=900),
    "minus": Arithmetic(operators="-", low=-200),
    "words": Arithmetic(phrasing="What is {expression}?"),
}


def sides(source: Arithmetic, count: int = 300) -> tuple[list[Problem], list[Problem]]:
    return [source.train(seed, i) for seed in (0, 1) for i in range(count // 2)], source.heldout(count)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_gold_answers_are_exact_and_pass_their_own_scorer(source):
    problems = [p for side in sides(source) for p in side]
    for problem in problems:
        assert int(problem.answer) == value_of(problem.columns["expression"])
        assert problem.columns["expression"] in problem.prompt
    texts = [f"<think></think><answer>{p.answer}</answer>" for p in problems]
    values = score([load_reward(problems[0].scorer)], [p.prompt for p in problems], texts, reward_columns(problems))
    assert set(values["accuracy"]) == {1.0}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_no_training_problem_holds_a_held_out_one_in_its_expression_or_working(source):
    trained, held = sides(source)
    wanted = {p.columns["expression"] for p in held}
    assert all(is_heldout(expression) for expression in wanted)
    for problem in trained:
        shown = set()
        line = problem.columns["expression"]
        # The working, written by hand: the first product, else the first operation, is done and put in its place.
        while line.lstrip("-") != line.lstrip("-").replace("*", "").replace("+", "").replace("-", ""):
            shown |= runs(line) | {line}
            step = re.search(r"\d+\*\d+", line) or re.match(r"-?\d+[+-]\d+", line)
            line = line[: step.start()] + str(value_of(step.group())) + line[step.end() :]
        assert line == problem.answer
        assert not shown & wanted
        assert not any(is_heldout(expression) for expression in shown)


def test_held_out_problems_are_distinct_and_another_seed_gives_others():
    first, second = Arithmetic().heldout(256, seed=0), Arithmetic().heldout(256, seed=1)
    assert len({p.prompt for p in first}) == len(first) == 256
    assert {p.prompt for p in first} != {p.prompt for p in second}


def test_problem_depends_on_seed_and_index_alone():
    one, other = Arithmetic(), Arithmetic()
    later = [other.train(3, i) for i in reversed(range(50))]
    assert [one.train(3, i) for i in range(50)] == later[::-1]
    assert one.heldout(20) == other.heldout(20)
    assert one.train(3, 0) != one.train(4, 0)
    assert len({one.train(0, i).prompt for i in range(200)}) > 190


@pytest.mark.parametrize(
    ("options", "holds"),
    [
        ({"operands": {3: 1}}, lambda e: len(re.findall(r"\d+", e)) == 3),
        ({"operands": {2: 1, 5: 1}}, lambda e: len(re.findall(r"\d+", e)) in (2, 5)),
        ({"max_term": 12}, lambda e: all(int(n) <= 12 for n in re.findall(r"\d+", e))),
        ({"max_factor": 0}, lambda e: "*" not in e),
        ({"max_factor": 1}, lambda e: "*" not in e),
        ({"max_factor": 5}, lambda e: all(2 <= int(n) <= 5 for p in re.findall(r"(\d+)\*(\d+)", e) for n in p)),
        ({"operators": "+"}, lambda e: set(re.sub(r"\d", "", e)) == {"+"}),
        ({"low": 0, "high": 60}, lambda e: 0 <= value_of(e) <= 60),
    ],
)
def test_difficulty_options_hold_for_every_problem(options, holds):
    source = Arithmetic(**options)
    assert all(holds(p.columns["expression"]) for p in [source.train(0, i) for i in range(100)] + source.heldout(20))


def test_totals_stay_in_range_in_every_line():
    source = Arithmetic(operands={5: 1}, low=-10, high=70)
    for i in range(100):
        expression = source.train(0, i).columns["expression"]
        pieces = re.findall(r"[+-]?[\d*]+", expression)
        totals = [value_of("".join(pieces[: n + 1])) for n in range(len(pieces))]
        assert all(-10 <= total <= 70 for total in totals)


def test_narrow_difficulty_gives_the_held_out_problems_there_are():
    source = Arithmetic(operands={2: 1}, max_term=10, max_factor=0)
    every = {f"{a}{o}{b}" for a in range(1, 11) for b in range(1, 11) for o in "+-"}
    assert {p.columns["expression"] for p in source.heldout(256)} == {e for e in every if is_heldout(e)}


def test_a_larger_held_out_share_takes_more_problems_from_training():
    source = Arithmetic(operands={2: 1}, operators="+-", max_term=20, heldout_one_in=4)
    heldout = {p.columns["expression"] for p in source.heldout(800)}
    assert len(heldout) == pytest.approx(200, abs=40)
    assert {p.columns["expression"] for p in Arithmetic(operands={2: 1}, operators="+-", max_term=20).heldout(800)} <= (
        heldout
    )
    assert heldout.isdisjoint(source.train(0, i).columns["expression"] for i in range(1000))


def test_spaces_stand_around_operators_and_change_nothing_else():
    plain, spaced = Arithmetic(), Arithmetic(spaced=True)
    for one, other in zip(plain.heldout(50), spaced.heldout(50), strict=True):
        assert other.prompt.replace(" ", "") == one.prompt
        assert re.fullmatch(r"\d+( [-+*] \d+)+=\?", other.prompt)
        assert (one.answer, one.columns) == (other.answer, other.columns)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"phrasing": "Compute."}, "phrasing"),
        ({"phrasing": "{expression} is {what}?"}, "phrasing"),
        ({"phrasing": "{{expression}}"}, "phrasing"),
        ({"operands": {}}, "operands"),
        ({"operands": {1: 1.0}}, "operands"),
        ({"operands": {40: 1.0}}, "operands"),
        ({"operands": {2: -1.0}}, "operands"),
        ({"operands": {"two": 1.0}}, "operands"),
        ({"operands": 3}, "operands"),
        ({"operators": "/"}, "operators"),
        ({"operators": "*"}, "operators"),
        ({"max_term": 0}, "max_term"),
        ({"low": 5, "high": 5}, "low"),
        ({"low": 100, "high": 200, "max_term": 5}, "low=100"),
        ({"max_terms": 5}, "max_terms"),
        ({"max_term": "many"}, "max_term"),
        ({"heldout_one_in": 1}, "heldout_one_in"),
    ],
)
def test_wrong_option_is_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        load_source("arithmetic", options=options)

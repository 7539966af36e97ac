"""Tasks of reasoning-gym as problem sources, and their scorers as rewards."""

from __future__ import annotations

import inspect
import random
import re
import sys

import numpy as np
import pytest

pytest.importorskip("reasoning_gym", reason="the extra rlzero[gym] is not installed")

from reasoning_gym.factory import DATASETS

from data.gym import REFUSED, Gym, usable_tasks
from data.sources import load_source
from data.split import in_heldout_share
from rewards.gym import gym
from rewards.registry import load_reward, score

# Fast tasks of every kind: default scorer, own scorer, table of words, questions drawn up front.
TASKS = ("chain_sum", "gcd", "knights_knaves", "word_ladder", "gsm_symbolic", "list_functions", "spell_backward")


def completion(answer: str) -> str:
    return f"<think> let me see </think><answer>{answer}</answer>"


def rewards_of(problem, *answers: str) -> list[float | None]:
    columns = {key: [value] * len(answers) for key, value in problem.columns.items()}
    return gym([problem.prompt] * len(answers), [completion(a) for a in answers], **columns)


@pytest.mark.parametrize("task", TASKS)
def test_the_gold_answer_passes_the_tasks_own_scorer(task: str) -> None:
    for index in range(5):
        problem = Gym(task).train(0, index)
        assert problem.scorer == "gym"
        assert rewards_of(problem, problem.answer) == [1.0]


@pytest.mark.parametrize("task", TASKS)
def test_training_never_draws_from_the_held_out_share(task: str) -> None:
    source = Gym(task)
    assert not any(in_heldout_share(source.train(seed, i).prompt) for seed in (0, 1) for i in range(40))
    held = source.heldout(8)
    assert all(in_heldout_share(problem.prompt) for problem in held)
    assert len({problem.prompt for problem in held}) == len(held)
    assert held == source.heldout(8)


def test_a_problem_is_a_function_of_seed_and_index_in_any_order() -> None:
    first = [Gym("chain_sum").train(3, i).prompt for i in range(20)]
    assert [Gym("chain_sum").train(3, i).prompt for i in reversed(range(20))] == first[::-1]


def test_neighbouring_seeds_do_not_share_their_problems() -> None:
    source = Gym("chain_sum")
    streams = [{source.train(seed, i).prompt for i in range(50)} for seed in (0, 1)]
    assert len(streams[0] & streams[1]) < 5


def test_the_process_wide_generators_neither_decide_a_problem_nor_change() -> None:
    # list_functions draws from `random`, pool_matrix seeds numpy's generator.
    tasks = ("list_functions", "pool_matrix")
    drawn = []
    for seed in (7, 8):
        random.seed(seed)
        np.random.seed(seed)
        expected = random.Random(seed).random(), np.random.RandomState(seed).random()
        drawn.append([Gym(task).train(0, i).prompt for task in tasks for i in range(40)])
        assert (random.random(), np.random.random()) == expected
    assert drawn[0] == drawn[1]


def test_options_reach_the_task() -> None:
    problem = load_source("gym:chain_sum", options={"min_terms": 6, "max_terms": 6}).train(0, 0)
    assert len(re.findall(r"[+-] ", problem.prompt)) == 5


def test_unknown_options_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"gym:chain_sum has no option 'terms': it knows .*max_terms"):
        load_source("gym:chain_sum", options={"terms": 3})


def test_values_that_the_task_refuses_are_told() -> None:
    with pytest.raises(ValueError, match="gym:chain_sum refuses the options"):
        load_source("gym:chain_sum", options={"min_terms": -1})


def test_an_unknown_task_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown reasoning-gym task 'chian_sum'.*chain_sum"):
        load_source("gym:chian_sum")


@pytest.mark.parametrize("task", sorted(REFUSED))
def test_tasks_whose_scorer_is_unfit_are_refused_with_the_reason(task: str) -> None:
    with pytest.raises(ValueError, match="is refused") as error:
        Gym(task)
    assert REFUSED[task] in str(error.value)
    assert task in DATASETS


def test_no_usable_scorer_evaluates_text() -> None:
    # number_sorting evaluates its own gold answer, which no model writes; propositional_logic has its own parser.
    known = {"number_sorting", "propositional_logic"}
    pattern = re.compile(r"\b(eval|exec|parse_expr|sympify|Fraction)\(")
    for task in set(usable_tasks()) - known:
        source = inspect.getsource(DATASETS[task][0].score_answer)
        assert not pattern.search(source), task


@pytest.mark.parametrize(
    "answer",
    ["__import__('os').abort()", "1e999999999", "[" * 5000, "9" * 5000, "nan", "inf", "", "\x00", "\ud800"],
)
@pytest.mark.parametrize("task", ["gcd", "power_function", "prime_factorization", "number_sorting", "graph_color"])
def test_hostile_answers_earn_a_finite_value_in_0_1(task: str, answer: str) -> None:
    (value,) = rewards_of(Gym(task).train(0, 0), answer)
    assert value is not None
    assert 0.0 <= value <= 0.5


def test_no_answer_earns_nothing() -> None:
    problem = Gym("gcd").train(0, 0)
    columns = {key: [value] for key, value in problem.columns.items()}
    assert gym([problem.prompt], ["<think> I do not know"], **columns) == [0.0]


def test_rows_of_another_kind_are_none() -> None:
    assert gym(["p"], [completion("1")], gym_task=[None], gym_entry=[None]) == [None]


def test_scoring_one_sample_does_not_change_the_problem_for_the_next() -> None:
    problem = Gym("gcd").train(0, 0)
    before = repr(problem)
    rewards_of(problem, problem.answer, "0")
    assert repr(problem) == before


def test_the_registry_knows_the_reward() -> None:
    problem = Gym("gcd").train(0, 0)
    columns = {key: [value] for key, value in problem.columns.items()}
    values = score([load_reward("gym")], [problem.prompt], [completion(problem.answer)], columns)
    assert values == {"gym": [1.0]}


def test_a_missing_package_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match=r"rlzero\[gym\]"):
        load_source("gym:chain_sum", options={"min_terms": 4, "max_terms": 4})

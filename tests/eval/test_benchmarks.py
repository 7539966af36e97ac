"""Every benchmark's gold passes its own scorer, and what cannot be loaded is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from data.templates import get_template
from eval.benchmarks import BENCHMARKS, Benchmark, BenchmarkError, Generated, load_benchmarks
from rewards.registry import load_reward, score
from rlzero.measure.text import reward_columns

DATA = Path(os.environ.get("RLZERO_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data")
SIZES = {
    "gsm8k": 1319,
    "math500": 500,
    "aime24": 30,
    "amc23": 40,
    "minerva_math": 272,
    "olympiadbench": 675,
    "svamp": 1000,
}
# One row of each file in its own shape, made up.
ROWS = {
    "gsm8k": ({"question": "2+3?", "answer": "2+3=5\n#### 5"}, "2+3?", "5"),
    "math500": ({"problem": "Half?", "solution": "…", "answer": "\\frac{1}{2}"}, "Half?", "\\frac{1}{2}"),
    "aime24": ({"problem": "Twenty-five?", "answer": "025"}, "Twenty-five?", "25"),
    "amc23": ({"question": "27?", "answer": 27.0}, "27?", "27"),
    "minerva_math": ({"problem": "Two?", "solution": "So \\boxed{2}."}, "Two?", "2"),
    "olympiadbench": (
        {"question": "Root?", "context": "Let $x^2=2$.", "final_answer": ["$\\sqrt{2}$"], "unit": None},
        "Let $x^2=2$.\nRoot?",
        "$\\sqrt{2}$",
    ),
    "svamp": ({"Body": "Ann has 3 pens", "Question": "How many?", "Answer": 3.0}, "Ann has 3 pens. How many?", "3"),
}


def load(name: str, data_dir: Path | None = None, limit: int | None = None, template: str = "r1_zero"):
    (loaded,) = load_benchmarks([name], limit=limit, data_dir=data_dir, seed=0, template=get_template(template))
    return loaded


def golds_right(problems) -> list[bool]:
    texts = [f"<think>it is known</think><answer>{problem.answer}</answer>" for problem in problems]
    (scorer,) = {problem.scorer for problem in problems}
    values = score([load_reward(scorer)], [p.prompt for p in problems], texts, reward_columns(problems))
    return [value == 1.0 for value in values[scorer]]


@pytest.mark.parametrize("name", [b.name for b in BENCHMARKS.values() if isinstance(b, Benchmark)])
def test_every_gold_of_a_benchmark_passes_its_own_scorer(name: str) -> None:
    if not (DATA / name / "test.jsonl").is_file():
        pytest.skip(f"no {name}/test.jsonl: set RLZERO_DATA_DIR to the folder with the benchmark files")
    problems = load(name, DATA).problems
    assert len(problems) == SIZES[name]
    wrong = [p.answer for p, right in zip(problems, golds_right(problems), strict=True) if not right]
    assert not wrong


@pytest.mark.parametrize("name", [b.name for b in BENCHMARKS.values() if isinstance(b, Generated)])
def test_every_gold_of_a_generator_passes_its_own_scorer(name: str) -> None:
    problems = load(name, limit=64).problems
    assert len({problem.prompt for problem in problems}) == 64
    assert all(golds_right(problems))


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_row_becomes_question_and_answer(name: str, tmp_path: Path) -> None:
    row, question, answer = ROWS[name]
    (tmp_path / name).mkdir()
    (tmp_path / name / "test.jsonl").write_text(json.dumps(row) + "\n")
    loaded = load(name, tmp_path)
    assert [(p.prompt, p.answer) for p in loaded.problems] == [(question, answer)]
    assert loaded.origin == {"file": str(tmp_path / name / "test.jsonl")}
    assert golds_right(loaded.problems) == [True]


def test_every_table_is_pinned_to_a_revision() -> None:
    for benchmark in BENCHMARKS.values():
        if isinstance(benchmark, Benchmark):
            assert len(benchmark.hub.revision) == 40


def test_a_limit_takes_a_random_choice_that_stays_the_same(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": str(i)} for i in range(50)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = [p.prompt for p in load("gsm8k", tmp_path, limit=5).problems]
    assert chosen == [p.prompt for p in load("gsm8k", tmp_path, limit=5).problems]
    assert len(set(chosen)) == 5
    assert chosen != [f"q{i}" for i in range(5)]


def test_countdown_asks_a_trained_toy_in_its_own_words_and_others_in_full() -> None:
    assert load("countdown", limit=1, template="short").problems[0].prompt.startswith("Make ")
    assert load("countdown", limit=1).problems[0].prompt.startswith("Using the numbers")


def test_a_gym_task_is_a_benchmark() -> None:
    pytest.importorskip("reasoning_gym", reason="the extra rlzero[gym] is not installed")
    assert all(golds_right(load("gym:chain_sum", limit=16).problems))


def test_an_unknown_task_lists_those_there_are() -> None:
    with pytest.raises(BenchmarkError, match=r"unknown evaluation task 'math50'.*gsm8k, math500.*gym:<task>"):
        load("math50")


def test_a_data_directory_without_the_file_names_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"task 'gsm8k' needs one of the files .*gsm8k/test\.jsonl"):
        load("gsm8k", tmp_path)


def test_a_missing_data_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"data directory .* does not exist"):
        load("gsm8k", tmp_path / "none")


def test_a_row_without_an_answer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.jsonl").write_text('{"question": "q", "reply": "1"}\n')
    with pytest.raises(BenchmarkError, match="it has question, reply"):
        load("gsm8k", tmp_path)

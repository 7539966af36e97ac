"""Cold-start thoughts: generated ones are right and clean, a user's are read or refused, a run's are verified."""

from __future__ import annotations

import itertools
import json
import re
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.arithmetic import Arithmetic
from data.chains import contains_heldout
from data.corpus import documents
from data.countdown import Countdown
from data.countdown import is_heldout as is_heldout_countdown
from data.table import TableError
from data.thoughts import (
    GENERATORS,
    Thought,
    ThoughtError,
    generated_thoughts,
    load_thoughts,
    read_thoughts,
    verified_samples,
)
from rewards.countdown import countdown
from rewards.format import format as format_reward
from rlzero.report.run_dir import RunDirectory

SEEDS = st.integers(0, 10_000)


def load(name, count=None, seed=0, per_problem=1, from_step=0):
    return load_thoughts(str(name), count, seed, per_problem, from_step)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_generated_arithmetic_is_worked_out_and_right(seed):
    for thought in generated_thoughts("arithmetic", 20, seed):
        expression = thought.prompt.removesuffix("=?")
        steps, answer = re.fullmatch(r"<think>(.*)</think><answer>(-?\d+)</answer>", thought.completion).groups()
        first, *_, last = steps.split("=")
        assert first == expression
        assert last == answer
        assert not contains_heldout(thought.prompt + " " + thought.completion)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_generated_countdown_searches_until_it_hits(seed):
    for thought in generated_thoughts("countdown", 20, seed):
        target, *numbers = map(int, re.findall(r"\d+", thought.prompt))
        tries = re.search(r"<think>(.*)</think>", thought.completion)[1].split(",")
        assert [int(line.split("=")[-1]) == target for line in tries] == [False] * (len(tries) - 1) + [True]
        scores = countdown([thought.prompt], [thought.completion], numbers=[numbers], target=[target])
        assert scores == [1.0]
        assert not is_heldout_countdown(numbers, target)
        assert not contains_heldout(thought.completion)


@pytest.mark.parametrize("task", GENERATORS)
def test_generated_thoughts_have_the_format_and_different_questions(task):
    thoughts = generated_thoughts(task, 100, seed=1)
    assert format_reward([t.prompt for t in thoughts], [t.completion for t in thoughts]) == [1.0] * 100
    assert len({t.prompt for t in thoughts}) == 100
    assert thoughts == generated_thoughts(task, 100, seed=1)
    assert thoughts != generated_thoughts(task, 100, seed=2)


@pytest.mark.parametrize(("task", "source"), [("arithmetic", Arithmetic()), ("countdown", Countdown())])
def test_no_held_out_problem_is_among_the_thoughts(task, source):
    heldout = {problem.prompt for problem in source.heldout(256)}
    assert heldout.isdisjoint(thought.prompt for thought in generated_thoughts(task, 400, seed=0))


def test_the_corpus_of_a_seed_is_what_the_shipped_base_was_trained_on():
    digest = sha256("\n".join(itertools.islice(documents(0), 2000)).encode()).hexdigest()
    assert digest == "38708ecf686689380d3843e682f4961e5e56cc33549e2f66d54fd8e6bf1e680d"


def test_asking_for_more_questions_than_there_are_is_refused(monkeypatch):
    monkeypatch.setitem(GENERATORS, "arithmetic", lambda rng: Thought("1+1=?", "2"))
    with pytest.raises(ThoughtError, match="only 1 different questions, and 2"):
        generated_thoughts("arithmetic", 2, seed=0)


def write_jsonl(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompt_and_completion_columns_are_read(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", {"prompt": "1+1", "completion": "<think>a</think> 2", "source": "me"})
    assert read_thoughts(str(path)) == [Thought("1+1", "<think>a</think> 2")]


@pytest.mark.parametrize("column", ["messages", "prompt"])
def test_conversations_of_one_exchange_are_read(tmp_path, column):
    user, assistant = {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}
    row = {"messages": [user, assistant]} if column == "messages" else {"prompt": [user], "completion": [assistant]}
    assert read_thoughts(str(write_jsonl(tmp_path / "t.jsonl", row))) == [Thought("1+1", "2")]


def test_a_system_prompt_is_refused_rather_than_dropped(tmp_path):
    messages = [{"role": role, "content": "x"} for role in ("system", "user", "assistant")]
    path = write_jsonl(tmp_path / "t.jsonl", {"messages": messages})
    with pytest.raises(ThoughtError, match=r"row 0 of .* has system, user, assistant"):
        read_thoughts(str(path))


def test_missing_columns_are_named(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", {"question": "1+1", "completion": "2"})
    with pytest.raises(ThoughtError, match=r"need the columns prompt and completion, or messages.* has completion, q"):
        read_thoughts(str(path))


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_an_empty_completion_is_refused_with_its_row(tmp_path, empty):
    rows = {"prompt": "1+1", "completion": "2"}, {"prompt": "1+2", "completion": empty}
    with pytest.raises(ThoughtError, match="row 1 of"):
        read_thoughts(str(write_jsonl(tmp_path / "t.jsonl", *rows)))


def test_a_file_without_rows_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.touch()
    with pytest.raises(TableError):
        read_thoughts(str(path))


def test_an_unknown_source_lists_what_there_is():
    with pytest.raises(ThoughtError, match=r"no thoughts at 'nowhere.jsonl': name arithmetic, countdown, a run dir"):
        load("nowhere.jsonl")


def test_generated_thoughts_need_a_number():
    with pytest.raises(ThoughtError, match="num_thoughts"):
        load("arithmetic")


def test_a_table_is_drawn_from_without_repeats(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", *({"prompt": f"q{i}", "completion": "a"} for i in range(30)))
    drawn = load(path, count=10)
    assert len(set(drawn)) == 10
    assert drawn == load(path, count=10)
    assert len(load(path, count=99)) == 30


def rollout(prompt="1+1=?", completion="<think>1+1=2</think><answer>2</answer>", **changes):
    row = {
        "prompt": prompt,
        "answer": "2",
        "completion": completion,
        "finish_reason": "stop",
        "length": 9,
        "reward": 1.0,
        "advantage": 0.5,
        "correct": True,
        "reward/format": 1.0,
    }
    return row | changes


def write_run(path: Path, *steps: list[dict]) -> Path:
    directory = RunDirectory.create(path, {"seed": 0})
    for step, rows in enumerate(steps, start=1):
        directory.write_rollouts(step, rows)
    return path


def test_only_right_well_formatted_and_complete_samples_of_a_run_count(tmp_path):
    wrong = [
        rollout("q1", correct=False),
        rollout("q2", **{"reward/format": 0.0}),
        rollout("q3", finish_reason="length"),
    ]
    run = write_run(tmp_path / "run", [*wrong, rollout()])
    assert verified_samples(run) == [Thought("1+1=?", "<think>1+1=2</think><answer>2</answer>")]


def test_the_newest_different_samples_of_a_problem_are_kept(tmp_path):
    run = write_run(
        tmp_path / "run",
        [rollout(completion="old"), rollout("other")],
        [rollout(completion="new"), rollout(completion="new"), rollout(completion="newer")],
    )
    texts = [t.completion for t in load(run, per_problem=2) if t.prompt == "1+1=?"]
    assert texts == ["newer", "new"]
    assert len(verified_samples(run, per_problem=9)) == 4
    assert [t.prompt for t in verified_samples(run, from_step=2)] == ["1+1=?"]


def test_a_run_without_a_verified_sample_is_refused(tmp_path):
    run = write_run(tmp_path / "run", [rollout(correct=False)])
    with pytest.raises(ThoughtError, match="no completion from step 0 on"):
        verified_samples(run)


def test_a_run_that_never_trained_is_refused(tmp_path):
    with pytest.raises(ThoughtError, match="has no rollouts"):
        load(write_run(tmp_path / "run"))


def test_a_broken_rollout_file_is_named(tmp_path):
    run = write_run(tmp_path / "run", [rollout()])
    (run / "rollouts" / "step-000002.parquet").write_bytes(b"torn")
    with pytest.raises(ThoughtError, match=r"cannot read the rollouts in .*step-000002"):
        verified_samples(run)

"""Gold answers of real benchmarks equal themselves however they are written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards import check_gold, explain, extract_answer, verify
from rewards.verify.extract import boxed

FOLDER = Path(os.environ.get("RLZERO_DATA_DIR") or Path(__file__).resolve().parents[4] / "shared" / "data")
# What its source got wrong: dollar signs that do not pair.
MALFORMED = {"$221,$8$"}


def _rows(name: str) -> Iterator[dict]:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not in the data folder; set RLZERO_DATA_DIR to the folder that has it")
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines)


def _golds(benchmark: str) -> list[str]:
    if benchmark == "gsm8k":
        found = [
            r["answer"].split("####")[1].strip() for part in ("train", "test") for r in _rows(f"gsm8k/{part}.jsonl")
        ]
    elif benchmark == "olympiadbench":
        found = [a for r in _rows("olympiadbench/test.jsonl") for a in r["final_answer"]]
    elif benchmark == "minerva_math":
        found = [b for r in _rows("minerva_math/test.jsonl") for b in boxed(r["solution"])[-1:]]
    else:
        key = "Answer" if benchmark == "svamp" else "answer"
        found = [str(r[key]) for r in _rows(f"{benchmark}/test.jsonl")]
    return [gold for gold in dict.fromkeys(found) if gold not in MALFORMED]


def _rewritings(gold: str) -> Iterator[str]:
    """The same answer as ten and more other people would write it."""
    money = "\\$" in gold
    plain = gold if money else gold.replace("$", "")
    yield f"  {gold.replace(' ', '  ')} "
    yield gold.replace("\\frac", "\\dfrac")
    yield gold.replace("\\dfrac", "\\frac").replace("\\frac", "\\tfrac")
    yield re.sub(r"(?<!\\left)(?<![A-Za-z\\])\((.*)\)(?!.*\))", r"\\left(\1\\right)", gold)
    yield f"\\boxed{{{plain}}}"
    yield f"So the answer is $\\boxed{{{plain}}}$."
    yield f"\\({plain}\\)"
    yield f"\\[{plain}\\]"
    yield f"{gold}."
    yield f"**{gold}**"
    yield gold.replace("-", "−")
    yield gold.replace("\\cdot", "\\times")
    yield f"The answer is {gold}."
    if not money:
        yield f"${plain}$"
        yield f"$${plain}$$"
    if re.fullmatch(r"-?[\d.,]+", gold):
        yield f"{gold} \\text{{ units}}"
        yield f"{gold} apples"


@pytest.mark.parametrize("benchmark", ["gsm8k", "math500", "aime24", "amc23", "svamp", "minerva_math", "olympiadbench"])
def test_every_gold_answer_equals_its_mechanical_rewritings(benchmark):
    wrong = []
    for gold in _golds(benchmark):
        assert verify(gold, gold), gold
        for other in _rewritings(gold):
            if not verify(gold, other):
                wrong.append(f"{gold} | {other}: {explain(gold, other)}")
    assert not wrong, "\n".join(wrong[:20])


def test_the_boxed_answer_of_every_math500_solution_equals_its_answer_field():
    wrong = []
    for row in _rows("math500/test.jsonl"):
        offered = extract_answer(row["solution"])
        if offered is None or not verify(row["answer"], offered):
            wrong.append((row["answer"], offered))
    assert not wrong


@pytest.mark.parametrize("benchmark", ["gsm8k", "math500", "aime24", "amc23", "svamp"])
def test_every_gold_answer_of_the_usual_benchmarks_can_be_read(benchmark):
    report = check_gold(_golds(benchmark))
    assert report.unreadable == 0, report


def test_different_gold_answers_of_one_benchmark_are_different():
    golds = [g for g in _golds("math500") if not re.fullmatch(r"-?\d+", g)][:90]
    equal = [(a, b) for i, a in enumerate(golds) for b in golds[i + 1 :] if verify(a, b)]
    # Written twice in the benchmark: 4/3 and 11/2 and the like, and coordinates beside a list.
    assert all(explain(a, b).gold == explain(a, b).answer for a, b in equal), equal

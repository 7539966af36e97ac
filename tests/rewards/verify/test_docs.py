"""docs/verifier.md says what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from rewards import explain, extract_answer

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "verifier.md").read_text(encoding="utf-8")
PAIR = re.compile(r"`([^`]+)` ([=≠]) `([^`]+)`")


def _section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _rows(title: str) -> list[list[str]]:
    lines = [line for line in _section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.S))
def test_the_examples_run(code, tmp_path):
    names = "from rewards import check_gold, explain, extract_answer, verify, verify_many\n"
    script = tmp_path / "example.py"
    script.write_text(names + code, encoding="utf-8")
    runpy.run_path(str(script))


@pytest.mark.parametrize("title", ["Rules", "What is read as the same"])
def test_every_example_of_a_table_is_judged_as_it_says(title):
    pairs = PAIR.findall(_section(title))
    assert len(pairs) > 10
    wrong = [
        f"{gold} {sign} {answer}: {verdict}"
        for gold, sign, answer in pairs
        if (verdict := explain(gold, answer, timeout=20)).equal != (sign == "=")
    ]
    assert not wrong, "\n".join(wrong)


def test_each_rule_decides_its_first_example():
    for row in _rows("Rules"):
        examples = PAIR.findall(" ".join(row[2:4]))
        if examples:
            decided = {explain(gold, answer, timeout=20).rule for gold, _, answer in examples}
            assert row[0] in decided, (row[0], decided)


def test_the_table_names_every_rule_of_the_code():
    named = {row[0] for row in _rows("Rules")}
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (Path(__file__).resolve().parents[3] / "rewards" / "verify").glob("*.py")
    )
    used = set(re.findall(r'Result\([^"\n]*, "([a-z0-9 ]+)"(?:,|\))', source))
    used |= set(re.findall(r'rule="([a-z0-9 ]+)"', source))
    assert {"exact form", "intervals", "assignment"} <= used
    assert used - named <= {"error", "value"}, used - named  # "value" is an attribute


def test_every_row_of_the_extraction_table_holds():
    rows = _rows("Extraction")
    assert len(rows) > 10
    for completion, answer, *_ in rows:
        expected = None if answer == "none" else answer.strip("`")
        assert extract_answer(completion.strip("`")) == expected, completion

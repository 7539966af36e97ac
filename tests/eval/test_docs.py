"""docs/evaluation.md says what is so."""

from __future__ import annotations

import shlex
from pathlib import Path

from eval.benchmarks import BENCHMARKS
from eval.command import _parser
from tests.docs_examples import blocks, run_examples

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()


def test_every_python_example_runs_and_prints_what_the_page_says(tmp_path: Path) -> None:
    assert run_examples(PAGE, tmp_path) > 0


def test_every_command_on_the_page_parses() -> None:
    commands = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]
    assert commands
    for command in commands:
        python, flag, module, *arguments = shlex.split(command)
        assert (python, flag, module) == ("python", "-m", "eval")
        tasks = _parser().parse_args(arguments).tasks.split(",")
        assert set(tasks) <= set(BENCHMARKS)


def test_every_task_is_on_the_page() -> None:
    for name in BENCHMARKS:
        assert f"`{name}`" in PAGE

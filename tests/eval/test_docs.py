"""docs/evaluation.md says what is so."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from eval.benchmarks import BENCHMARKS
from eval.command import _parser

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_every_python_example_runs_and_prints_what_the_page_says() -> None:
    for block in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        )
        expected = re.findall(r"^#> (.*)$", block, re.MULTILINE)
        assert done.stdout.splitlines() == expected


def test_every_command_on_the_page_parses() -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert commands
    for command in commands:
        python, flag, module, *arguments = shlex.split(command)
        assert (python, flag, module) == ("python", "-m", "eval")
        tasks = _parser().parse_args(arguments).tasks.split(",")
        assert set(tasks) <= set(BENCHMARKS)


def test_every_task_is_on_the_page() -> None:
    for name in BENCHMARKS:
        assert f"`{name}`" in PAGE

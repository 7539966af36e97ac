"""Runs the examples of a documentation page, so that the page says what is so.

In a page, a fenced block of `python` is run in a folder of its own, where the repository can be imported. What it
prints must be what its lines beginning with `#> ` say. A block whose first line is a comment with a file's name
(`# my_reward.py`) is written to that file instead. In a block of `console`, lines beginning with `$ ` are commands
(`python …`), and what follows each is what it prints; a line `…` stands for any lines, `…` at the end of a line for
any rest of it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def run_examples(page: str, folder: Path) -> int:
    """Run all examples of a page in `folder`; return how many. Raises AssertionError where one does not hold."""
    count = 0
    for block in blocks(page, "python"):
        name = re.match(r"# ([\w./-]+\.\w+)\n", block)
        if name:
            (folder / name[1]).write_text(block)
            continue
        expected = "".join(line + "\n" for line in re.findall(r"^#> (.*)$", block, re.MULTILINE))
        assert _printed(["python", "-c", block], folder) == expected, block
        count += 1
    for block in blocks(page, "console"):
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            pattern = "".join(map(_pattern, output.splitlines(keepends=True)))
            printed = _printed(shlex.split(command), folder)
            assert re.fullmatch(pattern, printed), f"$ {command}\n{printed}"
            count += 1
    return count


def _pattern(line: str) -> str:
    if line == "…\n":
        return r"(?:.*\n)*?"
    return re.escape(line[:-2]) + r".*\n" if line.endswith("…\n") else re.escape(line)


def _printed(command: list[str], folder: Path) -> str:
    assert command[0] == "python", f"an example starts with python, got {command!r}"
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout

"""Shared by all tests: tiny random models, and whole runs in a few seconds."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Milliseconds a step: two problems, two answers each, a dozen tokens, no evaluation, no tracker.
TINY_SETTINGS = {
    "rollout": "builtin",
    "dataset_name": "arithmetic",
    "template": "short",
    "num_generations": 2,
    "max_completion_length": 12,
    "prompts_per_step": 2,
    "max_steps": 3,
    "learning_rate": 0.001,
    "eval_problems": 0,
    "save_steps": 0,
    "report_to": "none",
}


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the embedded kind, one layer deep, with its tokenizer."""
    from data.charset import byte_tokenizer
    from recipes.base_model import BaseModelConfig, build_model

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = byte_tokenizer()
    config = BaseModelConfig(hidden_size=64, num_hidden_layers=1, num_experts=4, moe_intermediate_size=32)
    build_model(config, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Outcome:
    """What a run did: its exit code and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class TinyRun:
    """Starts `recipes/r1_zero.py` on the tiny model, in this process or in its own.

    Settings are given by name and win over `TINY_SETTINGS`; `extra` goes to the command line as it is.
    """

    model: Path
    output: Path

    def arguments(self, extra: tuple[str, ...] = (), **settings: object) -> list[str]:
        given = {"model_name_or_path": self.model, "output_dir": self.output, **TINY_SETTINGS, **settings}
        words: list[str] = []
        for name, value in given.items():
            if value is not None:
                words += [f"--{name}", *(map(str, value) if isinstance(value, list | tuple) else [str(value)])]
        return [*words, *extra]

    def __call__(self, *extra: str, **settings: object) -> Outcome:
        """In this process: `rlzero.grpo.run.main`, as the recipe calls it."""
        from rlzero.grpo.run import main

        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(self.arguments(extra, **settings), default_config=self.empty_config())
        return Outcome(code, out.getvalue(), err.getvalue())

    def command(self, *extra: str, **settings: object) -> list[str]:
        config = ("--config", str(self.empty_config()))
        return [sys.executable, str(ROOT / "recipes" / "r1_zero.py"), *config, *self.arguments(extra, **settings)]

    def start(self, *extra: str, **settings: object) -> subprocess.Popen:
        """In a process of its own, which Ctrl-C reaches."""
        return subprocess.Popen(
            self.command(*extra, **settings),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def in_subprocess(self, *extra: str, **settings: object) -> Outcome:
        process = self.start(*extra, **settings)
        out, err = process.communicate(timeout=200)
        return Outcome(process.returncode, out, err)

    def empty_config(self) -> Path:
        """A YAML file that sets nothing: the defaults of the dataclasses and `TINY_SETTINGS` alone count."""
        path = self.output.parent / "nothing.yaml"
        path.write_text("{}\n")
        return path


@pytest.fixture
def tiny_run(tiny_model_dir: Path, tmp_path: Path) -> TinyRun:
    return TinyRun(tiny_model_dir, tmp_path / "run")


@pytest.fixture
def reward_file(tmp_path: Path) -> Callable[[str], str]:
    """Writes a user's reward file and returns the spec of its function `reward`."""

    def write(body: str, name: str = "mine.py") -> str:
        path = tmp_path / name
        path.write_text(body)
        return f"{path}:reward"

    return write

"""The whole product, as `make zero` runs it: the shipped base, the default recipe, vLLM where it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_default_recipe_turns_the_guessing_base_into_a_reasoning_model(tmp_path: Path) -> None:
    output = tmp_path / "zero"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]
    subprocess.run([*launch, "recipes/r1_zero.py", "--output_dir", str(output)], cwd=ROOT, check=True)
    summary = json.loads((output / "summary.json").read_text())
    base, trained = summary["base"], summary["trained"]
    assert base["pass@1"] <= 0.30
    assert base["pass@8"] >= 0.80
    assert trained["pass@1"] >= 0.95
    assert trained["format"] >= 0.99
    assert trained["length"] >= 1.8 * base["length"]
    assert (output / "curves.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_countdown_recipe_learns_to_search_longer(tmp_path: Path) -> None:
    output = tmp_path / "countdown"
    command = [sys.executable, "recipes/r1_zero.py", "--config", "recipes/countdown.yaml", "--max_steps", "15"]
    shorter = ["--eval_problems", "128", "--eval_samples", "4", "--eval_steps", "0"]
    subprocess.run([*command, *shorter, "--output_dir", str(output)], cwd=ROOT, check=True)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["trained"]["pass@1"] >= 1.5 * summary["base"]["pass@1"]
    assert summary["trained"]["length"] >= 1.5 * summary["base"]["length"]

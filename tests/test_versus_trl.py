"""The comparison with TRL (benchmarks/versus_trl.py) runs, and both sides do the same work."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_lengths_of_answers_have_a_mean_of_about_sixty_and_a_long_tail():
    spec = importlib.util.spec_from_file_location("drawn", ROOT / "benchmarks" / "drawn.py")
    drawn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawn)
    lengths = drawn.draw_lengths(np.random.default_rng(0), 10_000)
    assert 55 < lengths.mean() < 65
    assert np.median(lengths) < 50
    assert lengths.min() >= 2
    assert lengths.max() == drawn.LONGEST == 256


@pytest.mark.slow
def test_last_line_holds_the_ratios_of_a_run_with_transformers_generation():
    """It fails by itself where prompts or answers of the two sides differ in tokens."""
    command = [sys.executable, str(ROOT / "benchmarks" / "versus_trl.py"), "--rounds", "1", "--prompts", "1"]
    done = subprocess.run([*command, "--engines", "hf"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert all(figures[name] > 0 for name in ("step_ratio_hf", "train_ratio", "memory_ratio", "rss_ratio"))

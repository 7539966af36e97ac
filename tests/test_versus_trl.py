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
@pytest.mark.parametrize("engine", ["hf", "vllm"])
def test_last_line_holds_the_ratios_of_a_run(engine):
    """It fails by itself where prompts or answers of the two sides differ in tokens."""
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is an extra, and is not installed here")
    command = [sys.executable, str(ROOT / "benchmarks" / "versus_trl.py"), "--rounds", "1", "--prompts", "1"]
    done = subprocess.run([*command, "--engines", engine], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    ratios = [figures[name] for name in (f"step_ratio_{engine}", "train_ratio", "memory_ratio", "rss_ratio")]
    # None where a side was out, which its output says.
    assert all(ratio is not None and ratio > 0 for ratio in ratios), done.stdout

"""Every system of the MoE line, from random weights over pretraining to RL: the two recipes, as a user runs them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.base_model import EMBEDDED
from rlzero.models.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
STEPS = 5


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [EMBEDDED, *PRESETS])
def test_a_pretrained_preset_runs_grpo_steps_in_the_engine_that_it_has(name: str, tmp_path: Path) -> None:
    base, output = tmp_path / "base", tmp_path / "run"
    recipe("base_model.py", preset=name, tokens=150_000, warmup_steps=10, eval_problems=0, output_dir=base)
    recipe(
        "r1_zero.py",
        model_name_or_path=base,
        output_dir=output,
        # vLLM has no LSTM.
        rollout="builtin" if name == "shazeer-2017" else "vllm",
        # After so short a pretraining no answer is right. Chance rewards some, so that every update moves the weights,
        # and the engine has new ones to agree about.
        reward_funcs="coin",
        reward_weights=1.0,
        max_steps=STEPS,
        prompts_per_step=8,
        max_completion_length=48,
        eval_problems=0,
        eval_steps=0,
        sync_check_every=1,
        report_to="none",
    )
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert math.isfinite(row["loss"])
        assert row["grad_norm"] > 0
        assert row["sync_diff"] < 1e-4


def recipe(script: str, **settings: object) -> None:
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, f"recipes/{script}", *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"

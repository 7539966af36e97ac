"""A checkpoint of one process, of whole models in two, or of sharded ones in two is the same to each of the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlzero.report.run_dir import read_metrics
from tests.conftest import TinyRun
from tests.grpo.launching import run_two

LENGTHS = "def reward(completions, **columns):\n    return [float(len(set(c))) for c in completions]\n"
SETTINGS = {
    "num_generations": 4, "prompts_per_step": 4, "max_steps": 5, "tokens_per_microbatch": 64, "beta": 0.05,
    "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5, "save_steps": 1,
    "save_total_limit": 9, "curriculum": "learnability", "curriculum_pool": 32,
}  # fmt: skip
COMPARED = ("reward", "tokens", "trained_tokens", "loss", "grad_norm", "entropy", "kl")


@pytest.mark.slow
def test_run_goes_on_in_another_layout_as_it_would_have(tiny_run, reward_file):
    """One process, then two sharded ones, then two with whole models, then one again."""
    settings = {**SETTINGS, "reward_funcs": [reward_file(LENGTHS)]}
    alone = tiny_run.output.parent / "alone"
    assert tiny_run(**settings, output_dir=alone).code == 0
    before = alone
    for layout, start in (("fsdp", 1), ("ddp", 3), ("alone", 4)):
        after = as_it_was(before, start, tiny_run.output.parent / f"{layout} from {start}")
        resumed = TinyRun(tiny_run.model, after)
        if layout == "alone":
            assert resumed("--resume", **settings).code == 0
        else:
            done = run_two(layout, *resumed.command("--resume", **settings)[1:])
            assert done.returncode == 0, done.stderr[-3000:]
            assert "2 × cpu" in done.stdout
        for own, wanted in zip(read_metrics(after), read_metrics(alone), strict=True):
            for key in COMPARED:
                assert own[key] == pytest.approx(wanted[key], rel=1e-5, abs=1e-5), (layout, own["step"], key)
        for file in ("checkpoints/step-000005/model", "checkpoints/step-000005/reference", "model/model"):
            own, wanted = (load_file(run / f"{file}.safetensors") for run in (after, alone))
            assert own.keys() == wanted.keys()
            for name, tensor in wanted.items():
                torch.testing.assert_close(own[name], tensor, rtol=0, atol=1e-5, msg=f"{layout} {name}")
        before = after


def as_it_was(run: Path, step: int, copy: Path) -> Path:
    """A copy of the run that was killed after the checkpoint of this step."""
    shutil.copytree(run, copy)
    for later in (copy / "checkpoints").iterdir():
        if int(later.name.removeprefix("step-")) > step:
            shutil.rmtree(later)
    return copy

"""Two processes, whole models or sharded ones, take the steps that one process takes with the same groups."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator

from tests.conftest import ROOT
from tests.grpo.two_processes_options import CASES, train


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_every_objective_takes_the_steps_of_one_process(sharding, tmp_path):
    """Also where one process has fewer groups with a signal than the other, where it has none, and where nobody has."""
    script = ROOT / "tests" / "grpo" / "two_processes_options.py"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script),
         sharding, str(tmp_path), *CASES],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for case in CASES:
        together, alone = torch.load(tmp_path / f"{case}.pt"), train(case, Accelerator(cpu=True))
        assert together.keys() == alone.keys()
        assert sum(name.endswith("grad_norm") and float(value) > 0 for name, value in alone.items()) >= 2
        for name, tensor in alone.items():
            torch.testing.assert_close(
                together[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, at=(case, name): f"{at}: {text}"
            )

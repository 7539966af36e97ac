"""Two processes on this machine, as torchrun starts them: with whole models, or with sharded ones."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT

# What `accelerate launch` sets for `distributed_type: FSDP`; it does so for GPUs only.
LAYOUTS = {
    "ddp": {},
    "fsdp": {
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
    },
}  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment(layout: str, **more: str) -> dict[str, str]:
    """Of a process on the CPU. Threads of two processes on one core would wait for each other."""
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **own, **LAYOUTS[layout], **more}


def run_two(layout: str, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
    """A script and its arguments in two processes. more: environment variables."""
    return subprocess.run(
        [*TORCHRUN, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
        env=environment(layout, **more),
    )  # fmt: skip

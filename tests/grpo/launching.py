"""Two processes on this machine, as torchrun starts them: with whole models, or with sharded ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import ROOT, TinyRun

# What `accelerate launch` sets for `distributed_type: FSDP`; it does so for GPUs only.
LAYOUTS = {
    "ddp": {},
    "fsdp": {
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
    },
}  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


# Seconds, of some twenty that a run takes; below the limit of a test.
PATIENCE = 240


def environment(layout: str, **more: str) -> dict[str, str]:
    """Of a process on the CPU. Threads of two processes on one core would wait for each other."""
    own = {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }  # fmt: skip
    return {**os.environ, **own, **LAYOUTS[layout], **more}


def run_two(layout: str, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
    """A script and its arguments in two processes. more: environment variables. Processes that wait for each other
    fail the test with the place where each of their threads stands."""
    command = [*TORCHRUN, *map(str, words)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(layout, **more)
    ) as launcher:
        try:
            out, err = launcher.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            for worker in psutil.Process(launcher.pid).children(recursive=True):
                worker.send_signal(signal.SIGABRT)
            out, err = launcher.communicate()
            pytest.fail(f"the processes did not end within {PATIENCE} s:\n{out[-3000:]}\n{err}")
    return subprocess.CompletedProcess(command, launcher.returncode, out, err)


def start_two(run: TinyRun, *extra: str, **settings: object) -> subprocess.Popen:
    """`TinyRun.start` in two processes with whole models; Ctrl-C reaches them by their launcher's group alone."""
    return subprocess.Popen(
        [*TORCHRUN, *run.command(*extra, **settings)[1:]],
        cwd=ROOT,
        env=environment("ddp"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

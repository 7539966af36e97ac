"""When one process raises, all end, with its message and its exit code; also without a launcher."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.grpo.launching import environment, run_two

# Seconds in which all must have ended.
A_MINUTE = 60
# One process raises in its second rollout, and leaves a file at that moment. The other one goes on, or waits as NCCL
# would.
FAULTY = """
import os, time
import torch.distributed as dist
answers = 0
def reward(completions, **columns):
    global answers
    answers += len(completions) * dist.is_initialized()  # there are trials before
    if answers > 4:
        if os.environ["RANK"] == os.environ["FAULTY"]:
            open(os.environ["RAISED"], "x").close()
            raise KeyError("no such column")
        time.sleep(float(os.environ["WAITS"]))
    return [float(len(set(c))) for c in completions]
"""
BROKEN_ENGINE = """
import os
from rlzero.rollout.builtin import BuiltinEngine
def broken(*_):
    open(os.environ["RAISED"], "x").close()
    raise OSError("the engine broke")
def reward(completions, **columns):
    if os.environ["RANK"] == os.environ["FAULTY"]:
        BuiltinEngine.generate = broken
    return [float(len(set(c))) for c in completions]
"""
SETTINGS = {"num_generations": 4, "max_steps": 1000}


def seconds_since(raised: Path) -> float:
    return time.time() - raised.stat().st_mtime


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "body", "message", "code"), [
    ("fsdp", FAULTY, "error in step 2: reward 'reward' raised KeyError: 'no such column'", "exitcode  : 2"),
    ("ddp", BROKEN_ENGINE, "OSError: the engine broke", "exitcode  : 1"),
])  # fmt: skip
def test_error_of_one_process_ends_all_with_its_message(layout, body, message, code, tiny_run, reward_file, tmp_path):
    """Within a minute of its error, launcher and all."""
    command, raised = tiny_run.command(reward_funcs=[reward_file(body)], **SETTINGS), tmp_path / "raised"
    done = run_two(layout, *command[1:], FAULTY="1", WAITS="0", RAISED=str(raised))
    assert done.returncode != 0
    assert done.stderr.count(message) == 1
    # Nothing of what the other process saw when it lost this one.
    assert done.stderr.split("ChildFailedError")[0].count("closed by peer") == 0
    assert code in done.stderr
    assert seconds_since(raised) < A_MINUTE


@pytest.mark.slow
@pytest.mark.parametrize("faulty", [0, 1])
def test_process_that_waits_for_ever_ends_without_a_launcher(faulty, tiny_run, reward_file, tmp_path):
    """Within a minute of the other's error, and also the one that holds the store by which they find each other. They
    are on two machines, as far as they can tell: the message stands in the output of both."""
    command, raised = tiny_run.command(reward_funcs=[reward_file(FAULTY)], **SETTINGS), tmp_path / "raised"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={
                **environment("ddp", FAULTY=str(faulty), WAITS="3600", RAISED=str(raised)), "RANK": str(rank),
                "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    message = "error in step 2: reward 'reward' raised KeyError: 'no such column'"
    assert message in said[faulty]
    assert f"process {faulty}, on another machine: {message}" in said[1 - faulty]
    assert [process.returncode for process in processes] == [2, 2]
    assert seconds_since(raised) < A_MINUTE

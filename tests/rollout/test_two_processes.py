"""What holds when `accelerate launch` starts several processes."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")
ROOT = Path(__file__).parents[2]


def _run(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SCRIPT.parent}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.slow
def test_weights_of_a_sharded_model_are_gathered_under_checkpoint_names():
    result = _run("sharded")

    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["builtin", "vllm"])
def test_each_process_samples_its_own_prompts_from_its_own_engine(kind, tiny, tmp_path):
    if kind == "vllm" and find_spec("vllm") is None:
        pytest.skip("vLLM is an extra, and is not installed here")
    result = _run(kind, tiny.save_model(tiny.make_model("qwen3_moe"), tmp_path))

    assert result.returncode == 0, result.stderr[-3000:]

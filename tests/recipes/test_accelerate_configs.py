"""The launch files parse with the installed accelerate and mean what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env

FOLDER = Path(__file__).parents[2] / "recipes" / "accelerate"
# file: (kind of distribution, processes, machines, precision)
MEANING = {
    "cpu.yaml": (DistributedType.NO, 1, 1, "no"),
    "1gpu.yaml": (DistributedType.NO, 1, 1, "bf16"),
    "ddp_8gpu.yaml": (DistributedType.MULTI_GPU, 8, 1, "bf16"),
    "fsdp2_8gpu.yaml": (DistributedType.FSDP, 8, 1, "bf16"),
    "two_nodes.yaml": (DistributedType.FSDP, 16, 2, "bf16"),
}


def launch_arguments(name: str, *extra: str):
    """The arguments that `accelerate launch` acts on, its own checks passed."""
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(FOLDER / name), *extra, "script.py"])
    return _validate_launch_command(args)[0]


def test_every_file_in_the_folder_is_checked_here():
    assert {file.name for file in FOLDER.iterdir()} == set(MEANING)


@pytest.mark.parametrize("name", MEANING)
def test_accelerate_reads_the_file(name):
    config = load_config_from_file(str(FOLDER / name))
    kind, processes, machines, precision = MEANING[name]
    assert (config.distributed_type, config.num_processes, config.num_machines) == (kind, processes, machines)
    assert config.mixed_precision == precision
    assert config.use_cpu == (name == "cpu.yaml")


@pytest.mark.parametrize("name", MEANING)
def test_launch_accepts_the_file(name):
    args = launch_arguments(name)
    kind, processes, _, precision = MEANING[name]
    assert args.use_fsdp == (kind == DistributedType.FSDP)
    assert args.multi_gpu == (kind == DistributedType.MULTI_GPU)
    assert args.num_processes == processes
    assert args.mixed_precision == precision


@pytest.mark.parametrize("name", ["fsdp2_8gpu.yaml", "two_nodes.yaml"])
def test_fsdp_files_ask_for_version_2_cut_by_layer(name, monkeypatch):
    extra = ["--machine_rank", "1", "--main_process_ip", "10.0.0.1", "--main_process_port", "29500"]
    for key, value in prepare_multi_gpu_env(launch_arguments(name, *extra)).items():
        if key.startswith("FSDP"):
            monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert "transformer" in str(plugin.auto_wrap_policy)
    assert plugin.cpu_ram_efficient_loading


def test_cpu_file_starts_one_process_on_the_cpu(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from accelerate import Accelerator\n"
        "a = Accelerator()\n"
        "print(a.num_processes, a.device.type, a.mixed_precision)\n"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "cpu.yaml")]
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.split() == ["1", "cpu", "no"]

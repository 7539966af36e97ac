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

from rlzero.grpo.run import main
from tests.grpo.launching import run_two

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


def words_in_the_head(name: str) -> list[str]:
    """Of the command that the comment of the file gives."""
    lines = [line.removeprefix("#").strip() for line in (FOLDER / name).read_text().splitlines()]
    first = next(i for i, line in enumerate(lines) if line.startswith("accelerate launch"))
    words: list[str] = []
    for line in lines[first:]:
        words += line.removesuffix("\\").split()
        if not line.endswith("\\"):
            break
    return words


@pytest.mark.parametrize("name", MEANING)
def test_command_in_the_head_of_the_file_launches_it_and_passes_a_dry_run(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(FOLDER.parents[1])
    args = launch_command_parser().parse_args(words_in_the_head(name)[2:])
    assert Path(args.config_file).resolve() == FOLDER / name
    assert args.training_script == "recipes/r1_zero.py"
    assert main([*args.training_script_args, "--dry_run"], FOLDER.parent / "r1_zero.yaml") == 0


@pytest.mark.slow
def test_fsdp_settings_of_the_file_train_on_the_cpu_too(tiny_run):
    own = {k: v for k, v in prepare_multi_gpu_env(launch_arguments("fsdp2_8gpu.yaml")).items() if "FSDP" in k}
    done = run_two("fsdp", *tiny_run.command()[1:], **own)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 × cpu" in done.stdout
    assert (tiny_run.output / "model" / "model.safetensors").is_file()


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

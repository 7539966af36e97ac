"""The cold start as it is run: bad settings stop it before training, good ones give a model that RL goes on from."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.templates import get_template
from rlzero.grpo.config import ModelConfig
from rlzero.measure.text import encode_prompt
from rlzero.stages.config import StageConfig, ThoughtsConfig
from rlzero.stages.sft import main, make_trainer, set_up

RECIPE = Path(__file__).parents[2] / "recipes" / "cold_start.yaml"


def start(tiny_base: Path, output: Path, *extra: str) -> int:
    small = ["--num_thoughts", "8", "--eval_problems", "2", "--eval_samples", "1", "--max_completion_length", "4"]
    model = ["--model_name_or_path", str(tiny_base), "--output_dir", str(output)]
    return main([*model, *small, *extra], RECIPE)


def test_labels_are_the_completion_with_its_end_and_nothing_of_the_prompt(tiny_base, tmp_path):
    stage = set_up(
        ModelConfig(model_name_or_path=str(tiny_base)),
        ThoughtsConfig(num_thoughts=3, template="short"),
        StageConfig(output_dir=str(tmp_path / "run"), eval_problems=0, per_device_train_batch_size=6),
    )
    (batch,) = make_trainer(stage).get_train_dataloader()
    tokenizer, template = stage.tokenizer, get_template("short")
    wanted = {tuple(e.prompt_ids + e.completion_ids): e for e in stage.encoded}
    assert len(batch["input_ids"]) == len(wanted) == 6
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        tokens = ids[: mask.sum()].tolist()
        encoded = wanted[tuple(tokens)]
        prompt = len(encoded.prompt_ids)
        question = tokenizer.decode(tokens[:prompt]).removeprefix("User: ").removesuffix(" Assistant:<think>")
        assert tokens[:prompt] == encode_prompt(template, question, tokenizer)
        assert labels[:prompt].tolist() == [-100] * prompt
        assert labels[prompt : len(tokens)].tolist() == tokens[prompt:]
        assert tokens[-1] == tokenizer.eos_token_id
        assert (labels[len(tokens) :] == -100).all()


def test_a_cold_start_lowers_the_loss_and_leaves_a_model_to_go_on_from(tiny_base, tmp_path, capsys):
    output = tmp_path / "run"
    assert start(tiny_base, output, "--num_train_epochs", "4", "--learning_rate", "3e-3") == 0
    summary = json.loads((output / "summary.json").read_text())
    assert summary["thoughts"] == 16
    assert summary["loss_after"] < summary["loss_before"] - 0.1
    assert set(summary["tasks"]) == {"arithmetic", "countdown"}
    assert {"pass@1", "format", "length"} <= set(summary["tasks"]["arithmetic"]["trained"])
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["loss"] > 0 for line in lines)
    assert len((output / "thoughts.jsonl").read_text().splitlines()) == 16
    AutoModelForCausalLM.from_pretrained(output / "model")
    assert AutoTokenizer.from_pretrained(output / "model").eos_token == "<eos>"
    assert not (output / "model" / "training_args.bin").exists()
    printed = capsys.readouterr().out
    assert "16 thoughts" in printed
    assert f"--model_name_or_path {output / 'model'}" in printed


def test_a_users_thoughts_are_learned_without_any_task(tiny_base, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"prompt": "2+2?", "completion": "<think>easy</think><answer>4</answer>"}) + "\n")
    assert start(tiny_base, tmp_path / "run", "--thoughts", str(file), "--template", "r1_zero") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["thoughts"], summary["tasks"]) == (1, {})


def test_the_same_seed_gives_the_same_figures(tiny_base, tmp_path):
    losses = []
    for name in ("a", "b"):
        assert start(tiny_base, tmp_path / name, "--eval_problems", "0") == 0
        losses.append((tmp_path / name / "metrics.jsonl").read_text())
    assert losses[0] == losses[1]


def bad_file(folder: Path, content: str) -> str:
    path = folder / "bad.jsonl"
    path.write_text(content)
    return str(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--thoughts", "missing.jsonl"], "no thoughts at 'missing.jsonl'"),
        (["--thoughts", "{columns}"], "need the columns prompt and completion, or messages"),
        (["--thoughts", "{empty}"], "bad.jsonl"),
        (["--model_name_or_path", "runs/nowhere/model"], "model folder 'runs/nowhere/model' does not exist"),
        (["--max_length", "12"], "none of the 16 thoughts fits into 12 tokens"),
        (["--template", "nope"], "unknown template 'nope'"),
        (["--learnin_rate", "1"], "did you mean 'learning_rate'"),
        (["--learning_rate", "0"], "learning_rate=0.0 must be above 0"),
        (["--num_thoughts", "0"], "num_thoughts=0 must be at least 1"),
        (["--eval_tasks", "arithmetics"], "unknown data set 'arithmetics', did you mean 'arithmetic'"),
    ],
)
def test_what_cannot_work_ends_with_code_2_before_training(tiny_base, tmp_path, capsys, settings, message):
    files = {"{columns}": '{"question": "q"}\n', "{empty}": ""}
    settings = [bad_file(tmp_path, files[value]) if value in files else value for value in settings]
    assert start(tiny_base, tmp_path / "run", *settings) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_taken_output_directory_is_left_alone(tiny_base, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert start(tiny_base, tmp_path) == 2
    error = capsys.readouterr().err
    assert "holds files that a run would overwrite (model)" in error
    assert "--output_dir" in error
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_destroyed_weights_end_with_code_1(tiny_base, tmp_path, capsys):
    # Steps so large that the weights overflow.
    huge = ["--learning_rate", "1e38", "--lr_scheduler_type", "constant", "--max_grad_norm", "1e9"]
    assert start(tiny_base, tmp_path / "run", *huge, "--num_train_epochs", "6") == 1
    assert "Lower learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.slow
def test_two_processes_share_one_run(tiny_base, tmp_path):
    small = ["--num_thoughts", "8", "--eval_problems", "2", "--eval_samples", "1", "--max_completion_length", "4"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    output = tmp_path / "run"
    place = ["--model_name_or_path", str(tiny_base), "--output_dir", str(output)]
    done = subprocess.run(
        [*launch, str(RECIPE.with_suffix(".py")), *place, "--per_device_train_batch_size", "4", *small],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPE.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # 16 thoughts, 4 on each of 2 processes: two updates, written once.
    assert len((output / "metrics.jsonl").read_text().splitlines()) == 2
    assert done.stdout.count("16 thoughts") == 1
    AutoModelForCausalLM.from_pretrained(output / "model")

"""Every YAML that ships is read by its recipe and passes all checks that need no model and no data."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from data.sources import load_source
from rlzero.grpo.config import ModelConfig
from rlzero.grpo.parse import parse_recipe, parse_settings
from rlzero.grpo.run import main
from rlzero.stages.config import StageConfig, ThoughtsConfig

FOLDER = Path(__file__).parents[2] / "recipes"
ON_GPUS = {
    "qwen2.5-0.5b.yaml": ("Qwen/Qwen2.5-0.5B", "openai/gsm8k", "1gpu.yaml"),
    "qwen2.5-1.5b.yaml": ("Qwen/Qwen2.5-1.5B", "DigitalLearningGmbH/MATH-lighteval", "ddp_8gpu.yaml"),
    "qwen2.5-7b.yaml": ("Qwen/Qwen2.5-7B", "open-r1/DAPO-Math-17k-Processed", "fsdp2_8gpu.yaml"),
    "qwen3-30b-a3b.yaml": ("Qwen/Qwen3-30B-A3B-Base", "open-r1/DAPO-Math-17k-Processed", "two_nodes.yaml"),
}
FINE_TUNING = {"cold_start.yaml"}
RL = sorted(file.name for file in FOLDER.glob("*.yaml") if file.name not in FINE_TUNING)


@pytest.mark.parametrize("name", RL)
def test_a_dry_run_accepts_the_file_and_reads_no_hub(name, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Trackers and engines are what the machine has; the files name none that must be there.
    assert main(["--config", str(FOLDER / name), "--dry_run"], FOLDER / "r1_zero.yaml") == 0
    assert yaml.safe_load((FOLDER / name).read_text())["model_name_or_path"] in capsys.readouterr().out


@pytest.mark.parametrize("name", ON_GPUS)
def test_a_real_model_is_named_by_hub_id_with_data_and_launch_file(name):
    model, dataset, launch = ON_GPUS[name]
    recipe = parse_recipe(["--config", str(FOLDER / name)], FOLDER / name)
    assert (recipe.model.model_name_or_path, recipe.data.dataset_name) == (model, dataset)
    assert recipe.data.prompt_column
    assert recipe.data.answer_column
    text = (FOLDER / name).read_text()
    assert f"--config_file recipes/accelerate/{launch}" in text
    assert f"--config recipes/{name}" in text
    assert (FOLDER / "accelerate" / launch).is_file()


@pytest.mark.parametrize("name", ON_GPUS)
def test_master_weights_are_float32_where_steps_are_small(name):
    recipe = parse_recipe(["--config", str(FOLDER / name)], FOLDER / name)
    assert recipe.grpo.learning_rate <= 1e-5
    assert (recipe.model.dtype, recipe.model.bf16) == ("float32", True)


@pytest.mark.parametrize("name", RL)
def test_runs_write_to_different_folders(name):
    recipe = parse_recipe(["--config", str(FOLDER / name)], FOLDER / name)
    others = [yaml.safe_load((FOLDER / n).read_text()).get("output_dir") for n in [*RL, *FINE_TUNING] if n != name]
    assert recipe.run.output_dir not in others


def test_the_small_real_model_has_enough_held_out_problems():
    data = parse_recipe([], FOLDER / "smollm2-135m.yaml").data
    run = parse_recipe([], FOLDER / "smollm2-135m.yaml").run
    source = load_source(data.dataset_name, options=data.dataset_options)
    heldout = source.heldout(run.eval_problems)
    assert len(heldout) == run.eval_problems
    assert {p.prompt for p in heldout}.isdisjoint(source.train(0, i).prompt for i in range(1000))


def test_the_cold_start_file_is_read():
    model, thoughts, stage = parse_settings([], FOLDER / "cold_start.yaml", (ModelConfig, ThoughtsConfig, StageConfig))
    assert (model.model_name_or_path, stage.output_dir) == ("recipes/base", "runs/cold_start")
    assert thoughts.template == "short"

"""Presets: names that exist, numbers that fit each other, a source for each."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

from rewards.registry import load_rewards
from rlzero.grpo.advantage import ADVANTAGES
from rlzero.grpo.config import as_plain_config
from rlzero.grpo.kl import KL_ESTIMATORS
from rlzero.grpo.objective import OBJECTIVES
from rlzero.grpo.parse import CONCERNS, parse_recipe
from rlzero.grpo.presets import GOES_WITH, PRESETS, options
from rlzero.grpo.run import main
from rlzero.grpo.schedule import parse_lengths
from rlzero.grpo.setup import check
from tests.docs_examples import ROOT

KNOWN = {f.name for concern in CONCERNS for f in dataclasses.fields(concern)}


def settings(path: Path, yaml_settings: dict, *argv: str) -> dict:
    """As a run writes them down, from a YAML file with these settings and a command line."""
    path.write_text(json.dumps(yaml_settings))
    return as_plain_config(parse_recipe(argv, path))


def test_the_presets_are_those_that_are_promised():
    assert set(PRESETS) == {"deepseekmath", "r1_zero_nature", "dapo", "dr_grpo", "gspo_moe"}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_setting_is_an_option_with_a_source(name):
    assert set(PRESETS[name]) <= KNOWN
    for option, setting in PRESETS[name].items():
        assert re.search(r"\d{4}\.\d{5}|Nature 645|verl|the same", setting.source), option


def test_what_steps_aside_stands_beside_the_setting_that_it_goes_with():
    assert set(GOES_WITH.values()) | set(GOES_WITH) <= KNOWN
    for name in PRESETS:
        assert all(GOES_WITH[option] in PRESETS[name] for option in PRESETS[name] if option in GOES_WITH)


def test_preset_gives_defaults_yaml_wins_over_it_and_the_command_line_over_both(tmp_path):
    said = {"preset": "dapo", "epsilon_high": 0.3, "prompts_per_step": 4}
    given = settings(tmp_path / "recipe.yaml", said, "--prompts_per_step", "8")
    wanted = options("dapo") | said | {"prompts_per_step": 8}
    assert {option: given[option] for option in wanted} == wanted


@pytest.mark.parametrize("words", [["--preset", "deepseekmath"], ["--preset=deepseekmath"]])
def test_preset_of_the_command_line_wins_over_that_of_yaml(tmp_path, words):
    for said in ({}, {"preset": "dr_grpo"}):
        given = settings(tmp_path / "recipe.yaml", said, *words)
        assert (given["preset"], given["advantage"], given["beta"]) == ("deepseekmath", "grpo", 0.04)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_setting_of_a_preset_arrives_and_the_whole_passes_all_checks(tmp_path, name):
    given = settings(tmp_path / "recipe.yaml", {}, "--preset", name)
    assert {option: given[option] for option in options(name)} == options(name)
    check(parse_recipe(["--preset", name], tmp_path / "recipe.yaml"))


# Preset, what a recipe says otherwise, and the settings of the preset that went with it: they are at their defaults.
OTHERWISE = [
    ("r1_zero_nature", {"max_completion_length": 80}, {"max_completion_length_schedule": None}),
    ("dapo", {"reward_funcs": ["accuracy"]}, {"reward_weights": None}),
    ("dapo", {"loss_type": "gspo"}, {"epsilon": 3e-4, "epsilon_high": 4e-4}),
    ("dapo", {"loss_type": "sapo"}, {"epsilon": None, "epsilon_high": None}),
    ("dapo", {"lr_scheduler_type": "constant"}, {"warmup_steps": 0}),
    ("dapo", {"dynamic_sampling": False}, {"max_generation_batches": 10}),
]


@pytest.mark.parametrize(("name", "said", "stepped_aside"), OTHERWISE)
def test_what_goes_with_a_setting_of_the_preset_steps_aside_where_that_is_set_otherwise(
    tmp_path, name, said, stepped_aside
):
    words: list[str] = []
    for option, value in said.items():
        words += [f"--{option}", *(value if isinstance(value, list) else [str(value)])]
    wanted = options(name) | said | stepped_aside
    for place, argv in (({"preset": name, **said}, []), ({}, ["--preset", name, *words])):
        given = settings(tmp_path / "recipe.yaml", place, *argv)
        assert {option: given[option] for option in wanted} == wanted


def test_the_same_value_as_the_presets_and_a_schedule_of_its_own_step_aside_for_nothing(tmp_path):
    path, preset = tmp_path / "recipe.yaml", ["--preset", "r1_zero_nature"]
    schedule = "max_completion_length_schedule"
    whole = settings(path, {}, *preset)
    assert settings(path, {}, *preset, "--max_completion_length", "65536") == whole
    assert settings(path, {"max_completion_length": 80, schedule: ["0:40"]}, *preset)[schedule] == ["0:40"]
    assert settings(path, whole) == whole


RECIPES = [path for path in sorted((ROOT / "recipes").glob("*.yaml")) if "reward_funcs" in path.read_text()]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_shipped_recipe_takes_the_objective_of_every_preset(name, recipe):
    parsed = parse_recipe(["--preset", name], recipe)
    check(parsed)
    given, said = as_plain_config(parsed), yaml.safe_load(recipe.read_text())
    assert {option: given[option] for option in said} == said
    objective = ("beta", "use_bias_correction_kl", "sync_ref_model", "dynamic_sampling")
    wanted = {option: value for option, value in options(name).items() if option in objective and option not in said}
    assert {option: given[option] for option in wanted} == wanted


def test_dry_run_of_r1_zeros_preset_over_the_default_recipe_is_right(capsys):
    default = ROOT / "recipes" / "r1_zero.yaml"
    assert main(["--preset", "r1_zero_nature", "--dry_run"], default) == 0
    assert "0.001 × KL (k3) in the loss" in " ".join(capsys.readouterr().out.split())


def test_bound_of_dapos_dynamic_sampling_is_in_groups_wanted_as_the_scripts_batches_multiply():
    wanted = PRESETS["dapo"]["prompts_per_step"].value * PRESETS["dapo"]["steps_per_generation"].value
    generation_batch, most_batches = 3 * wanted, 10
    assert options("dapo")["max_generation_batches"] * wanted == most_batches * generation_batch


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_named_choice_exists(name):
    values = options(name)
    assert values["advantage"] in ADVANTAGES
    assert values["loss_type"] in OBJECTIVES
    assert values.get("kl_estimator", "k3") in KL_ESTIMATORS
    load_rewards(values.get("reward_funcs", ["accuracy"]), values.get("reward_weights"))
    if "max_completion_length_schedule" in values:
        last = parse_lengths(values["max_completion_length_schedule"])[-1]
        assert last[1] == values["max_completion_length"]


# Answers a rollout and answers an update, as the papers give them.
@pytest.mark.parametrize(
    ("name", "rollout", "update"),
    [("deepseekmath", 1024, 1024), ("r1_zero_nature", 8192, 512), ("dapo", 8192, 512), ("dr_grpo", 1024, 128)],
)
def test_batches_multiply_to_what_was_published(name, rollout, update):
    values = options(name)
    assert values["prompts_per_step"] * values["num_generations"] == update
    assert update * values["steps_per_generation"] == rollout

"""What a run can be told: every option in view, every refusal named."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from rlzero.grpo.config import ConfigError, Recipe
from rlzero.grpo.parse import CONCERNS, parse_recipe

SNAPSHOT = Path(__file__).with_name("options.txt")


@pytest.fixture
def parse(tmp_path):
    """Parses YAML text and arguments."""

    def run(yaml: str = "{}", *argv: str) -> Recipe:
        (tmp_path / "settings.yaml").write_text(yaml)
        return parse_recipe(argv, tmp_path / "settings.yaml")

    return run


def option_lines() -> list[str]:
    lines = []
    for concern in CONCERNS:
        # Not `f.type`, which transformers' parser rewrites.
        hints = get_type_hints(concern)
        for f in fields(concern):
            default = f.default if f.default is not MISSING else f.default_factory()  # type: ignore[misc]
            hint = hints[f.name]
            kind = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
            lines.append(f"{concern.__name__}.{f.name}: {kind} = {default!r}")
    return lines


def test_options_are_those_that_were_reviewed():
    """A new option or default changes the public face: write it into options.txt in the same commit."""
    assert option_lines() == SNAPSHOT.read_text().splitlines()


def test_every_option_has_its_own_name_and_says_what_it_is():
    names = [f.name for concern in CONCERNS for f in fields(concern)]
    assert len(names) == len(set(names))
    assert all(len(f.metadata["help"]) >= 5 for concern in CONCERNS for f in fields(concern))


def test_defaults_stand_where_nothing_is_said(parse):
    recipe = parse("{}")
    assert (recipe.grpo.loss_type, recipe.rollout.num_generations, recipe.run.seed) == ("dapo", 8, 0)
    assert recipe.grpo.epsilon_high == recipe.grpo.epsilon == 0.2


def test_yaml_wins_over_the_default_and_the_command_line_over_yaml(parse):
    assert parse("max_steps: 7\nseed: 3").grpo.max_steps == 7
    recipe = parse("max_steps: 7\nseed: 3", "--max_steps", "9")
    assert (recipe.grpo.max_steps, recipe.run.seed) == (9, 3)


def test_config_can_be_given_in_two_words_or_one(parse, tmp_path):
    (tmp_path / "other.yaml").write_text("seed: 5")
    for words in (["--config", str(tmp_path / "other.yaml")], [f"--config={tmp_path / 'other.yaml'}"]):
        assert parse("seed: 1", *words).run.seed == 5


def test_lists_and_mappings_come_from_either_side(parse):
    recipe = parse("reward_funcs: [accuracy]\nreward_weights: [1.0, 2e-1]\ndataset_options: {max_term: 9}")
    assert recipe.reward.reward_weights == [1.0, 0.2]
    assert recipe.data.dataset_options == {"max_term": 9}
    recipe = parse("{}", "--reward_funcs", "accuracy", "format", "--dataset_options", json.dumps({"max_term": 9}))
    assert recipe.reward.reward_funcs == ["accuracy", "format"]
    assert recipe.data.dataset_options == {"max_term": 9}


def test_one_value_is_a_list_of_one_and_yamls_1e_6_is_a_number(parse):
    recipe = parse("reward_funcs: accuracy\nreport_to: none\nlearning_rate: 1e-6\ntemperature: 1")
    assert recipe.reward.reward_funcs == ["accuracy"]
    assert recipe.run.report_to == ["none"]
    assert recipe.grpo.learning_rate == 1e-6


def test_two_recipes_share_no_list(parse):
    parse("{}").reward.reward_funcs.append("coin")
    assert parse("{}").reward.reward_funcs == ["accuracy", "format"]


@pytest.mark.parametrize(
    ("yaml", "argv", "message"),
    [
        ("num_generation: 8", [], r"unknown setting 'num_generation' \(did you mean 'num_generations'\?\); --help"),
        ("{}", ["--num_generation_count", "8"], r"unknown setting 'num_generation_count' \(did you mean"),
        ("xyzzy: 1", [], r"unknown setting 'xyzzy'; --help"),
        ("num_generations: 1", [], r"num_generations=1 must be at least 2: an advantage compares"),
        ("loss_type: ppo", [], r"loss_type='ppo' does not exist; choose one of: dapo, dr_grpo, grpo"),
        ("advantage: gae", [], r"advantage='gae' does not exist; choose one of: dr_grpo, grpo"),
        ("rollout: sglang", [], r"rollout='sglang' does not exist; choose one of: auto, builtin, vllm"),
        ("lr_scheduler_type: step", [], r"lr_scheduler_type='step' does not exist; choose one of: constant"),
        ("warmup_steps: 5", [], r"warmup_steps=5 would do nothing with lr_scheduler_type='constant': choose"),
        ("temperature: 0", [], r"temperature=0.0 must be above 0: a greedy group has no signal"),
        ("top_p: 0", [], r"top_p=0.0 must lie in"),
        ("top_k: -1", [], r"top_k=-1 must be at least 0"),
        ("max_completion_length: 0", [], r"max_completion_length=0 must be at least 1"),
        ("max_num_seqs: 0", [], r"max_num_seqs=0 must be at least 1"),
        ("sync_check_every: -1", [], r"sync_check_every=-1 must be at least 0"),
        ("vllm_gpu_memory_utilization: 1.5", [], r"vllm_gpu_memory_utilization=1.5 must lie in"),
        ("learning_rate: 0", [], r"learning_rate=0.0 must be above 0"),
        ("epsilon: 0", [], r"epsilon=0.0 must be above 0"),
        ("epsilon_high: 0", [], r"epsilon_high=0.0 must be above 0"),
        ("max_grad_norm: 0", [], r"max_grad_norm=0.0 must be above 0"),
        ("prompts_per_step: 0", [], r"prompts_per_step=0 must be at least 1"),
        ("max_steps: 0", [], r"max_steps=0 must be at least 1"),
        ("num_iterations: 0", [], r"num_iterations=0 must be at least 1"),
        ("tokens_per_microbatch: 0", [], r"tokens_per_microbatch=0 must be at least 1"),
        ("save_steps: -1", [], r"save_steps=-1 must be at least 0"),
        ("save_total_limit: 0", [], r"save_total_limit=0 must be at least 1"),
        ("eval_samples: 0", [], r"eval_samples=0 must be at least 1"),
        ("eval_problems: -1", [], r"eval_problems=-1 must be at least 0"),
        ("num_generations: 8.5", [], r"num_generations=8.5 is a float and must be a whole number"),
        ("num_generations: null", [], r"num_generations=None is a NoneType and must be a whole number"),
        ("max_steps: true", [], r"max_steps=True is a bool and must be a whole number"),
        ("learning_rate: fast", [], r"argument --learning_rate.*: invalid float value: 'fast'. --help"),
        ("adam_beta1: [0.9]", [], r"adam_beta1=\[0.9\] is a list and must be a number"),
        ("{}", ["--max_steps", "many"], r"argument --max_steps.*: invalid int value: 'many'. --help"),
        ("{}", ["--dataset_options", "{"], r"argument --dataset_options.*: invalid Options value: '{'"),
        ("{}", ["--max_steps"], r"argument --max_steps.*: expected one argument"),
        ("reward_weights: [1, [2]]", [], r"reward_weights=\[2\] is a list and must be a number"),
        ("template: 3", [], r"template=3 is a int and must be a text"),
        ("dataset_options: [1]", [], r"dataset_options=\[1\] is a list and must be a mapping"),
        ("- a\n- b", [], r"must contain a YAML mapping"),
        ("", [], r"must contain a YAML mapping"),
        ("a: [1", [], r"the config file is not valid YAML"),
        ("{}", ["--config", "/nowhere/x.yaml"], r"config file '/nowhere/x.yaml' cannot be read \(No such file"),
        ("{}", ["--config", "/"], r"config file '/' cannot be read \(Is a directory\); give --config a YAML file"),
        ("{}", ["--config"], r"--config must be followed by a YAML file"),
    ],
)
def test_setting_that_cannot_work_is_refused_by_name(parse, yaml, argv, message):
    with pytest.raises(ConfigError, match=message):
        parse(yaml, *argv)


def test_help_lists_every_option(parse, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("{}", "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{f.name}" in shown for concern in CONCERNS for f in fields(concern))

"""What a run can be told: every option in view, every refusal named."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from rlzero.grpo.config import ConfigError, Recipe, as_plain_config
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
    assert (recipe.objective.loss_type, recipe.rollout.num_generations, recipe.run.seed) == ("dapo", 8, 0)
    assert recipe.objective.epsilon_high == recipe.objective.epsilon == 0.2


@pytest.mark.parametrize(("words", "clip"), [
    ("{}", (3e-4, 4e-4)), ("epsilon: 0.1", (0.1, 0.1)), ("epsilon_high: 0.01", (3e-4, 0.01)),
])  # fmt: skip
@pytest.mark.parametrize("loss_type", ["gspo", "gspo_token"])
def test_ratio_of_a_whole_answer_is_clipped_where_gspo_clips_it(parse, loss_type, words, clip):
    objective = parse(f"{words}", "--loss_type", loss_type).objective
    assert (objective.epsilon, objective.epsilon_high) == clip


@pytest.mark.parametrize(("loss_type", "given"), [("cispo", {"epsilon_high": 5.0}), ("sapo", {})])
def test_settings_that_a_run_wrote_down_are_accepted_again_where_no_ratio_is_clipped(parse, loss_type, given):
    recipe = parse(json.dumps({"loss_type": loss_type, **given}))
    assert parse(json.dumps(as_plain_config(recipe))) == recipe


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
        (
            "loss_type: ppo",
            [],
            r"loss_type='ppo' does not exist; choose one of: bnpo, cispo, dapo, dr_grpo, grpo, gspo",
        ),
        ("advantage: gae", [], r"advantage='gae' does not exist; choose one of: dr_grpo, grpo, max_rl, reinforce"),
        ("rollout: sglang", [], r"rollout='sglang' does not exist; choose one of: auto, builtin, vllm"),
        ("lr_scheduler_type: step", [], r"lr_scheduler_type='step' does not exist; choose one of: constant"),
        ("warmup_steps: 5", [], r"warmup_steps=5 would do nothing with lr_scheduler_type='constant': choose"),
        ("temperature: 0", [], r"temperature=0.0 must be above 0: a greedy group has no signal"),
        ("top_p: 0", [], r"top_p=0.0 must lie in"),
        (
            "torch_compile_backend: aot_eager",
            [],
            r"torch_compile_backend='aot_eager' would do nothing without torch_comp",
        ),
        (
            "{torch_compile: true, torch_compile_backend: clang}",
            [],
            r"torch_compile_backend='clang' does not exist; choose one of: aot_eager",
        ),
        ("lora_r: 0", [], r"lora_r=0 must be at least 1"),
        ("lora_r: 4\nlora_alpha: 0", [], r"lora_alpha=0.0 must be above 0"),
        ("lora_alpha: 16", [], r"lora_alpha=16.0 would do nothing without lora_r: set that, or leave lora_alpha out"),
        ("lora_target_modules: [q_proj]", [], r"lora_target_modules=\['q_proj'\] would do nothing without lora_r"),
        ("top_k: 1", [], r"top_k=1 is greedy, and a greedy group has no signal: raise it, or 0 for all tokens"),
        ("reward_weights: [0, 0]", [], r"reward_weights=\[0.0, 0.0\] pays nothing, so no answer would ever be better"),
        (
            "ref_model_sync_steps: 400\nbeta: 0.1",
            [],
            r"ref_model_sync_steps=400 would do nothing without sync_ref_model",
        ),
        (
            "ref_model_mixup_alpha: 1",
            [],
            r"ref_model_mixup_alpha=1.0 would do nothing without sync_ref_model: set that",
        ),
        ("kl_estimator: k2", [], r"kl_estimator='k2' would do nothing without beta above 0: set that, or leave kl_est"),
        ("max_generation_batches: 5", [], r"max_generation_batches=5 would do nothing without dynamic_sampling: set"),
        ("curriculum_pool: 99", [], r"curriculum_pool=99 would do nothing without a curriculum: set that, or leave"),
        ("sapo_temperature_pos: 2", [], r"sapo_temperature_pos=2.0 would do nothing without loss_type='sapo'"),
        (
            "vllm_importance_sampling_mode: token_mask",
            [],
            r"mode='token_mask' would do nothing without vllm_importance_sampling_correction: set that",
        ),
        (
            "vllm_importance_sampling_clip_max: 2",
            [],
            r"clip_max=2.0 would do nothing without vllm_importance_sampling_correction: set that",
        ),
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
        ("steps_per_generation: 0", [], r"steps_per_generation=0 must be at least 1: a minibatch is no larger than"),
        ("max_skipped_steps: 0", [], r"max_skipped_steps=0 must be at least 1"),
        ("scale_rewards: std", [], r"scale_rewards='std' does not exist; choose one of: batch, group, none"),
        (
            "advantage: dr_grpo\nscale_rewards: group",
            [],
            r"scale_rewards='group' changes nothing that .*'dr_grpo' does",
        ),
        ("advantage: reinforce++\nscale_rewards: none", [], r"scale_rewards='none' changes nothing.*grpo or rloo"),
        ("advantage: max_rl\nscale_rewards: none", [], r"scale_rewards='none' changes nothing that .*'max_rl' does"),
        ("loss_type: cispo", [], r"loss_type='cispo' takes epsilon_high as the largest .* it is not set: set it, to 5"),
        (
            "loss_type: cispo\nepsilon_high: 0.28",
            [],
            r"epsilon_high=0.28 must be at least 1: for loss_type='cispo' it is",
        ),
        ("delta: 1.2", [], r"delta=1.2 must be above 1.2: up to there the clip itself lets a ratio go"),
        ("delta: 1.25\nepsilon_high: 0.28", [], r"delta=1.25 must be above 1.28"),
        ("delta: 4\nloss_type: sapo", [], r"delta=4.0 bounds a clipped ratio, and loss_type='sapo' clips none: leave"),
        ("epsilon: 0.1\nloss_type: sapo", [], r"epsilon=0.1 bounds a clipped ratio, and loss_type='sapo' clips none:"),
        ("epsilon_high: 0.28\nloss_type: sapo", [], r"epsilon_high=0.28 bounds .* loss_type='sapo' clips none: leave"),
        (
            "{loss_type: cispo, epsilon: 0.2, epsilon_high: 5}",
            [],
            r"epsilon=0.2 bounds a clipped ratio, and loss_type='cispo' clips none: leave it out",
        ),
        ("sapo_temperature_neg: 0", [], r"sapo_temperature_neg=0.0 must be above 0"),
        ("old_logprobs: engine", [], r"old_logprobs='engine' does not exist; choose one of: auto, policy, sampler"),
        ("top_entropy_quantile: 0", [], r"top_entropy_quantile=0.0 must lie in \(0, 1\]"),
        ("entropy_coef: -1", [], r"entropy_coef=-1.0 must be at least 0"),
        ("beta: -0.1", [], r"beta=-0.1 must be at least 0"),
        ("kl_estimator: k4", [], r"kl_estimator='k4' does not exist; choose one of: k1, k2, k3"),
        ("kl_in_reward: true", [], r"kl_in_reward=True is about the KL .* beta=0 does without one: set beta above 0"),
        ("sync_ref_model: true", [], r"sync_ref_model=True is about .* set beta above 0, or leave sync_ref_model out"),
        ("use_bias_correction_kl: true", [], r"use_bias_correction_kl=True is about .* beta=0 does without one"),
        (
            "{beta: 0.1, kl_in_reward: true, use_bias_correction_kl: true}",
            [],
            r"corrects the KL in the loss, and kl_in_rew",
        ),
        (
            "{beta: 0.1, kl_estimator: k1, use_bias_correction_kl: false}",
            [],
            r"kl_estimator='k1' in the loss has a grad",
        ),
        ("ref_model_sync_steps: 0", [], r"ref_model_sync_steps=0 must be at least 1"),
        ("ref_model_mixup_alpha: 0", [], r"ref_model_mixup_alpha=0.0 must lie in \(0, 1\]"),
        ("vllm_importance_sampling_mode: token", [], r"vllm_importance_sampling_mode='token' does not exist; choose"),
        (
            "{vllm_importance_sampling_clip_min: 1, vllm_importance_sampling_clip_max: 1}",
            [],
            r"clip_min=1.0 must be below .*clip_max=1.0: between them lie",
        ),
        ("vllm_importance_sampling_clip_max: 0.5", [], r"clip_max=0.5 must be at least 1: where engine and trainer"),
        ("vllm_importance_sampling_clip_min: 1.5", [], r"clip_min=1.5 must be at most 1: where engine and trainer"),
        ("vllm_importance_sampling_clip_min: 0", [], r"vllm_importance_sampling_clip_min=0.0 must be above 0"),
        (
            "{vllm_importance_sampling_correction: true, vllm_importance_sampling_mode: token_truncate, "
            "vllm_importance_sampling_clip_max: null}",
            [],
            r"mode='token_truncate' needs a bound to truncate at: set",
        ),
        ("off_policy_mask_threshold: 0", [], r"off_policy_mask_threshold=0.0 must be above 0"),
        (
            "multi_objective_aggregation: sum",
            [],
            r"multi_objective_aggregation='sum' does not exist; choose one of: norm",
        ),
        (
            "max_completion_length_schedule: ['0:100', '9:300']",
            [],
            r"goes up to 300 tokens, and max_completion_length=256",
        ),
        ("max_completion_length_schedule: ['5:100']", [], r"max_completion_length_schedule must begin at step 0"),
        ("max_completion_length_schedule: long", [], r"has entries step:tokens .* got 'long'; write for example"),
        ("dynamic_sampling: true\nmax_generation_batches: 1", [], r"max_generation_batches=1 must be at least 2: with"),
        ("curriculum: hard", [], r"curriculum='hard' does not exist; choose one of: failures, learnability, none"),
        ("curriculum_pool: 0", [], r"curriculum_pool=0 must be at least 1"),
        ("preset: dapo2", [], r"preset='dapo2' does not exist; choose one of: dapo, deepseekmath, dr_grpo, gspo_moe"),
        ("preset: [dapo]", [], r"preset=\"\['dapo'\]\" does not exist"),
        ("{}", ["--preset", "r1"], r"preset='r1' does not exist; choose one of: dapo"),
        ("{}", ["--preset"], r"argument --preset.*: expected one argument"),
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


def test_correction_of_the_kl_is_on_wherever_the_loss_has_one(parse):
    assert not parse("{}").reference.corrects
    assert parse("beta: 0.1").reference.corrects
    assert not parse("{beta: 0.1, use_bias_correction_kl: false}").reference.corrects
    assert not parse("{beta: 0.1, kl_in_reward: true}").reference.corrects

"""Every objective and option in the real recipe on the tiny model: it runs, records its figures, and repeats itself."""

from __future__ import annotations

import math

import pytest

from rlzero.grpo.advantage import ADVANTAGES, SCALES
from rlzero.grpo.correction import CORRECTIONS
from rlzero.grpo.kl import KL_ESTIMATORS
from rlzero.grpo.loss import TOKEN_WEIGHTS
from rlzero.grpo.presets import PRESETS
from rlzero.report.run_dir import read_metrics
from tests.grpo.test_run import SIGNAL

OFF_POLICY = {"steps_per_generation": 2, "num_iterations": 2, "max_steps": 8, "learning_rate": 0.01}
CORRECTED = {"vllm_importance_sampling_correction": True}

# Upper bounds of objectives that do not clip.
UPPER = {"cispo": 5.0, "sapo": None}

# name -> settings, and the figures that must be in every line
RUNS: dict[str, tuple[dict, list[str]]] = {
    **{f"loss {name}": ({"loss_type": name, "epsilon_high": UPPER.get(name, 0.28), **OFF_POLICY}, ["clip_high"])
       for name in TOKEN_WEIGHTS},
    **{f"advantage {name}": ({"advantage": name}, ["loss"]) for name in ADVANTAGES},
    **{f"scale {name}": ({"advantage": "rloo", "scale_rewards": name}, ["loss"]) for name in SCALES},
    **{f"KL {name} in the loss": ({"beta": 0.05, "kl_estimator": name}, ["kl"]) for name in KL_ESTIMATORS},
    **{f"KL {name} in the reward": ({"beta": 0.05, "kl_estimator": name, "kl_in_reward": True}, ["kl"])
       for name in KL_ESTIMATORS},
    **{f"correction {name}": ({**CORRECTED, "vllm_importance_sampling_mode": name, **OFF_POLICY},
                              ["corrected", "ratio_max"])
       for name in CORRECTIONS},
    "compiled layers": ({"torch_compile": True, "torch_compile_backend": "aot_eager"}, ["loss"]),
    "adapters": ({"lora_r": 4, "beta": 0.05, **OFF_POLICY}, ["kl"]),
    "dual clip": ({"delta": 2.0, **OFF_POLICY}, ["clip_high"]),
    "uncorrected KL": ({"beta": 0.05, "use_bias_correction_kl": False, **OFF_POLICY}, ["kl"]),
    "reference replaced": (
        {"beta": 0.05, "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 1.0, **OFF_POLICY},
        ["kl"],
    ),
    "reference mixed": ({"beta": 0.05, "sync_ref_model": True, "ref_model_sync_steps": 1}, ["kl"]),
    "entropy bonus": ({"entropy_coef": 0.01}, ["entropy"]),
    "high-entropy tokens": ({"top_entropy_quantile": 0.2, **OFF_POLICY}, ["entropy"]),
    "GDPO": ({"multi_objective_aggregation": "normalize_then_sum"}, ["loss"]),
    "truncated answers masked": ({"mask_truncated_completions": True}, ["masked"]),
    "off-policy mask": ({"off_policy_mask_threshold": 0.01, **OFF_POLICY}, ["off_policy_masked"]),
    "icepop": (
        {**CORRECTED, "vllm_importance_sampling_mode": "token_mask", "vllm_importance_sampling_clip_min": 0.5,
         "vllm_importance_sampling_clip_max": 5.0},
        ["corrected"],
    ),
    "ratios to the sampler": ({"old_logprobs": "sampler", **OFF_POLICY}, ["clip_low"]),
    "on-policy shortcut": ({"old_logprobs": "policy"}, ["clip_low"]),
    "dynamic sampling": ({"dynamic_sampling": True}, ["sampling/refills", "sampling/filled"]),
    "curriculum by learnability": ({"curriculum": "learnability"}, ["loss"]),
    "curriculum by failures": ({"curriculum": "failures"}, ["loss"]),
    "growing lengths": ({"max_completion_length_schedule": ["0:6", "2:12"]}, ["completion_limit"]),
    "everything": (
        {"loss_type": "cispo", "epsilon_high": 4.0, "advantage": "reinforce++_baseline", "beta": 0.02,
         "kl_estimator": "k2", "sync_ref_model": True, "ref_model_sync_steps": 3, "entropy_coef": 0.003,
         "top_entropy_quantile": 0.4,
         **CORRECTED, "vllm_importance_sampling_mode": "token_truncate", "off_policy_mask_threshold": 0.5,
         "mask_truncated_completions": True, "dynamic_sampling": True, "curriculum": "learnability",
         "max_completion_length_schedule": ["0:8", "4:12"], **OFF_POLICY, "router_replay": True},
        ["kl", "corrected", "masked", "off_policy_masked", "sampling/filled", "completion_limit"],
    ),
}  # fmt: skip

# What makes a published run small, its objective left as it is. The reward of `coin` differs within every group.
SMALL = {
    "num_generations": 4, "prompts_per_step": 2, "max_completion_length": 12, "max_steps": 4, "learning_rate": 0.001,
    "warmup_steps": 0, "lr_scheduler_type": "constant", "reward_funcs": ["accuracy", "coin"], "reward_weights": None,
}  # fmt: skip


def check(rows: list[dict], keys: list[str]) -> None:
    for row in rows:
        for key in ("loss", "grad_norm", *keys):
            assert row[key] is not None, key
            assert math.isfinite(row[key]), key
        assert row["skipped"] == 0
    assert any(row["grad_norm"] > 0 for row in rows)


@pytest.mark.parametrize("name", RUNS)
def test_run_with_the_option_trains_and_records_its_figures(tiny_run, name):
    settings, keys = RUNS[name]
    outcome = tiny_run(**SIGNAL, **settings)
    assert outcome.code == 0, outcome.err
    rows = read_metrics(tiny_run.output)
    assert rows[-1]["step"] == settings.get("max_steps", 3)
    check(rows, keys)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_trains_when_its_shape_is_made_small(tiny_run, name):
    weights = ["1", "1"] if name in ("dapo", "r1_zero_nature") else None
    schedule = ["0:8", "2:12"] if name == "r1_zero_nature" else None
    outcome = tiny_run(
        preset=name, **{**SMALL, "reward_weights": weights, "max_completion_length_schedule": schedule}
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = read_metrics(tiny_run.output)
    assert rows[-1]["step"] == 4
    check(rows, ["kl"] if name in ("deepseekmath", "r1_zero_nature") else [])


@pytest.mark.parametrize("name", ["everything", "loss gspo", "reference replaced", "KL k1 in the reward", "adapters"])
def test_the_same_seed_gives_the_same_metrics_and_a_resume_goes_on_with_them(tiny_run, name):
    from tests.grpo.test_run import without_times

    settings = {**SIGNAL, **OFF_POLICY, **RUNS[name][0], "save_steps": 4, "max_steps": 8}
    whole, again = tiny_run.output.parent / "whole", tiny_run.output.parent / "again"
    for folder in (whole, again):
        assert tiny_run(**settings, output_dir=folder).code == 0
    assert without_times(read_metrics(again)) == without_times(read_metrics(whole))
    assert tiny_run(**{**settings, "max_steps": 4}).code == 0
    assert tiny_run("--resume", **settings).code == 0
    assert without_times(read_metrics(tiny_run.output)) == without_times(read_metrics(whole))

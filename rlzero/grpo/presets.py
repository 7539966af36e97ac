"""The settings of published runs, each number with its source. What a paper does not say is not in its preset.

Names are those of the configuration. The models of these runs are far larger than this project's default: a preset
gives the objective and the shape of a step, to be scaled down by whoever uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlzero.grpo.objective_config import GSPO_CLIP


@dataclass(frozen=True)
class Setting:
    """A value and where it was published."""

    value: Any
    source: str


_MATH = "DeepSeekMath (2402.03300), §4.2"
_MATH_EQUATION = "DeepSeekMath (2402.03300), §4.1"
_R1 = "DeepSeek-R1 (Nature 645, 2025; 2501.12948 v2), training details of DeepSeek-R1-Zero"
_R1_EQUATION = "DeepSeek-R1 (Nature 645, 2025), eq. 1 to 3"
_R1_REWARDS = "DeepSeek-R1 (Nature 645, 2025), eq. 4"
_DAPO = "DAPO (2503.14476), §4.1"
_DAPO_SCRIPT = "verl, recipe/dapo/run_dapo_qwen2.5_32b.sh"
_DR = "Dr. GRPO (2503.20783), table 6"
_DR_SCRIPT = "sail-sg/understand-r1-zero (2503.20783), examples/qwen2.5-math-7b.sh"
_DR_EQUATION = "Dr. GRPO (2503.20783), §3.2"
_GSPO = "GSPO (2507.18071 v2), §5.1"

PRESETS: dict[str, dict[str, Setting]] = {
    "deepseekmath": {
        "advantage": Setting("grpo", _MATH_EQUATION + ".2"),
        "loss_type": Setting("grpo", _MATH_EQUATION + ", eq. 3"),
        "kl_estimator": Setting("k3", _MATH_EQUATION + ", eq. 4"),
        "use_bias_correction_kl": Setting(False, _MATH_EQUATION + ", eq. 4"),
        "beta": Setting(0.04, _MATH),
        "learning_rate": Setting(1e-6, _MATH),
        "num_generations": Setting(64, _MATH),
        "max_completion_length": Setting(1024, _MATH),
        "prompts_per_step": Setting(16, _MATH + ": batch of 1,024 answers / 64"),
        "steps_per_generation": Setting(1, _MATH + ": a single update per exploration"),
        "num_iterations": Setting(1, _MATH + ": a single update per exploration"),
    },
    "r1_zero_nature": {
        "advantage": Setting("grpo", _R1_EQUATION),
        "loss_type": Setting("grpo", _R1_EQUATION),
        "kl_estimator": Setting("k3", _R1_EQUATION),
        "use_bias_correction_kl": Setting(False, _R1_EQUATION),
        "beta": Setting(0.001, _R1),
        "learning_rate": Setting(3e-6, _R1),
        "temperature": Setting(1.0, _R1),
        "num_generations": Setting(16, _R1),
        "prompts_per_step": Setting(32, _R1 + ": 32 questions, 512 answers a step"),
        "steps_per_generation": Setting(16, _R1 + ": 8,192 answers a rollout in 16 minibatches"),
        "num_iterations": Setting(1, _R1 + ": a single inner epoch"),
        "max_steps": Setting(10_400, _R1),
        "max_completion_length": Setting(65_536, _R1 + ": the later limit"),
        "max_completion_length_schedule": Setting(["0:32768", "8200:65536"], _R1),
        "sync_ref_model": Setting(True, _R1),
        "ref_model_sync_steps": Setting(400, _R1),
        "ref_model_mixup_alpha": Setting(1.0, _R1 + ": the reference is replaced"),
        "reward_funcs": Setting(["accuracy", "format"], _R1_REWARDS),
        "reward_weights": Setting([1.0, 1.0], _R1_REWARDS + ": the same weight"),
    },
    "dapo": {
        "advantage": Setting("grpo", "DAPO (2503.14476), eq. 9"),
        "loss_type": Setting("dapo", "DAPO (2503.14476), eq. 12"),
        "epsilon": Setting(0.2, _DAPO),
        "epsilon_high": Setting(0.28, _DAPO),
        "beta": Setting(0.0, "DAPO (2503.14476), §2.3"),
        "learning_rate": Setting(1e-6, _DAPO),
        "lr_scheduler_type": Setting("constant_with_warmup", _DAPO),
        "warmup_steps": Setting(320, _DAPO + ": 20 rollouts of 16 updates"),
        "weight_decay": Setting(0.1, _DAPO_SCRIPT),
        "max_grad_norm": Setting(1.0, _DAPO_SCRIPT),
        "temperature": Setting(1.0, _DAPO_SCRIPT),
        "num_generations": Setting(16, _DAPO),
        "prompts_per_step": Setting(32, _DAPO + ": minibatch of 512 answers / 16"),
        "steps_per_generation": Setting(16, _DAPO + ": 512 prompts a rollout, 16 updates"),
        "max_completion_length": Setting(20_480, _DAPO),
        "reward_funcs": Setting(
            ["accuracy", "overlong(max_completion_length=20480, cache=4096)"], _DAPO + " and eq. 7 and 13"
        ),
        "reward_weights": Setting([2.0, 1.0], "DAPO (2503.14476), eq. 7: ±1, so 2 between right and wrong"),
        "dynamic_sampling": Setting(
            True, "DAPO (2503.14476), §3.2, by accuracy; here groups that differ in `overlong` alone count too"
        ),
        "max_generation_batches": Setting(
            30, _DAPO_SCRIPT + ": max_num_gen_batches=10, each of gen_prompt_bsz = 3 × train_prompt_bsz, so 10 × 3"
        ),
    },
    "dr_grpo": {
        "advantage": Setting("dr_grpo", _DR_EQUATION),
        "loss_type": Setting("dr_grpo", _DR_EQUATION),
        "epsilon": Setting(0.2, _DR),
        "beta": Setting(0.0, _DR),
        "learning_rate": Setting(1e-6, _DR),
        "lr_scheduler_type": Setting("constant", _DR),
        "weight_decay": Setting(0.0, _DR),
        "adam_beta1": Setting(0.9, _DR),
        "adam_beta2": Setting(0.95, _DR),
        "max_grad_norm": Setting(1.0, _DR),
        "temperature": Setting(1.0, _DR),
        "top_p": Setting(1.0, _DR),
        "num_generations": Setting(8, _DR),
        "max_completion_length": Setting(3000, _DR),
        "prompts_per_step": Setting(16, _DR_SCRIPT + ": train_batch_size of 128 answers / 8"),
        "steps_per_generation": Setting(8, _DR_SCRIPT + ": rollout_batch_size of 128 prompts / 16"),
        "num_iterations": Setting(1, _DR),
    },
    "gspo_moe": {
        "advantage": Setting("grpo", "GSPO (2507.18071), eq. 6"),
        "loss_type": Setting("gspo", "GSPO (2507.18071), eq. 5"),
        "epsilon": Setting(GSPO_CLIP[0], _GSPO),
        "epsilon_high": Setting(GSPO_CLIP[1], _GSPO),
        "beta": Setting(0.0, "an author of GSPO suggests it in verl pull request 2775"),
        "steps_per_generation": Setting(4, _GSPO + ": each rollout in four minibatches"),
        "router_replay": Setting(False, "GSPO (2507.18071), §5.3: it does without routing replay"),
    },
}

# Settings that mean something beside another one alone, and that one. Where a recipe has its own value for that, these
# of the preset step aside: R1-Zero's 32,768 tokens are no limit for a recipe of 80, nor DAPO's ε one for GSPO's ratios.
GOES_WITH = {
    "max_completion_length_schedule": "max_completion_length",
    "reward_weights": "reward_funcs",
    "epsilon": "loss_type",
    "epsilon_high": "loss_type",
    "warmup_steps": "lr_scheduler_type",
    "max_generation_batches": "dynamic_sampling",
}


def options(name: str) -> dict[str, Any]:
    """The preset's settings by name of the option."""
    return {option: setting.value for option, setting in PRESETS[name].items()}


def options_beside(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The same without those that go with a setting for which `given`, the recipe's own values, has another value."""
    preset = options(name)
    other = {option for option, value in preset.items() if given.get(option, value) != value}
    return {option: value for option, value in preset.items() if GOES_WITH.get(option) not in other}

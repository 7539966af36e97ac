"""What a run can be told. One dataclass per concern; names are TRL's wherever the meaning is the same.

The objective and what belongs to it stand in `rlzero.grpo.objective_config`, the sampling in
`rlzero.grpo.rollout_config`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from rlzero.grpo.aggregate import AGGREGATIONS
from rlzero.grpo.concern import Concern, ConfigError, Options, above, acts_only_with, at_least, choose, option
from rlzero.grpo.objective_config import CorrectionConfig, ObjectiveConfig, ReferenceConfig
from rlzero.grpo.presets import PRESETS
from rlzero.grpo.rollout_config import RolloutConfig, SelectionConfig

# transformers' schedules that need no more than steps and warm-up.
SCHEDULES = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt",
)  # fmt: skip
ROUTER_BIAS = ("frozen", "update")


@dataclass
class ModelConfig(Concern):
    """The model that is trained."""

    model_name_or_path: str = option("recipes/base", "Folder or hub id of a causal language model.")
    model_revision: str | None = option(None, "Hub revision.")
    dtype: str = option("float32", "Of the trained weights: float32 (master weights), bfloat16 or auto.")
    bf16: bool | None = option(None, "Compute in bfloat16 over the weights' dtype. Default: where CUDA supports it.")
    attn_implementation: str | None = option(None, "As in transformers: sdpa, eager, flash_attention_2, …")
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    torch_compile: bool = option(
        False, "Compile the layers for the update (torch.compile): the first steps wait for the compiler."
    )
    torch_compile_backend: str = option("inductor", "torch.compile's backend.")
    lora_r: int | None = option(
        None, "Train low-rank adapters of this rank (LoRA), not all weights. The reference is the model without them."
    )
    lora_alpha: float = option(32.0, "Scale of the adapters, over lora_r.")
    lora_target_modules: list[str] | None = option(
        None, "Linear layers that get adapters, by the last part of their names. Default: all but the output head."
    )
    trust_remote_code: bool = option(False, "Run code that comes with the model. Off unless you ask.")

    def check(self) -> None:
        acts_only_with(self, "torch_compile", self.torch_compile, ("torch_compile_backend",))
        if self.torch_compile:
            choose("torch_compile_backend", self.torch_compile_backend, torch.compiler.list_backends(()))
        acts_only_with(self, "lora_r", self.lora_r is not None, ("lora_alpha", "lora_target_modules"))
        if self.lora_r is not None:
            at_least("lora_r", self.lora_r, 1)
        above("lora_alpha", self.lora_alpha, 0)

    @property
    def computes_in_bfloat16(self) -> bool:
        """What `bf16` says, and where it says nothing, what the hardware can."""
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported() if self.bf16 is None else self.bf16


@dataclass
class DataConfig(Concern):
    """The problems and the text around them."""

    dataset_name: str = option(
        "arithmetic", "arithmetic, countdown, gym:<task>, a JSONL/JSON/Parquet file or folder, or a hub id."
    )
    dataset_config: str | None = option(None, "Hub configuration name.")
    dataset_revision: str | None = option(None, "Hub revision.")
    dataset_train_split: str = option("train", "Split to train on.")
    dataset_test_split: str | None = option(
        None,
        "Split to hold out. Default: a fixed share of the training rows, chosen by a hash of the question.",
    )
    prompt_column: str | None = option(None, "Column of the question. Default: the usual names, if unambiguous.")
    answer_column: str | None = option(None, "Column of the gold answer. Default: the usual names.")
    dataset_options: Options = option(Options(), 'Options of a generator, as JSON: {"max_term": 20}.')
    template: str = option("r1_zero", "Prompt template by name, or its text with {prompt}.")


@dataclass
class RewardConfig(Concern):
    """What is paid for."""

    reward_funcs: list[str] = option(
        ["accuracy", "format"], "Shipped names, path/to/file.py:function, or package.module.function."
    )
    reward_weights: list[float] | None = option(None, "One per reward function. Default: 1 each.")
    multi_objective_aggregation: str = option(
        "sum_then_normalize",
        "Several rewards: sum_then_normalize makes advantages of their sum, normalize_then_sum adds up the advantages "
        "of each (GDPO).",
    )

    overlap_rewards: bool | None = option(
        None, "Call the reward functions on finished groups, in a thread, while others are still generated; each call "
        "has whole groups, but not all. Default: where they work in a thread."
    )  # fmt: skip

    def check(self) -> None:
        choose("multi_objective_aggregation", self.multi_objective_aggregation, AGGREGATIONS)
        if self.reward_weights and not any(self.reward_weights):
            raise ConfigError(
                f"reward_weights={self.reward_weights} pays nothing, so no answer would ever be better than another: "
                "give one reward at least a weight other than 0."
            )


@dataclass
class GRPOConfig(Concern):
    """The update."""

    prompts_per_step: int = option(
        32, "Problems per optimizer step over all processes; answers are this times num_generations."
    )
    max_steps: int = option(100, "Optimizer steps. Everything that counts steps counts these.")
    steps_per_generation: int = option(
        1, "Minibatches of a rollout: it asks this many times prompts_per_step problems, and each step takes its share."
    )
    num_iterations: int = option(1, "Times that every rollout is gone through.")
    learning_rate: float = option(1e-6, "Peak.")
    lr_scheduler_type: str = option("constant", f"As in transformers: {', '.join(SCHEDULES)}.")
    warmup_steps: int = option(0, "Linear warm-up.")
    weight_decay: float = option(0.0, "AdamW's.")
    adam_beta1: float = option(0.9, "AdamW's.")
    adam_beta2: float = option(0.95, "AdamW's.")
    max_grad_norm: float = option(1.0, "Gradient clipping.")
    max_skipped_steps: int = option(
        3, "A step whose loss or gradient is not finite is skipped and its batch kept; after so many in a row, stop."
    )
    tokens_per_microbatch: int = option(8192, "Tokens per forward pass; gradients accumulate.")
    shared_prefix: bool | None = option(
        None, "Run the prompt of a group once for all of its completions. Default: where that pays."
    )
    max_async_level: int = option(
        0, "1: generate the next rollout during the updates of this one, with the weights of before them (one step "
        "off-policy), where engine and trainer have cores or devices of their own; 0: only afterwards."
    )  # fmt: skip
    router_replay: bool = option(
        False, "Mixture of experts: train with the experts that the engine ran (R3), gates computed anew."
    )
    router_bias: str = option(
        "frozen", "The bias by which DeepSeek-V3's routers choose: frozen, or update (by load, after each step)."
    )

    def check(self) -> None:
        choose("router_bias", self.router_bias, ROUTER_BIAS)
        for name in ("prompts_per_step", "max_steps", "num_iterations", "max_skipped_steps", "tokens_per_microbatch"):
            at_least(name, getattr(self, name), 1)
        at_least("steps_per_generation", self.steps_per_generation, 1, "a minibatch is no larger than its rollout")
        if self.max_async_level not in (0, 1):
            raise ConfigError(f"max_async_level={self.max_async_level} must be 0 (on-policy) or 1 (one rollout ahead).")
        choose("lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        at_least("warmup_steps", self.warmup_steps, 0)
        if self.warmup_steps and self.lr_scheduler_type == "constant":
            raise ConfigError(
                f"warmup_steps={self.warmup_steps} would do nothing with lr_scheduler_type='constant': choose "
                "constant_with_warmup, or leave warmup_steps out."
            )
        for name in ("learning_rate", "max_grad_norm"):
            above(name, getattr(self, name), 0)

    @property
    def updates_per_rollout(self) -> int:
        """Optimizer steps between two generations; 1 is on-policy."""
        return self.steps_per_generation * self.num_iterations

    def meets_moved_policy(self, minibatch: int) -> bool:
        """Whether the minibatch of this number ever meets another policy than the rollout began with. In its only turn
        the first one does not."""
        return self.updates_per_rollout > 1 and (minibatch > 0 or self.num_iterations > 1)

    @property
    def prompts_per_rollout(self) -> int:
        """Groups that a rollout is made of, over all processes."""
        return self.prompts_per_step * self.steps_per_generation


@dataclass
class RunConfig(Concern):
    """The run: where it writes, what it measures, how it goes on."""

    output_dir: str = option("runs/r1_zero", "Run directory: metrics, rollouts, checkpoints, model, report.")
    preset: str | None = option(
        None, f"Defaults of a published run: {', '.join(PRESETS)}. YAML file and command line win over them."
    )
    resume: bool = option(False, "Go on from the newest checkpoint of output_dir.")
    seed: int = option(0, "Of problems, sampling and everything else.")
    save_steps: int = option(50, "A checkpoint every N steps; 0 only at an interruption.")
    save_total_limit: int = option(2, "Checkpoints to keep.")
    eval_problems: int = option(256, "Held-out problems before and after training; 0 skips both.")
    eval_samples: int = option(8, "Samples per held-out problem (k of pass@k).")
    eval_steps: int = option(0, "A quick held-out evaluation every N steps; 0 never.")
    eval_quick_problems: int = option(256, "Held-out problems of the quick evaluation.")
    eval_quick_samples: int = option(
        1, "Samples per problem of the quick evaluation: more problems say more than more samples."
    )
    report_to: list[str] = option(
        ["auto"], "accelerate's trackers: wandb, tensorboard, …; auto: tensorboard if installed; none."
    )
    dry_run: bool = option(False, "Check everything that can be checked, print what would run, and stop.")

    def check(self) -> None:
        if self.preset is not None:
            choose("preset", self.preset, PRESETS)
        for name in ("save_steps", "eval_problems", "eval_steps"):
            at_least(name, getattr(self, name), 0)
        for name in ("save_total_limit", "eval_samples", "eval_quick_problems", "eval_quick_samples"):
            at_least(name, getattr(self, name), 1)


@dataclass(frozen=True)
class Recipe:
    """All settings of a run."""

    model: ModelConfig
    data: DataConfig
    reward: RewardConfig
    rollout: RolloutConfig
    selection: SelectionConfig
    objective: ObjectiveConfig
    reference: ReferenceConfig
    correction: CorrectionConfig
    grpo: GRPOConfig
    run: RunConfig

    @property
    def learns_from_every_answer(self) -> bool:
        """A pull to the reference and an entropy bonus are about every answer, with an advantage or without."""
        return self.reference.in_loss or self.objective.entropy_coef > 0

    @property
    def old_logprobs(self) -> str:
        """`ObjectiveConfig.old_logprobs`; `auto` is the sampler's where that had the weights of before, unless that is
        corrected for by itself."""
        stale, old = self.grpo.max_async_level > 0, self.objective.old_logprobs
        return "sampler" if old == "auto" and stale and self.correction.mode is None else old


def as_plain_config(recipe: Recipe) -> dict[str, Any]:
    """All settings in one flat dictionary: the YAML that repeats the run."""
    return {key: value for concern in asdict(recipe).values() for key, value in concern.items()}

"""What a run can be told. One dataclass per concern; names are TRL's wherever the meaning is the same.

The objective and what belongs to it stand in `rlzero.grpo.objective_config`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rlzero.grpo.aggregate import AGGREGATIONS
from rlzero.grpo.concern import Concern, ConfigError, Options, above, at_least, choose, option
from rlzero.grpo.curriculum import CURRICULA
from rlzero.grpo.objective_config import CorrectionConfig, ObjectiveConfig, ReferenceConfig
from rlzero.grpo.presets import PRESETS
from rlzero.grpo.schedule import LengthSchedule, parse_lengths

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
    trust_remote_code: bool = option(False, "Run code that comes with the model. Off unless you ask.")

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

    def check(self) -> None:
        choose("multi_objective_aggregation", self.multi_objective_aggregation, AGGREGATIONS)


@dataclass
class RolloutConfig(Concern):
    """How completions are sampled."""

    rollout: str = option("auto", "vllm, builtin, or auto: vLLM wherever it imports.")
    num_generations: int = option(8, "Completions per problem (G).")
    max_completion_length: int = option(256, "New tokens per completion at most.")
    max_completion_length_schedule: list[str] | None = option(
        None, "A shorter limit while training is young: steps:tokens, the first from step 0 (0:32768 8200:65536)."
    )
    temperature: float = option(1.0, "Sampling temperature; the policy's log-probabilities use it too.")
    top_p: float = option(1.0, "Nucleus sampling; 1 is off.")
    top_k: int = option(0, "Top-k sampling; 0 is off.")
    vllm_gpu_memory_utilization: float = option(0.3, "Share of GPU memory for vLLM beside the trainer.")
    vllm_max_model_length: int | None = option(None, "Context of the engine. Default: prompt + completion.")
    max_num_seqs: int = option(512, "Sequences decoded at a time by either engine.")
    sync_check_every: int = option(1, "Verify every Nth weight sync; 0 never.")
    sync_tolerance: float | None = option(
        None, "Mean |Δ log-probability| between trainer and engine at which the run stops. "
        "Default: 0.001 in float32, 0.1 in bfloat16."
    )  # fmt: skip

    def check(self) -> None:
        choose("rollout", self.rollout, ("auto", "vllm", "builtin"))
        at_least("num_generations", self.num_generations, 2, "an advantage compares answers to the same problem")
        at_least("max_completion_length", self.max_completion_length, 1)
        at_least("max_num_seqs", self.max_num_seqs, 1)
        at_least("top_k", self.top_k, 0)
        at_least("sync_check_every", self.sync_check_every, 0)
        above("temperature", self.temperature, 0, "a greedy group has no signal")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p} must lie in (0, 1].")
        if not 0 < self.vllm_gpu_memory_utilization <= 1:
            raise ConfigError(f"vllm_gpu_memory_utilization={self.vllm_gpu_memory_utilization} must lie in (0, 1].")
        longest = max(length for _, length in self.length_schedule)
        if longest > self.max_completion_length:
            raise ConfigError(
                f"max_completion_length_schedule={self.max_completion_length_schedule} goes up to {longest} tokens, "
                f"and max_completion_length={self.max_completion_length} is the most that the engine makes room for: "
                f"raise it to {longest}, or lower the schedule."
            )

    @property
    def length_schedule(self) -> LengthSchedule:
        """(steps done, tokens) pairs; one for the whole run where no schedule is given."""
        if self.max_completion_length_schedule is None:
            return ((0, self.max_completion_length),)
        try:
            return parse_lengths(self.max_completion_length_schedule)
        except ValueError as error:
            raise ConfigError(str(error)) from None


@dataclass
class SelectionConfig(Concern):
    """Which problems are asked, and which groups are trained on."""

    dynamic_sampling: bool = option(
        False, "Go on asking until the rollout is full of groups whose answers differ in reward (DAPO)."
    )
    max_generation_batches: int = option(10, "Dynamic sampling: ask for at most this many times the groups wanted.")
    curriculum: str = option(
        "none",
        "Choose problems by their pass rates so far: learnability (most often near one half), failures (most often "
        "near 0); none takes them as they come.",
    )
    curriculum_pool: int = option(4096, "Problems of a generator that a curriculum chooses from; a table's are all.")

    def check(self) -> None:
        choose("curriculum", self.curriculum, ("none", *CURRICULA))
        at_least("curriculum_pool", self.curriculum_pool, 1)
        at_least("max_generation_batches", self.max_generation_batches, 1)
        if self.dynamic_sampling:
            why = "with one there is nothing left to fill the step with; raise it, or leave dynamic_sampling off"
            at_least("max_generation_batches", self.max_generation_batches, 2, why)


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

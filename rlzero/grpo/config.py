"""What a run can be told. One dataclass per concern; names are TRL's wherever the meaning is the same."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch

from rlzero.grpo.advantage import ADVANTAGES
from rlzero.grpo.loss import LOSSES

# transformers' schedules that need no more than steps and warm-up.
SCHEDULES = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt",
)  # fmt: skip
ROUTER_BIAS = ("frozen", "update")


class ConfigError(ValueError):
    """A setting that cannot work. Recipes print it and exit with code 2 before anything long starts."""


def choose(option: str, value: str, known) -> None:
    """Refuse a name that does not exist, naming those that do."""
    if value not in known:
        raise ConfigError(f"{option}={value!r} does not exist; choose one of: {', '.join(sorted(known))}.")


def at_least(option: str, value: float, least: float, why: str = "") -> None:
    if value < least:
        raise ConfigError(f"{option}={value} must be at least {least}{': ' + why if why else ''}.")


def option(default: Any, text: str, **kwargs: Any) -> Any:
    """A documented field; mutable defaults are copied."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata={"help": text, **kwargs})
    return field(default=default, metadata={"help": text, **kwargs})


def as_declared(name: str, value: Any, hint: Any) -> Any:
    """The value in the declared type. YAML has no types to check: `8.5`, `"yes"` or null can stand anywhere.

    A single value stands for a list of one, and YAML's `1e-6`, which is a text there, for the number.
    """
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = kinds[0]
    if get_origin(kind) is list:
        values = value if isinstance(value, list | tuple) else [value]
        return [as_declared(name, item, get_args(kind)[0]) for item in values]
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool)):
        return value
    if kind is Options and isinstance(value, dict):
        return Options(value)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Options: "a mapping"}
    raise ConfigError(f"{name}={value!r} is a {type(value).__name__} and must be {words[kind]}.")


class Options(dict):
    """A dictionary that the command line may give as JSON."""

    def __init__(self, value: Any = ()) -> None:
        super().__init__(json.loads(value) if isinstance(value, str) else value)


@dataclass
class Concern:
    """Settings of one kind. Types are checked first, so that `check` can compare values."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name in (f.name for f in fields(self)):
            setattr(self, name, as_declared(name, getattr(self, name), hints[name]))
        self.check()

    def check(self) -> None:
        """Raise ConfigError for values that cannot work."""


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


@dataclass
class RolloutConfig(Concern):
    """How completions are sampled."""

    rollout: str = option("auto", "vllm, builtin, or auto: vLLM wherever it imports.")
    num_generations: int = option(8, "Completions per problem (G).")
    max_completion_length: int = option(256, "New tokens per completion at most.")
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
        if not self.temperature > 0:
            raise ConfigError(f"temperature={self.temperature} must be above 0: a greedy group has no signal.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p} must lie in (0, 1].")
        if not 0 < self.vllm_gpu_memory_utilization <= 1:
            raise ConfigError(f"vllm_gpu_memory_utilization={self.vllm_gpu_memory_utilization} must lie in (0, 1].")


@dataclass
class GRPOConfig(Concern):
    """The update."""

    prompts_per_step: int = option(
        32, "Problems per optimizer step over all processes; rollouts are this times num_generations."
    )
    max_steps: int = option(100, "Optimizer steps (with num_iterations > 1: rollout steps).")
    num_iterations: int = option(1, "Updates per rollout. 1 is on-policy.")
    advantage: str = option("grpo", "grpo: (r - mean) / std of the group; dr_grpo: r - mean.")
    loss_type: str = option("dapo", "How token losses are averaged: dapo, grpo, dr_grpo.")
    epsilon: float = option(0.2, "Lower clip of the ratio; acts when num_iterations > 1.")
    epsilon_high: float | None = option(None, "Upper clip. Default: epsilon.")
    learning_rate: float = option(1e-6, "Peak.")
    lr_scheduler_type: str = option("constant", f"As in transformers: {', '.join(SCHEDULES)}.")
    warmup_steps: int = option(0, "Linear warm-up.")
    weight_decay: float = option(0.0, "AdamW's.")
    adam_beta1: float = option(0.9, "AdamW's.")
    adam_beta2: float = option(0.95, "AdamW's.")
    max_grad_norm: float = option(1.0, "Gradient clipping.")
    tokens_per_microbatch: int = option(8192, "Padded tokens per forward pass; gradients accumulate.")
    router_replay: bool = option(
        False, "Mixture of experts: train with the experts that the engine ran (R3), gates computed anew."
    )
    router_bias: str = option(
        "frozen", "The bias by which DeepSeek-V3's routers choose: frozen, or update (by load, after each step)."
    )

    def check(self) -> None:
        choose("advantage", self.advantage, ADVANTAGES)
        choose("loss_type", self.loss_type, LOSSES)
        choose("router_bias", self.router_bias, ROUTER_BIAS)
        for name in ("prompts_per_step", "max_steps", "num_iterations", "tokens_per_microbatch"):
            at_least(name, getattr(self, name), 1)
        choose("lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        at_least("warmup_steps", self.warmup_steps, 0)
        if self.warmup_steps and self.lr_scheduler_type == "constant":
            raise ConfigError(
                f"warmup_steps={self.warmup_steps} would do nothing with lr_scheduler_type='constant': choose "
                "constant_with_warmup, or leave warmup_steps out."
            )
        if self.epsilon_high is None:
            self.epsilon_high = self.epsilon
        for name in ("learning_rate", "epsilon", "epsilon_high", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be above 0.")


@dataclass
class RunConfig(Concern):
    """The run: where it writes, what it measures, how it goes on."""

    output_dir: str = option("runs/r1_zero", "Run directory: metrics, rollouts, checkpoints, model, report.")
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
    grpo: GRPOConfig
    run: RunConfig

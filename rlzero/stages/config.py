"""What a cold start can be told, beside the model (`rlzero.grpo.config.ModelConfig`)."""

from __future__ import annotations

from dataclasses import dataclass

from rlzero.grpo.config import Concern, ConfigError, at_least, option


@dataclass
class ThoughtsConfig(Concern):
    """What is learned from."""

    thoughts: list[str] = option(
        ["arithmetic", "countdown"],
        "Where thoughts come from, one or several: arithmetic, countdown (generated); a JSONL or Parquet file with "
        "the columns prompt and completion, or messages; a run directory (its own verified samples).",
    )
    num_thoughts: int | None = option(256, "Thoughts of each source at most. Files and runs only: none takes all.")
    per_problem: int = option(1, "Of a run directory: thoughts of one problem at most.")
    from_step: int = option(0, "Of a run directory: only what was sampled from this step on.")
    template: str = option("r1_zero", "Prompt template by name, or its text with {prompt}: the one RL will use.")
    max_length: int | None = option(None, "Leave out longer thoughts, prompt included. Default: the model's context.")

    def check(self) -> None:
        if not self.thoughts:
            raise ConfigError("thoughts is empty: name at least one source of thoughts.")
        if self.num_thoughts is not None:
            at_least("num_thoughts", self.num_thoughts, 1)
        at_least("per_problem", self.per_problem, 1)
        at_least("from_step", self.from_step, 0)
        if self.max_length is not None:
            at_least("max_length", self.max_length, 2)


@dataclass
class StageConfig(Concern):
    """The update and the run."""

    output_dir: str = option("runs/cold_start", "Folder for the model, the thoughts and the figures.")
    seed: int = option(0, "Of generated thoughts and of their order.")
    num_train_epochs: float = option(1.0, "Passes over the thoughts.")
    per_device_train_batch_size: int = option(16, "Thoughts per forward pass and process.")
    gradient_accumulation_steps: int = option(1, "Forward passes per update.")
    learning_rate: float = option(1e-5, "Peak.")
    lr_scheduler_type: str = option("cosine", "As in transformers: constant, linear, cosine, …")
    warmup_steps: int = option(0, "Linear warm-up.")
    weight_decay: float = option(0.0, "AdamW's.")
    max_grad_norm: float = option(1.0, "Gradient clipping.")
    eval_tasks: list[str] | None = option(
        None, "Problems to measure on before and after, as dataset_name of r1_zero. Default: the generated tasks."
    )
    eval_problems: int = option(64, "Held-out problems of each task; 0 skips both measurements.")
    eval_samples: int = option(4, "Samples per held-out problem.")
    max_completion_length: int = option(256, "New tokens per sample at most.")

    def check(self) -> None:
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "eval_samples"):
            at_least(name, getattr(self, name), 1)
        at_least("max_completion_length", self.max_completion_length, 1)
        for name in ("warmup_steps", "eval_problems"):
            at_least(name, getattr(self, name), 0)
        for name in ("learning_rate", "num_train_epochs"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be above 0.")

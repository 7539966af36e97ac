"""How completions are sampled, and which groups are trained on: the settings."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlzero.grpo.concern import Concern, ConfigError, above, acts_only_with, at_least, choose, option
from rlzero.grpo.curriculum import CURRICULA
from rlzero.grpo.schedule import LengthSchedule, parse_lengths


@dataclass
class RolloutConfig(Concern):
    """How completions are sampled."""

    rollout: str = option("auto", "vllm, builtin, or auto: vLLM wherever it imports.")
    rollout_device: str | None = option(
        None, "cpu, or cuda:N: the engine runs in a process of its own on that device; with several trainer processes "
        "on a machine their engines take cuda:N and those after it. Default: in the trainer's process."
    )  # fmt: skip
    num_generations: int = option(8, "Completions per problem (G).")
    max_completion_length: int = option(256, "New tokens per completion at most.")
    max_completion_length_schedule: list[str] | None = option(
        None, "A shorter limit while training is young: steps:tokens, the first from step 0 (0:32768 8200:65536)."
    )
    temperature: float = option(1.0, "Sampling temperature; the policy's log-probabilities use it too.")
    top_p: float = option(1.0, "Nucleus sampling; 1 is off.")
    top_k: int = option(0, "Top-k sampling; 0 is off.")
    vllm_gpu_memory_utilization: float = option(0.3, "Share of GPU memory for vLLM beside the trainer.")
    vllm_enable_sleep_mode: bool = option(
        False, "Give back vLLM's GPU memory while the trainer works. On a GPU that the two share."
    )
    vllm_max_model_length: int | None = option(None, "Context of the engine. Default: prompt + completion.")
    max_num_seqs: int = option(512, "Sequences decoded at a time by either engine.")
    sync_check_every: int = option(1, "Verify every Nth weight sync; 0 never.")
    sync_tolerance: float | None = option(
        None, "Mean |Δ log-probability| between trainer and engine at which the run stops. "
        "Default: 0.001 in float32, 0.1 in bfloat16."
    )  # fmt: skip

    def check(self) -> None:
        choose("rollout", self.rollout, ("auto", "vllm", "builtin"))
        if self.rollout_device is not None and not re.fullmatch(r"cpu|cuda:\d+", self.rollout_device):
            raise ConfigError(
                f"rollout_device={self.rollout_device!r} is no device of an engine: give cpu, or cuda and a number "
                "(cuda:1), or leave it out for the trainer's own process and device."
            )
        if self.rollout_device == "cpu" and self.vllm_enable_sleep_mode:
            raise ConfigError(
                "vllm_enable_sleep_mode=True gives back memory of the GPU that engine and trainer share, and "
                "rollout_device='cpu' puts the engine on none: leave one of them out."
            )
        at_least("num_generations", self.num_generations, 2, "an advantage compares answers to the same problem")
        at_least("max_completion_length", self.max_completion_length, 1)
        at_least("max_num_seqs", self.max_num_seqs, 1)
        at_least("top_k", self.top_k, 0)
        if self.top_k == 1:
            raise ConfigError("top_k=1 is greedy, and a greedy group has no signal: raise it, or 0 for all tokens.")
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
        acts_only_with(self, "dynamic_sampling", self.dynamic_sampling, ("max_generation_batches",))
        acts_only_with(self, "a curriculum", self.curriculum != "none", ("curriculum_pool",))

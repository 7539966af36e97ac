"""Where a run that goes on starts from, and whether it is still the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlzero.grpo.checkpoint import newest_whole
from rlzero.grpo.config import ConfigError, Recipe, as_plain_config
from rlzero.grpo.manifest import about
from rlzero.grpo.parse import CONCERNS
from rlzero.report.records import as_plain
from rlzero.report.run_dir import RunDirectory

# Settings that may differ between a run and its resumption. Where the run is kept, shown and measured:
_RECORD = {
    "output_dir", "resume", "dry_run", "report_to", "save_steps", "save_total_limit", "eval_problems", "eval_samples",
    "eval_steps", "eval_quick_problems", "eval_quick_samples",
}  # fmt: skip
# How long it is, and when it gives up:
_END = {"max_steps", "max_skipped_steps", "sync_check_every", "sync_tolerance"}
# How the same work is done; the steps are then the same to rounding, or to another engine's sampling:
_MACHINE = {
    "tokens_per_microbatch", "shared_prefix", "gradient_checkpointing", "attn_implementation", "torch_compile",
    "torch_compile_backend", "overlap_rewards", "rollout", "rollout_device", "max_num_seqs",
    "vllm_gpu_memory_utilization", "vllm_enable_sleep_mode", "vllm_max_model_length",
}  # fmt: skip
# A preset is its options, which are compared one by one.
MAY_CHANGE = frozenset(_RECORD | _END | _MACHINE | {"preset"})


@dataclass(frozen=True)
class StartingPoint:
    """checkpoint: what the run goes on from; None for its beginning. notes: what there is to say about it."""

    checkpoint: Path | None
    notes: tuple[str, ...]


def starting_point(directory: RunDirectory, recipe: Recipe) -> StartingPoint:
    """The newest checkpoint that is whole; the beginning where the run ended before it had one.

    Raises ConfigError where every checkpoint is torn, where the run is finished and left none, and for settings that
    make another run of it.
    """
    path, torn = newest_whole(directory.checkpoints)
    if path is None and torn:
        faults = "; ".join(f"{name}: {fault}" for name, fault in torn.items())
        raise ConfigError(
            f"--resume goes on from a whole checkpoint, and those in {str(directory.checkpoints)!r} are torn "
            f"({faults}). Remove that folder to run from the beginning, or begin in another --output_dir."
        )
    was = json.loads(directory.config_json.read_text()) if path is None else about(path)["config"]
    # What a run leaves last, with and without an evaluation.
    last = directory.summary if was.get("eval_problems") else directory.curves
    if path is None and last.exists():
        raise ConfigError(
            f"--resume goes on from a checkpoint, and the run in {str(directory.path)!r} has none: it is finished, and "
            f"save_steps was {was.get('save_steps')}. Begin again in another --output_dir."
        )
    if changed := changes(was, as_plain_config(recipe)):
        raise ConfigError(
            "--resume goes on with the settings that the run began with, and these differ: "
            + "; ".join(f"{name} was {then!r} and is {now!r}" for name, (then, now) in changed.items())
            + f". Give the earlier ones ({directory.config_yaml} has them all), or begin another run in another "
            "--output_dir."
        )
    notes = [f"Checkpoint {name} is torn and left out: {fault}." for name, fault in torn.items()]
    if path is None:
        notes.append("The run had no checkpoint yet: it begins again.")
    return StartingPoint(path, tuple(notes))


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{name: (then, now)} of the settings that differ and must not. One that did not exist then was at its default."""
    defaults = {name: value for concern in CONCERNS for name, value in vars(concern()).items()}
    earlier = {**defaults, **was}
    pairs = {name: (as_plain(earlier.get(name)), as_plain(value)) for name, value in now.items()}
    return {name: pair for name, pair in pairs.items() if name not in MAY_CHANGE and pair[0] != pair[1]}

"""What a step leaves in the record: one line of metrics, one row per rollout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from rewards.registry import Reward
from rlzero.grpo.advantage import has_signal, informative
from rlzero.grpo.trainer import StepResult

# Figures of an update or of the sampling that only some settings have.
_SOME = ("kl", "corrected", "ratio_max", "off_policy_masked", "masked", "completion_limit")


def rollout_rows(result: StepResult, rewards: Sequence[Reward], accelerator: Accelerator) -> list[dict[str, Any]]:
    """One row per completion of the step, from all processes, as `RunDirectory.write_rollouts` takes them."""
    rows = [
        {
            "step": result.step,
            "prompt": group.group.problem.prompt,
            "answer": group.group.problem.answer,
            "completion": sample.text,
            "finish_reason": rollout.finish_reason,
            "length": sample.tokens,
            "reward": float(reward),
            "advantage": None if math.isnan(advantage) else float(advantage),
            "correct": sample.right,
            "format": sample.rewards["format"],
            **{f"reward/{reward.name}": sample.rewards[reward.name] for reward in rewards},
        }
        for group, advantages in zip(result.groups, result.advantages, strict=True)
        for rollout, sample, reward, advantage in zip(
            group.group.rollouts, group.samples, group.total, advantages, strict=True
        )
    ]
    return gather_object(rows) if accelerator.num_processes > 1 else rows


def step_metrics(
    result: StepResult, rows: list[dict[str, Any]], learning_rate: float, wall_seconds: float, group_size: int
) -> dict[str, Any]:
    """The line of metrics.jsonl. Shares in 0..1, lengths in tokens, times in seconds, entropy in nats."""
    lengths = np.array([row["length"] for row in rows])
    signal_N = with_signal(rows, group_size)
    rewards = sorted(name for name in rows[0] if name.startswith("reward/"))
    update = result.update
    return {
        "step": result.step,
        "reward": _mean(rows, "reward"),
        "accuracy": _mean(rows, "correct"),
        "format": _mean(rows, "format"),
        "completion_length": float(lengths.mean()),
        "completion_length_p10": float(np.percentile(lengths, 10)),
        "completion_length_p90": float(np.percentile(lengths, 90)),
        "truncated": float(np.mean([row["finish_reason"] == "length" for row in rows])),
        **{name: _mean(rows, name) for name in rewards},
        "groups_with_signal": float(signal_N.mean()),
        "groups_without_signal": int((~signal_N).sum()),
        "loss": update["loss"],
        "grad_norm": update["grad_norm"],
        "entropy": update.get("entropy"),
        "clip_ratio": update.get("clip_ratio"),
        "clip_low": update.get("clip_low"),
        "clip_high": update.get("clip_high"),
        "logprob_diff": update.get("logprob_diff", update["sync_diff"]),
        "logprob_diff_max": update.get("logprob_diff_max"),
        "mismatch_kl": update.get("mismatch_kl"),
        "ratio_above_2": update.get("ratio_above_2"),
        "sync_diff": update["sync_diff"],
        "learning_rate": learning_rate,
        "tokens": int(lengths.sum()),
        "trained_tokens": int(update["trained_tokens"]),
        "skipped": int(update["skipped"]),
        **{name: update[name] for name in _SOME if name in update},
        **{name: value for name, value in update.items() if name.startswith(("experts/", "sampling/"))},
        **{f"time_{name}": seconds for name, seconds in result.seconds.items()},
        "wall_seconds": wall_seconds,
    }


def with_signal(rows: Sequence[Mapping[str, Any]], group_size: int) -> np.ndarray:
    """bool[N]: whether the answers of a group differ in reward, or have advantages all the same.

    For rewards may be compared one by one (GDPO), and groups with each other (REINFORCE++).
    """
    rewards_NG, advantages_NG = (
        torch.tensor([math.nan if row[name] is None else row[name] for row in rows]).view(-1, group_size)
        for name in ("reward", "advantage")
    )
    return (has_signal(rewards_NG) | informative(advantages_NG.nan_to_num())).numpy()


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [float(row[name]) for row in rows if row[name] is not None]
    return float(np.mean(values)) if values else None

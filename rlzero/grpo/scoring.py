"""From rollouts to rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data.templates import Template
from rewards.registry import Reward, total
from rlzero.grpo.advantage import has_signal
from rlzero.grpo.batch import ScoredGroup
from rlzero.measure.evaluate import score_rollouts
from rlzero.rollout.types import Group

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Scorer:
    """The reward functions of a run, applied to groups. overlap: they may be called in a thread, on some groups while
    others are still generated."""

    rewards: Sequence[Reward]
    template: Template
    tokenizer: PreTrainedTokenizerBase
    overlap: bool = False

    def score(self, groups: Sequence[Group]) -> list[ScoredGroup]:
        """Rewards of every rollout. Raises RewardError where a function fails (`rewards.registry`)."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        samples = score_rollouts(rollouts, self.tokenizer, self.template, self.rewards)
        values = {r.name: [sample.rewards[r.name] for sample in samples] for r in self.rewards}
        totals = np.array(total(self.rewards, values), dtype=np.float32)
        scored, start = [], 0
        for group in groups:
            stop = start + len(group.rollouts)
            scored.append(ScoredGroup(group, tuple(samples[start:stop]), totals[start:stop]))
            start = stop
        return scored

    def compared(self, scored: Sequence[ScoredGroup], aggregation: str) -> tuple[Tensor, Tensor]:
        """rewards_NGK and weights_K, float32, as `rlzero.grpo.aggregate` takes them.

        Where rewards are summed first, the total alone, of weight 1; else every reward, NaN where it does not apply.
        """
        if aggregation == "sum_then_normalize":
            rows, weights = [s.total[:, None] for s in scored], [1.0]
        else:
            rows = [
                np.array([[sample.rewards[r.name] for r in self.rewards] for sample in s.samples], dtype=np.float32)
                for s in scored
            ]
            weights = [r.weight for r in self.rewards]
        table = np.stack(rows) if rows else np.zeros((0, 1, len(weights)), dtype=np.float32)
        return torch.from_numpy(table), torch.tensor(weights)


def teaches(rewards_NGK: Tensor, weights_K: Tensor) -> Tensor:
    """bool[N]: whether the answers of a group differ in anything that is compared."""
    differs_NK = torch.stack([has_signal(rewards_NG) for rewards_NG in rewards_NGK.unbind(-1)], dim=-1)
    return (differs_NK & (weights_K != 0)).any(dim=-1)

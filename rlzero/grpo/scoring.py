"""From rollouts to rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.templates import Template
from rewards.registry import Reward, total
from rlzero.grpo.batch import ScoredGroup
from rlzero.measure.evaluate import score_rollouts
from rlzero.rollout.types import Group

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Scorer:
    """The reward functions of a run, applied to groups."""

    rewards: Sequence[Reward]
    template: Template
    tokenizer: PreTrainedTokenizerBase

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

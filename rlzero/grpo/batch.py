"""From scored groups to padded microbatches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rlzero.measure.evaluate import Sample as ScoredSample
from rlzero.rollout.types import Group, Rollout


@dataclass(frozen=True)
class ScoredGroup:
    """A group with what was found in each answer, and the weighted total of its rewards, float32[G]."""

    group: Group
    samples: tuple[ScoredSample, ...]
    total: np.ndarray


@dataclass(frozen=True)
class TrainingSample:
    """A rollout with its advantage and the weight that each of its tokens has in the loss."""

    rollout: Rollout
    advantage: float
    weight: float

    @property
    def length(self) -> int:
        return len(self.rollout.prompt_ids) + len(self.rollout.completion_ids)


@dataclass(frozen=True)
class Batch:
    """One microbatch of R rows, padded on the right to L tokens. T = L − 1 predictions: entry t is about token t + 1.

    input_ids int64[R, L]; completion_mask bool[R, T], sampler_logprobs float32[R, T]; advantages, weights
    float32[R]; first: the smallest t that is about a completion token in any row; routing int16[R, L, layers, K]:
    the experts that the engine ran for each token, −1 where nothing was recorded, None where nothing was at all.
    """

    input_ids: torch.Tensor
    completion_mask: torch.Tensor
    sampler_logprobs: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor
    first: int
    routing: torch.Tensor | None = None

    @property
    def read(self) -> torch.Tensor:
        """bool[R, T]: the tokens of prompt and completion that something is predicted from; padding is not."""
        return self.completion_mask.flip(1).cummax(1).values.flip(1)

    def to(self, device: torch.device) -> Batch:
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return Batch(**tensors, first=self.first)


def pack(samples: Sequence[TrainingSample], token_budget: int, pad_id: int) -> list[Batch]:
    """Rows of similar length share a microbatch of at most `token_budget` padded tokens (a longer row is alone)."""
    cut: list[list[TrainingSample]] = []
    for sample in sorted(samples, key=lambda s: s.length, reverse=True):
        # Sorted: the first row of a microbatch is its longest.
        if not cut or (len(cut[-1]) + 1) * cut[-1][0].length > token_budget:
            cut.append([])
        cut[-1].append(sample)
    return [_pad(rows, pad_id) for rows in cut]


def filler(like: Batch | None, pad_id: int) -> Batch:
    """A microbatch without weight, for a process that has fewer than another (all must run the same number)."""
    shape = (1, 2) if like is None else (1, like.input_ids.shape[1])
    zeros = torch.zeros(1, shape[1] - 1)
    return Batch(torch.full(shape, pad_id), zeros.bool(), zeros, torch.zeros(1), torch.zeros(1), first=0)


def _pad(rows: Sequence[TrainingSample], pad_id: int) -> Batch:
    longest = max(row.length for row in rows)
    input_ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest - 1, dtype=torch.bool)
    sampler = torch.zeros(len(rows), longest - 1)
    for i, row in enumerate(rows):
        prompt = len(row.rollout.prompt_ids)
        input_ids[i, :prompt] = torch.from_numpy(row.rollout.prompt_ids)
        input_ids[i, prompt : row.length] = torch.from_numpy(row.rollout.completion_ids)
        mask[i, prompt - 1 : row.length - 1] = True
        sampler[i, prompt - 1 : row.length - 1] = torch.from_numpy(row.rollout.sampler_logprobs)
    return Batch(
        input_ids=input_ids,
        completion_mask=mask,
        sampler_logprobs=sampler,
        advantages=torch.tensor([row.advantage for row in rows], dtype=torch.float32),
        weights=torch.tensor([row.weight for row in rows], dtype=torch.float32),
        first=min(len(row.rollout.prompt_ids) for row in rows) - 1,
        routing=_pad_routing([row.rollout.routing for row in rows], longest),
    )


def _pad_routing(rows: Sequence[np.ndarray | None], longest: int) -> torch.Tensor | None:
    """int16[R, longest, layers, K], −1 beyond each row's own; None where an engine did not record."""
    recorded = [row for row in rows if row is not None]
    if len(recorded) < len(rows):
        return None
    routing = torch.full((len(rows), longest, *recorded[0].shape[1:]), -1, dtype=torch.int16)
    for i, row in enumerate(recorded):
        routing[i, : len(row)] = torch.from_numpy(row)
    return routing

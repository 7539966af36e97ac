"""From scored groups to microbatches: padded rows for what is per row, and their tokens in one row for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rlzero.grpo.microbatch import Piece, cut
from rlzero.grpo.packed import Packed, pack_rows
from rlzero.measure.evaluate import Sample as ScoredSample
from rlzero.models.packed_layout import Span, make_layout
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
    float32[R]; predictions int64[M]: the entries that are computed, in the flattened [R, T]; first: the smallest t of
    these in any row; routing int16[R, L, layers, K]: the experts that the engine ran for each token, −1 where nothing
    was recorded, None where nothing was at all. packed: how the model runs the tokens; None: as they are padded here.
    """

    input_ids: torch.Tensor
    completion_mask: torch.Tensor
    sampler_logprobs: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor
    predictions: torch.Tensor
    first: int
    routing: torch.Tensor | None = None
    packed: Packed | None = None

    @property
    def read(self) -> torch.Tensor:
        """bool[R, T]: the tokens of prompt and completion that something is predicted from; padding is not."""
        return self.completion_mask.flip(1).cummax(1).values.flip(1)

    @property
    def readers(self) -> torch.Tensor:
        """int64[N]: to how many rows each token that the model runs belongs; 0 for padding and what nobody reads."""
        if self.packed is None:
            return torch.nn.functional.pad(self.read, (0, 1)).flatten().long()
        return self.packed.readers

    def as_run(self, values: torch.Tensor) -> torch.Tensor:
        """Values of tokens, [R, L, …], in the order in which the model runs them: [N, …]."""
        return values.flatten(0, 1) if self.packed is None else values.flatten(0, 1)[self.packed.tokens]

    def to(self, device: torch.device) -> Batch:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor | Packed)}
        return Batch(**moved, first=self.first)


def pack(
    samples: Sequence[TrainingSample],
    token_budget: int,
    pad_id: int,
    *,
    packed: bool = True,
    shared_prefix: bool | None = None,
) -> list[Batch]:
    """Microbatches of at most `token_budget` tokens that the model runs (a longer row is alone), about equally full.

    packed: without padding, for a model that can (`prepare_policy`), and the prompt of a group once where
    shared_prefix says so (None: where it pays). Otherwise rows of similar length together, and padding counts.
    """
    for sample in samples:
        if not len(sample.rollout.prompt_ids) or not len(sample.rollout.completion_ids):
            raise ValueError(
                f"a sample needs at least one token of prompt and of completion, got {len(sample.rollout.prompt_ids)} "
                f"and {len(sample.rollout.completion_ids)}. The first token is predicted from the prompt: begin it "
                "with the tokenizer's BOS or any other token."
            )
    if packed:
        return [_pad_pieces(pieces, pad_id) for pieces in cut(samples, token_budget, shared_prefix)]
    rows: list[list[TrainingSample]] = []
    for sample in sorted(samples, key=lambda s: s.length, reverse=True):
        # Sorted: the first row of a microbatch is its longest.
        if not rows or (len(rows[-1]) + 1) * rows[-1][0].length > token_budget:
            rows.append([])
        rows[-1].append(sample)
    return [_pad(together, pad_id) for together in rows]


def filler(like: Batch | None, pad_id: int, *, packed: bool = True) -> Batch:
    """A microbatch without weight, for a process that has fewer than another (all must run the same number)."""
    length = 2 if like is None else like.input_ids.shape[1]
    zeros = torch.zeros(1, length - 1)
    token = torch.zeros(1, dtype=torch.int64)
    return Batch(
        torch.full((1, length), pad_id), zeros.bool(), zeros, torch.zeros(1), torch.zeros(1), token, first=0,
        packed=Packed(token, token, token, token, make_layout([Span(0, 1)])) if packed else None,
    )  # fmt: skip


def _pad_pieces(pieces: Sequence[Piece], pad_id: int) -> Batch:
    batch = _pad([sample for piece in pieces for sample in piece.samples], pad_id)
    return replace(batch, packed=pack_rows(pieces, batch.input_ids.shape[1]))


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
        predictions=mask.flatten().nonzero()[:, 0],
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

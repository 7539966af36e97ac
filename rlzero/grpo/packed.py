"""The rows of a microbatch as one row without padding, with prompts that several of them share run once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rlzero.grpo.microbatch import Piece
from rlzero.models.packed_layout import PackedLayout, Span, make_layout


@dataclass(frozen=True)
class Packed:
    """The N tokens that the model runs, in its order, from R padded rows of L tokens.

    tokens int64[N]: where each lies in the flattened rows; positions int64[N]: its place in its own sequence;
    readers int64[N]: how many rows it belongs to. at int64[M]: the token from which each prediction is made.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    readers: torch.Tensor
    at: torch.Tensor
    layout: PackedLayout

    def to(self, device: torch.device) -> Packed:
        return Packed(**{name: value.to(device) for name, value in vars(self).items()})


def pack_rows(pieces: Sequence[Piece], longest: int) -> Packed:
    """Of rows that are the pieces' samples in order, padded to `longest` tokens each.

    The last token of an answer is not run: nothing is predicted from it.
    """
    spans: list[Span] = []
    tokens, positions, readers, at = [], [], [], []
    count = row = 0
    for piece in pieces:
        prompt = len(piece.samples[0].rollout.prompt_ids)
        shared = len(piece.samples) > 1
        start = count
        if shared:
            spans.append(Span(start, start + prompt))
            tokens.append(row * longest + np.arange(prompt))
            positions.append(np.arange(prompt))
            readers.append(np.full(prompt, len(piece.samples)))
            count += prompt
        for sample in piece.samples:
            completion = len(sample.rollout.completion_ids)
            own = np.arange(prompt if shared else 0, prompt + completion - 1)
            if len(own):
                prefix = (start, start + prompt) if shared else (0, 0)
                spans.append(Span(count, count + len(own), *prefix))
            tokens.append(row * longest + own)
            positions.append(own)
            readers.append(np.ones_like(own))
            # The first token of an answer is predicted from the prompt's last.
            before = start + prompt - 1
            after = count if shared else before + 1
            at.append(np.concatenate([[before], np.arange(after, after + completion - 1)]))
            count += len(own)
            row += 1
    token, position, reader, predicted = (
        torch.from_numpy(np.concatenate(part)) for part in (tokens, positions, readers, at)
    )
    return Packed(token, position, reader, predicted, make_layout(spans))

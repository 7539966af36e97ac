"""Which token belongs to which answer, in both layouts of a batch: what a sequence-level objective needs to know.

The per-token functions of this package take tensors of any shape: [R, T] of padded rows or [T] of packed ones. What
is computed over an answer goes through one of these two classes, so that no objective knows the layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Sequences(Protocol):
    """mask: bool in the shape of the tokens, true for those of completions."""

    @property
    def mask(self) -> Tensor: ...

    def sums(self, values: Tensor) -> Tensor:
        """The sum of the masked tokens' values in each sequence: float[S]."""
        ...

    def spread(self, values_S: Tensor) -> Tensor:
        """One value per sequence, in a shape that broadcasts against the tokens."""
        ...


@dataclass(frozen=True)
class Rows:
    """One sequence per row: mask bool[R, T]."""

    mask: Tensor

    def sums(self, values: Tensor) -> Tensor:
        return values.masked_fill(~self.mask, 0.0).sum(dim=-1)

    def spread(self, values_S: Tensor) -> Tensor:
        return values_S[:, None]


@dataclass(frozen=True)
class Segments:
    """Sequences one after the other: mask bool[T]; index int64[T], the sequence of each token; their count."""

    mask: Tensor
    index: Tensor
    count: int

    def sums(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.count).index_add(0, self.index, values.masked_fill(~self.mask, 0.0))

    def spread(self, values_S: Tensor) -> Tensor:
        return values_S[self.index]


def mean_of(sequences: Sequences, values: Tensor) -> Tensor:
    """The mean of each sequence's masked tokens, spread; 0 for a sequence without any."""
    lengths = sequences.sums(sequences.mask.to(values.dtype)).clamp(min=1)
    return sequences.spread(sequences.sums(values) / lengths)


def masked_difference(minuend: Tensor, subtrahend: Tensor, mask: Tensor) -> Tensor:
    """minuend − subtrahend, and 0 outside the mask, where either may be anything: exp of it is then 1, never inf."""
    return torch.where(mask, minuend - subtrahend, torch.zeros_like(minuend))

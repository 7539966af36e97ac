"""How the samples of an optimizer step are cut into microbatches, by the tokens that a forward pass really runs."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlzero.grpo.batch import TrainingSample

# A prompt is shared by itself where that saves so large a part of a group's tokens; below, it hardly shows
# (benchmarks/training_phase.py).
_SAVING = 0.1
# Beyond so many pairs of completion and context the mask that a shared prompt needs would be larger than what it saves.
_LARGEST_MASK = 2**26


@dataclass(frozen=True)
class Piece:
    """Samples that stay together: one, or several of one prompt that is run once for all of them."""

    samples: tuple[TrainingSample, ...]

    @property
    def tokens(self) -> int:
        """Those that are run: the last of an answer is not, since nothing is predicted from it."""
        first = self.samples[0]
        return len(first.rollout.prompt_ids) + sum(len(s.rollout.completion_ids) - 1 for s in self.samples)


def cut(samples: Sequence[TrainingSample], token_budget: int, shared_prefix: bool | None) -> list[list[Piece]]:
    """Microbatches of at most `token_budget` tokens each (a piece that is longer is alone), about equally full.

    shared_prefix: None shares a prompt where that pays.
    """
    pieces = sorted(_pieces(samples, token_budget, shared_prefix), key=lambda piece: -piece.tokens)
    least = -(-sum(piece.tokens for piece in pieces) // token_budget)
    bins: list[list[Piece]] = [[] for _ in range(least)]
    # (tokens, number of the bin): the emptiest first, and among equals the same one every time.
    loads = [(0, i) for i in range(least)]
    for piece in pieces:
        load, i = loads[0]
        if load and load + piece.tokens > token_budget:
            bins.append([piece])
            heapq.heappush(loads, (piece.tokens, len(bins) - 1))
        else:
            bins[i].append(piece)
            heapq.heapreplace(loads, (load + piece.tokens, i))
    return [found for found in bins if found]


def _pieces(samples: Sequence[TrainingSample], token_budget: int, shared_prefix: bool | None) -> list[Piece]:
    families: dict[bytes, list[TrainingSample]] = {}
    for sample in samples:
        families.setdefault(sample.rollout.prompt_ids.tobytes(), []).append(sample)
    pieces = []
    for family in families.values():
        if _pays(family) if shared_prefix is None else shared_prefix:
            pieces += _within(family, token_budget)
        else:
            pieces += [Piece((sample,)) for sample in family]
    return pieces


def _pays(family: Sequence[TrainingSample]) -> bool:
    prompt = len(family[0].rollout.prompt_ids)
    completions = [len(sample.rollout.completion_ids) for sample in family]
    plain = len(family) * prompt + sum(completions)
    longest = max(completions)
    return (len(family) - 1) * prompt >= _SAVING * plain and longest * (prompt + longest) <= _LARGEST_MASK


def _within(family: Sequence[TrainingSample], token_budget: int) -> list[Piece]:
    """The family in as few equal pieces as the budget allows; each runs the prompt again."""
    prompt = len(family[0].rollout.prompt_ids)
    longest_first = sorted(family, key=lambda sample: -sample.length)
    parts: list[list[TrainingSample]] = []
    room = 0
    for sample in longest_first:
        tokens = len(sample.rollout.completion_ids) - 1
        if not parts or tokens > room:
            parts.append([])
            room = token_budget - prompt
        parts[-1].append(sample)
        room -= tokens
    return [Piece(tuple(part)) for part in parts]

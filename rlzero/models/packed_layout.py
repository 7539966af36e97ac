"""Which tokens of a packed row see which, and how attention over them is cut into a few dense calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

# A call of an attention kernel, forward and backward, costs as much as so many pairs of query and key beyond those
# that it computes: measured on one CPU thread (four heads of 32). A thread more computes as many pairs more in that
# time, and an accelerator very many.
_PAIRS_OF_A_CALL = 2048
_PAIRS_OF_A_LAUNCH = 2**20


@dataclass(frozen=True)
class Span:
    """Tokens start … stop − 1 of the packed row: each sees the whole prefix span, then its own span up to itself."""

    start: int
    stop: int
    prefix_start: int = 0
    prefix_stop: int = 0

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def prefix(self) -> int:
        """Its length."""
        return self.prefix_stop - self.prefix_start


@dataclass(frozen=True)
class Bucket:
    """Rows of one attention call, padded to so many queries each; all have a prefix of the same length."""

    rows: int
    queries: int
    prefix: int

    @property
    def keys(self) -> int:
        return self.prefix + self.queries


@dataclass(frozen=True)
class PackedLayout:
    """N tokens in one row, gathered for attention and scattered back.

    buckets: attention calls. queries: int64[Σ rows × queries], keys: int64[Σ rows × keys], the token that stands
    there (padding repeats a row's last one). back: int64[N], where each token stands among the queries.
    """

    buckets: tuple[Bucket, ...]
    queries: Tensor
    keys: Tensor
    back: Tensor
    _masks: dict[int | None, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tokens(self) -> int:
        return len(self.back)

    def to(self, device: torch.device) -> PackedLayout:
        return PackedLayout(self.buckets, *(t.to(device) for t in (self.queries, self.keys, self.back)))

    def mask(self, bucket: Bucket, window: int | None) -> Tensor | None:
        """bool[queries, keys], the keys that a query sees; None where that is every one up to itself.

        window: how many positions, its own included, a query sees back. All buckets' masks are parts of one.
        """
        narrow = window is not None and bucket.keys > window
        if not bucket.prefix and not narrow:
            return None
        if window not in self._masks:
            queries = max(b.queries for b in self.buckets)
            self._masks[window] = _band(queries, max(b.prefix for b in self.buckets), window, self.back.device)
        whole = self._masks[window]
        first = whole.shape[1] - whole.shape[0] - bucket.prefix
        return whole[: bucket.queries, first : first + bucket.keys]


def make_layout(spans: Sequence[Span], device: torch.device | str = "cpu") -> PackedLayout:
    """The layout of spans that follow one another from token 0 on; ValueError where they do not, or one is empty."""
    ends = [0, *(span.stop for span in spans)]
    if not spans or any(span.start != end or span.length < 1 for span, end in zip(spans, ends, strict=False)):
        raise ValueError(f"spans must follow one another from 0 on, and none be empty, got {list(spans)}.")
    call = _PAIRS_OF_A_CALL * torch.get_num_threads() if torch.device(device).type == "cpu" else _PAIRS_OF_A_LAUNCH
    # Keys are gathered row by row: prefixes of one length may be different ones.
    by_prefix: dict[int, list[Span]] = {}
    for span in spans:
        by_prefix.setdefault(span.prefix, []).append(span)
    buckets, queries, keys = [], [], []
    for alike in by_prefix.values():
        alike.sort(key=lambda span: -span.length)
        for rows in _cut(alike, call):
            longest = rows[0].length
            buckets.append(Bucket(len(rows), longest, rows[0].prefix))
            own = np.array([span.start for span in rows])[:, None] + np.arange(longest)
            own = np.minimum(own, np.array([span.stop - 1 for span in rows])[:, None])
            prefix = np.array([span.prefix_start for span in rows])[:, None] + np.arange(rows[0].prefix)
            queries.append(own.ravel())
            keys.append(np.concatenate([prefix, own], axis=1).ravel())
    at = np.concatenate(queries)
    # The first place of each token: those of a row's padding come after its last.
    back = np.unique(at, return_index=True)[1]
    index = [torch.from_numpy(array).to(device) for array in (at, np.concatenate(keys), back)]
    return PackedLayout(tuple(buckets), *index)


def _cut(spans: Sequence[Span], call: int) -> list[Sequence[Span]]:
    """The spans, longest first, in runs that cost least together: pairs with padding, and `call` for each run."""
    lengths = np.array([span.length for span in spans], dtype=np.float64)
    pairs = lengths * (lengths + spans[0].prefix)
    least, first = np.zeros(len(spans) + 1), np.zeros(len(spans), dtype=np.int64)
    for stop in range(1, len(spans) + 1):
        # A run from `start` to `stop` is as long as its first span.
        costs = least[:stop] + (stop - np.arange(stop)) * pairs[:stop] + call
        first[stop - 1] = costs.argmin()
        least[stop] = costs.min()
    runs, stop = [], len(spans)
    while stop:
        start = int(first[stop - 1])
        runs.append(spans[start:stop])
        stop = start
    return runs[::-1]


def _band(queries: int, prefix: int, window: int | None, device: torch.device) -> Tensor:
    """bool[queries, prefix + queries]: query i stands at position prefix + i."""
    key, query = torch.arange(prefix + queries, device=device), torch.arange(queries, device=device)[:, None] + prefix
    seen = key <= query
    return seen if window is None else seen & (key > query - window)

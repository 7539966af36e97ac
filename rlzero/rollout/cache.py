"""A key-value cache for sampling: written in place, rows copied from the prompt pass, dropped when done."""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class RoomyLayer(CacheLayerMixin):
    """Keys and values of one layer in buffers with room to grow; `update` returns views of the filled part.

    Buffers are [rows, heads, capacity, dim]. transformers' DynamicLayer concatenates (copies everything) at
    each step, its StaticLayer attends over the whole capacity and must know the longest completion in
    advance. A sliding-window layer keeps the whole past here: the window is in the attention mask.
    """

    is_sliding = False

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (_room_for(states, 0, 0) for states in (key_states, value_states))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states [rows, heads, new, dim]; returns all so far, [rows, heads, length, dim] each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[-2]
        if self.length > self.keys.shape[-2]:
            self.keys, self.values = (_room_for(buffer, start, self.length) for buffer in (self.keys, self.values))
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def expand_rows(self, rows: torch.Tensor) -> None:
        """Make the batch a copy of these rows (int64[new rows], repeats allowed)."""
        self.keys, self.values = (
            _room_for(buffer[:, :, : self.length].index_select(0, rows), self.length, self.length + 1)
            for buffer in (self.keys, self.values)
        )

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Keep these rows (int64, ascending), moved to the front of the same buffers."""
        for buffer in (self.keys, self.values):
            buffer[: len(rows), :, : self.length] = buffer[:, :, : self.length].index_select(0, rows)
        self.keys, self.values = self.keys[: len(rows)], self.values[: len(rows)]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a query of this length will see."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        """-1: no limit."""
        return -1


class RolloutCache(Cache):
    """One RoomyLayer for each attention layer, made as the layers come."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=RoomyLayer)

    def expand_rows(self, rows: torch.Tensor) -> None:
        for layer in self.layers:
            layer.expand_rows(rows)

    def keep_rows(self, rows: torch.Tensor) -> None:
        for layer in self.layers:
            layer.keep_rows(rows)


def _room_for(states: torch.Tensor, filled: int, needed: int) -> torch.Tensor:
    """A buffer with half as much room again as needed (at least 32 positions), its first `filled` copied."""
    rows, heads, _, width = states.shape
    capacity = needed + max(32, needed // 2) if needed else 0
    buffer = states.new_empty(rows, heads, capacity, width)
    buffer[:, :, :filled] = states[:, :, :filled]
    return buffer

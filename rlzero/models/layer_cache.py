"""What a layer remembers while it generates: all keys and values, the last W of them, or an LSTM's state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig


def make_cache(config: MoEConfig) -> Cache:
    """An empty cache for our decoder, one layer for each of its own."""
    return Cache(layers=make_layers(config))


def make_layers(config: MoEConfig) -> list[CacheLayerMixin]:
    if config.attention_kind == "lstm":
        return [StateLayer() for _ in range(config.num_hidden_layers)]
    if config.sliding_window is not None:
        return [RollingLayer(config.sliding_window) for _ in range(config.num_hidden_layers)]
    # MLA too: its latent takes the place of the keys, its rotary key that of the values.
    return [RoomyLayer() for _ in range(config.num_hidden_layers)]


def column_order(cache: Cache | None, query_length: int) -> Tensor | None:
    """int64[keys]: for each key that attention will be given, how many older ones are among them.

    None where keys come oldest first, as the masks of transformers expect.
    """
    layer = cache.layers[0] if cache is not None and cache.layers else None
    return layer.column_order(query_length) if isinstance(layer, RollingLayer) else None


class RoomyLayer(CacheLayerMixin):
    """Keys and values of one layer in buffers with room to grow; `update` returns views of the filled part.

    Buffers are [rows, heads, capacity, dim]. transformers' DynamicLayer concatenates (copies everything) at
    each step, its StaticLayer attends over the whole capacity and must know the longest completion in
    advance. A sliding-window layer keeps the whole past here: the window is in the attention mask.
    """

    is_sliding = False
    # Most positions that the buffers may hold.
    limit: int | None = None

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (states[:, :, :0].clone() for states in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append states [rows, heads, new, dim]; returns all so far, [rows, heads, length, dim] each."""
        start = self._grow(key_states, value_states)
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def expand_rows(self, rows: Tensor) -> None:
        """Make the batch a copy of these rows (int64[new rows], repeats allowed)."""
        self.keys, self.values = (
            self._with_room(buffer[:, :, : self.filled].index_select(0, rows), self.filled, self.filled + 1)
            for buffer in (self.keys, self.values)
        )

    def keep_rows(self, rows: Tensor) -> None:
        """Keep these rows (int64, ascending), moved to the front of the same buffers."""
        for buffer in (self.keys, self.values):
            buffer[: len(rows), :, : self.filled] = buffer[:, :, : self.filled].index_select(0, rows)
        self.keys, self.values = self.keys[: len(rows)], self.values[: len(rows)]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a query of this length will see."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        """-1: no limit."""
        return -1

    def reset(self) -> None:
        self.length = 0

    @property
    def filled(self) -> int:
        """How many positions of the buffers hold something."""
        return self.length if self.limit is None else min(self.length, self.limit)

    def _grow(self, key_states: Tensor, value_states: Tensor) -> int:
        """Count these new states in and make room for them; returns the length without them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        filled, start = self.filled, self.length
        self.length += key_states.shape[-2]
        if self.filled > self.keys.shape[-2]:
            self.keys, self.values = (
                self._with_room(buffer, filled, self.filled) for buffer in (self.keys, self.values)
            )
        return start

    def _with_room(self, states: Tensor, filled: int, needed: int) -> Tensor:
        """A buffer with half as much room again as needed (at least 32 positions), its first `filled` copied."""
        rows, heads, _, width = states.shape
        capacity = needed + max(32, needed // 2)
        buffer = states.new_empty(rows, heads, min(capacity, self.limit or capacity), width)
        buffer[:, :, :filled] = states[:, :, :filled]
        return buffer


class RollingLayer(RoomyLayer):
    """The last W keys and values, position i in slot i mod W (Mistral 7B, 2310.06825, §2 and figure 2).

    A single new token overwrites the oldest slot in place and attention gets the slots as they lie: softmax
    does not ask for an order, only the padding mask does (`column_order`). A chunk of several (pre-fill,
    figure 3) attends to the W - 1 positions before it and to itself, oldest first.
    """

    is_sliding = True

    def __init__(self, window: int) -> None:
        super().__init__()
        self.limit = self.window = window

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append states [rows, heads, new, dim]; returns the [rows, heads, keys, dim] that the new ones may see."""
        start = self._grow(key_states, value_states)
        if key_states.shape[-2] == 1:
            self._write(key_states, value_states)
            return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]
        past = self._slots(max(0, start - self.window + 1), start)
        keys = torch.cat([self.keys[:, :, past], key_states], dim=-2)
        values = torch.cat([self.values[:, :, past], value_states], dim=-2)
        self._write(key_states, value_states)
        return keys, values

    def column_order(self, query_length: int) -> Tensor | None:
        """int64[W] where a single new token overwrites a slot, otherwise None: see `column_order` above."""
        if query_length > 1 or self.length < self.window:
            return None
        # The slot after the newest holds the oldest.
        return (torch.arange(self.window, device=self.device) - self.length - 1) % self.window

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a query of this length will see."""
        past = min(self.length, self.window - 1)
        return past + query_length, self.length - past

    def get_max_length(self) -> int:
        return self.window

    def _slots(self, first: int, stop: int) -> Tensor:
        """int64[stop - first]: where the states of these positions lie."""
        return torch.arange(first, stop, device=self.device) % self.window

    def _write(self, key_states: Tensor, value_states: Tensor) -> None:
        """Keep the newest, which `length` counts already: at most W, as two to a slot would leave either."""
        kept = min(key_states.shape[-2], self.window)
        slots = self._slots(self.length - kept, self.length)
        self.keys.index_copy_(2, slots, key_states[:, :, -kept:])
        self.values.index_copy_(2, slots, value_states[:, :, -kept:])


class StateLayer(CacheLayerMixin):
    """State of an LSTM after the last token: h in the place of the keys, c in that of the values, [rows, width]."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, tokens: int = 1, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Replace the state by (h, c), float[rows, width] each, which has read so many tokens more."""
        self.lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states, value_states
        self.length += tokens
        return key_states, value_states

    def expand_rows(self, rows: Tensor) -> None:
        """Make the batch a copy of these rows (int64[new rows], repeats allowed)."""
        self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)

    keep_rows = expand_rows

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        """-1: no limit."""
        return -1

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False
        self.length = 0

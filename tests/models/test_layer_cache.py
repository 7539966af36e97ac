"""The rolling buffer holds what a window can see and no more; all layers move rows as the engine asks."""

from __future__ import annotations

import pytest
import torch
from transformers import Cache, DynamicCache

from rlzero.models.layer_cache import RollingLayer, RoomyLayer, StateLayer, column_order, make_cache
from tests.models.tiny import make_config, make_decoder, tokens

WINDOW = 5


def _states(length: int, rows: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of different widths, as MLA's are."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, 3, length, width, generator=generator) for width in (4, 6))


def _cut(states: torch.Tensor, pieces: list[int]) -> tuple[torch.Tensor, ...]:
    return states.split(pieces, dim=-2)


@pytest.mark.parametrize("pieces", [[1] * 13, [13], [4, 1, 1, 7], [5, 5, 1, 1, 1], [1, 12], [9, 1, 3]])
def test_position_i_lies_in_slot_i_mod_w(pieces) -> None:
    keys, values = _states(13)
    layer = RollingLayer(WINDOW)
    for key, value in zip(_cut(keys, pieces), _cut(values, pieces), strict=True):
        layer.update(key, value)
    for position in range(13 - WINDOW, 13):
        assert torch.equal(layer.keys[:, :, position % WINDOW], keys[:, :, position])
        assert torch.equal(layer.values[:, :, position % WINDOW], values[:, :, position])


@pytest.mark.parametrize("pieces", [[1] * 13, [13], [4, 1, 1, 7], [5, 5, 1, 1, 1], [1, 12], [9, 1, 3]])
def test_attention_is_given_all_that_the_window_holds(pieces) -> None:
    """The W - 1 positions before the new ones and these: fewer would be wrong, more is what the mask must hide."""
    keys, values = _states(13)
    cache, start = Cache(layers=[RollingLayer(WINDOW)]), 0
    for piece in pieces:
        new = slice(start, start + piece)
        length, offset = cache.get_mask_sizes(piece, 0)
        order = column_order(cache, piece)
        given = cache.update(keys[:, :, new], values[:, :, new], 0)
        oldest = max(0, start - WINDOW + 1)
        assert (length, offset) == (start + piece - oldest, oldest)
        for part, whole in zip(given, (keys, values), strict=True):
            assert part.shape[2] == length
            expected = whole[:, :, oldest : start + piece]
            assert torch.equal(part, expected if order is None else expected[:, :, order])
        start += piece
    assert cache.get_seq_length() == 13


def test_memory_is_bounded_by_the_window() -> None:
    layer = RollingLayer(WINDOW)
    for piece in (9, 1, 1, 20, 1):
        layer.update(*_states(piece))
        assert layer.keys.shape[2] == layer.values.shape[2] == WINDOW
    layer.expand_rows(torch.tensor([0, 1, 1]))
    assert layer.keys.shape == (3, 3, WINDOW, 4)


def test_a_short_sequence_does_not_pay_for_a_long_window() -> None:
    layer = RollingLayer(4096)
    layer.update(*_states(10))
    assert layer.keys.shape[2] < 64
    for _ in range(100):
        layer.update(*_states(1))
    assert 110 <= layer.keys.shape[2] < 220


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("steps", [[17], [1] * 17, [3, 9, 1, 1, 1, 1, 1], [12, 1, 1, 3]])
def test_a_rolling_buffer_gives_what_the_whole_past_and_a_mask_give(padded, steps) -> None:
    model = make_decoder("window")
    ids = tokens(2, 17)
    mask = torch.ones(2, 17, dtype=torch.long)
    if padded:
        mask[1, :8] = 0  # more than a window
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    results = []
    for cache in (make_cache(model.config), Cache(layers=[RoomyLayer() for _ in range(3)])):
        logits, start = [], 0
        for step in steps:
            output = model(
                ids[:, start : start + step],
                attention_mask=mask[:, : start + step] if padded else None,
                position_ids=positions[:, start : start + step],
                past_key_values=cache,
            )
            logits.append(output.logits)
            start += step
        results.append(torch.cat(logits, 1)[mask.bool()])
    assert results[0].std() > 0.3
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gqa", "window", "mla"])
def test_transformers_own_caches_do_as_well(kind) -> None:
    model = make_decoder(kind)
    ids = tokens(2, 12)
    cache = DynamicCache(config=model.config)
    pieces = [model(part, past_key_values=cache).logits for part in ids.split([7, 1, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(ids).logits, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("prompt", [4, 9])
@pytest.mark.parametrize("kind", ["gqa", "window", "mla", "lstm"])
def test_rows_are_copied_and_dropped_with_their_past(kind, prompt) -> None:
    model = make_decoder(kind)
    ids = tokens(4, prompt + 6)
    whole = model(ids, use_cache=False).logits
    cache = model(ids[:, :prompt], use_cache=True).past_key_values
    rows = torch.tensor([2, 0, 2, 3, 1])
    for layer in cache.layers:
        layer.expand_rows(rows)
    for step in range(prompt, prompt + 6):
        if step == prompt + 3:
            kept = torch.tensor([0, 2, 4])
            rows = rows[kept]
            for layer in cache.layers:
                layer.keep_rows(kept)
        logits = model(ids[rows, step, None], past_key_values=cache).logits[:, 0]
        torch.testing.assert_close(logits, whole[rows, step], rtol=0, atol=1e-5)


def test_each_mixer_has_its_layer() -> None:
    kinds = {"gqa": RoomyLayer, "mla": RoomyLayer, "window": RollingLayer, "lstm": StateLayer}
    for kind, layer_class in kinds.items():
        assert [type(layer) for layer in make_cache(make_config(kind)).layers] == [layer_class] * 3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gqa", "window", "mla", "lstm"])
def test_a_cache_that_was_reset_is_empty(kind) -> None:
    model = make_decoder(kind)
    cache = model(tokens(2, 8, seed=1), use_cache=True).past_key_values
    cache.reset()
    assert cache.get_seq_length() == 0
    ids = tokens(2, 8)
    torch.testing.assert_close(
        model(ids, past_key_values=cache).logits, model(ids, use_cache=False).logits, rtol=0, atol=1e-5
    )

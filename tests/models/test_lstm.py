"""The LSTM mixer gives a sequence the same outputs wherever it stands: padded, packed or in pieces."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from rlzero.models.layer_cache import StateLayer, make_cache
from rlzero.models.lstm import LSTMMixer
from tests.models.tiny import make_decoder, tokens


@pytest.fixture(scope="module")
def model():
    return make_decoder("lstm")


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    assert a.std() > 0.3
    return torch.allclose(a, b, rtol=0, atol=1e-5)


@torch.no_grad()
def _alone(model, ids_T: torch.Tensor) -> torch.Tensor:
    return model(ids_T[None], use_cache=False).logits[0]


@torch.no_grad()
def test_the_mixer_is_the_cell_run_token_by_token(model) -> None:
    """Equations of torch.nn.LSTM, written out: i, f, g and o in this order."""
    mixer: LSTMMixer = model.model.layers[0].self_attn
    weight_x, weight_h, bias_x, bias_h = (value for _, value in mixer.lstm.named_parameters())
    hidden_BTD = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    h = c = torch.zeros(2, 32)
    rows = []
    for t in range(6):
        i, f, g, o = (hidden_BTD[:, t] @ weight_x.T + bias_x + h @ weight_h.T + bias_h).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        rows.append(h)
    ours = mixer(hidden_BTD, position_ids=torch.arange(6)[None])
    torch.testing.assert_close(ours, torch.stack(rows, 1), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right", "between"])
@pytest.mark.parametrize("steps", [[12], [7, 1, 1, 1, 1, 1], [5, 3, 4]])
def test_padding_changes_nothing(model, side, steps) -> None:
    """On either side, and between the pieces that a row is read in; a row may be padding alone for a while."""
    ids, columns = tokens(3, 12), torch.arange(12)
    lengths = torch.tensor([12, 8, 2])[:, None]
    mask = {
        "left": columns >= 12 - lengths,
        "right": columns < lengths,
        "between": (columns < 2) | (columns >= 14 - lengths),
    }[side]
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    cache, logits, start = None, [], 0
    for step in steps:
        columns = slice(start, start + step)
        output = model(
            ids[:, columns],
            attention_mask=mask[:, : start + step].long(),
            position_ids=positions[:, columns],
            past_key_values=cache,
            use_cache=True,
        )
        cache, start = output.past_key_values, start + step
        logits.append(output.logits)
    whole = torch.cat(logits, 1)
    for row in range(3):
        assert _close(_alone(model, ids[row][mask[row]]), whole[row][mask[row]])


@torch.no_grad()
def test_left_padding_needs_no_positions(model) -> None:
    ids = tokens(2, 10)
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[1, :4] = 0
    assert _close(_alone(model, ids[1, 4:]), model(ids, attention_mask=mask).logits[1, 4:])


@torch.no_grad()
def test_a_packed_row_is_its_sequences_one_by_one(model) -> None:
    ids = tokens(2, 11)
    positions = torch.tensor([[*range(4), *range(7)], [*range(1), *range(2), *range(8)]])
    packed = model(ids, position_ids=positions).logits
    assert _close(packed[0, :4], _alone(model, ids[0, :4]))
    assert _close(packed[0, 4:], _alone(model, ids[0, 4:]))
    for start, stop in ((0, 1), (1, 3), (3, 11)):
        assert _close(packed[1, start:stop], _alone(model, ids[1, start:stop]))


@torch.no_grad()
def test_the_cache_goes_on_with_the_last_sequence_of_a_packed_row(model) -> None:
    ids = tokens(2, 11)
    positions = torch.tensor([[*range(4), *range(7)], [*range(11)]])
    cache = model(ids[:, :9], position_ids=positions[:, :9], use_cache=True).past_key_values
    rest = model(ids[:, 9:], position_ids=positions[:, 9:], past_key_values=cache).logits
    assert _close(rest[0], _alone(model, ids[0, 4:])[-2:])
    assert _close(rest[1], _alone(model, ids[1])[-2:])


@torch.no_grad()
@pytest.mark.parametrize("second", [0, 2])
def test_a_start_in_a_later_piece_forgets_the_past_of_its_row_alone(model, second) -> None:
    """second: length of a first sequence in that piece, before another."""
    ids = tokens(2, 10)
    cache = model(ids[:, :6], use_cache=True).past_key_values
    positions = torch.tensor([[*range(second), *range(4 - second)], [6, 7, 8, 9]])
    rest = model(ids[:, 6:], position_ids=positions, past_key_values=cache).logits
    if second:
        assert _close(rest[0, :second], _alone(model, ids[0, 6 : 6 + second]))
    assert _close(rest[0, second:], _alone(model, ids[0, 6 + second :]))
    assert _close(rest[1], _alone(model, ids[1])[6:])


def test_gradients_of_a_packed_row_are_those_of_its_sequences() -> None:
    model = make_decoder("lstm")
    ids = tokens(1, 9)
    positions = torch.tensor([[*range(4), *range(5)]])
    gradients = []
    for run in (
        lambda: model(ids, position_ids=positions, use_cache=False).logits.square().sum(),
        lambda: sum(model(part, use_cache=False).logits.square().sum() for part in ids.split([4, 5], dim=1)),
    ):
        model.zero_grad()
        run().backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-4, msg=name)


@torch.no_grad()
def test_the_state_does_not_grow(model) -> None:
    cache = make_cache(model.config)
    for _ in range(3):
        model(tokens(2, 7), past_key_values=cache)
    assert cache.get_seq_length() == 21
    for layer in cache.layers:
        assert isinstance(layer, StateLayer)
        assert layer.keys.shape == layer.values.shape == (2, 32)


@torch.no_grad()
def test_a_cache_of_keys_is_refused(model) -> None:
    cache = DynamicCache(config=model.config)
    with pytest.raises(ValueError, match=r"caches its state, and a DynamicLayer caches keys.*make_cache"):
        model(tokens(2, 3), past_key_values=cache)


@torch.no_grad()
def test_an_attention_pattern_is_refused(model) -> None:
    with pytest.raises(ValueError, match=r"needs an attention_mask of shape \[batch, tokens\], .* got 4 dim"):
        model(tokens(2, 3), attention_mask=torch.ones(2, 1, 3, 3))

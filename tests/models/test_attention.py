"""Attention against its formula, its window, and what rotary positions promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlzero.models.attention import GroupedQueryAttention
from rlzero.models.decoder import MoEForCausalLM
from tests.models.tiny import make_decoder, tokens


def _turned(vector_d: Tensor, position: int, theta: float) -> Tensor:
    """Halves (i, i + d/2) as complex numbers, turned by position / theta^(2i/d) (RoFormer, 2104.09864, eq. 13)."""
    half = len(vector_d) // 2
    angle = position / theta ** (2 * torch.arange(half, dtype=torch.float64) / len(vector_d))
    turned = torch.complex(vector_d[:half], vector_d[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag])


def _by_the_formula(attention: GroupedQueryAttention, hidden_TD: Tensor, window: int | None) -> Tensor:
    """One head and one position at a time, in float64."""
    config, d = attention.config, attention.head_dim
    theta = config.rope_parameters["rope_theta"]
    group = config.num_attention_heads // config.num_key_value_heads

    def part(projection, norm, head: int, t: int) -> Tensor:
        return norm(projection(hidden_TD[t])[head * d : (head + 1) * d])

    rows = []
    for t in range(len(hidden_TD)):
        heads = []
        for h in range(config.num_attention_heads):
            query = _turned(part(attention.q_proj, attention.q_norm, h, t), t, theta)
            seen = range(max(0, t - window + 1) if window else 0, t + 1)
            keys = [_turned(part(attention.k_proj, attention.k_norm, h // group, s), s, theta) for s in seen]
            values = [attention.v_proj(hidden_TD[s])[h // group * d : (h // group + 1) * d] for s in seen]
            weights = torch.stack([query @ key / math.sqrt(d) for key in keys]).softmax(0)
            heads.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
        rows.append(attention.o_proj(torch.cat(heads)))
    return torch.stack(rows)


@pytest.mark.parametrize("changes", [{}, {"use_qk_norm": True}, {"num_key_value_heads": 4}, {"attention_bias": True}])
@pytest.mark.parametrize("window", [None, 3])
@torch.no_grad()
def test_attention_is_the_formula(changes, window) -> None:
    model = make_decoder("gqa", sliding_window=window, **changes).double()
    attention = model.model.layers[0].self_attn
    hidden_TD = torch.randn(7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixing = model.model.mixing(hidden_TD[None], None, torch.arange(7)[None])
    ours = attention(hidden_TD[None], **mixing)[0]
    # transformers' norms and rotations are float32 inside.
    torch.testing.assert_close(ours, _by_the_formula(attention, hidden_TD, window), rtol=0, atol=1e-5)


@torch.no_grad()
def _positions_that_see(model: MoEForCausalLM, changed: int, length: int) -> list[int]:
    """Positions whose logits depend on the token at `changed`."""
    ids = tokens(1, length)
    other = ids.clone()
    other[0, changed] = 3 + (ids[0, changed] + 1) % 50
    # Experts round differently when another token joins them.
    differ = (model(ids).logits - model(other).logits).abs().amax(-1)[0] > 1e-5
    return differ.nonzero().flatten().tolist()


def test_information_travels_a_window_less_one_in_each_layer() -> None:
    """Through k layers a token reaches k (W - 1) positions ahead, and not one more."""
    model = make_decoder("window", num_hidden_layers=3)
    assert _positions_that_see(model, 2, length=20) == list(range(2, 2 + 3 * (5 - 1) + 1))


@pytest.mark.parametrize("kind", ["gqa", "mla"])
def test_without_a_window_a_token_is_seen_by_all_after_it_and_none_before(kind) -> None:
    assert _positions_that_see(make_decoder(kind), 8, length=14) == list(range(8, 14))


@torch.no_grad()
def test_only_differences_of_positions_count() -> None:
    model = make_decoder()
    ids, mask = tokens(2, 9), torch.ones(2, 9)
    near, far, wide = (
        model(ids, attention_mask=mask, position_ids=positions[None]).logits
        for positions in (torch.arange(9), torch.arange(40, 49), 2 * torch.arange(9))
    )
    torch.testing.assert_close(near, far, rtol=0, atol=2e-5)
    assert (near - wide).abs().max() > 0.1


def test_dropout_acts_in_training_alone() -> None:
    model = make_decoder(attention_dropout=0.5)
    ids = tokens(2, 9)
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(ids).logits, model(ids).logits)
        model.train()
        assert not torch.equal(model(ids).logits, model(ids).logits)

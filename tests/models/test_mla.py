"""Multi-head latent attention against the paper's formulas, and what it leaves in the cache."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlzero.models.layer_cache import RoomyLayer
from rlzero.models.mla import LatentAttention, logit_scale, rotate_neighbours
from tests.models.tiny import make_config, make_decoder, tokens


def _turned(vector: Tensor, position: int, theta: float) -> Tensor:
    """Neighbours (2i, 2i + 1) as complex numbers, turned by position / theta^(2i/d)."""
    angle = position / theta ** (2 * torch.arange(len(vector) // 2, dtype=torch.float64) / len(vector))
    pairs = torch.view_as_complex(vector.view(-1, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten()


def _by_the_formula(mla: LatentAttention, hidden_TD: Tensor) -> Tensor:
    """2405.04434, appendix C, eq. 37 to 47, with the norms of the released code; heads and positions one by one."""
    config, nope, rope, value = mla.config, mla.nope, mla.rope, mla.value
    theta, heads = config.rope_parameters["rope_theta"], config.num_attention_heads
    up = mla.kv_b_proj.weight.view(heads, nope + value, -1)
    latents, shared_keys = [], []
    for t, h in enumerate(hidden_TD):
        compressed = mla.kv_a_proj_with_mqa(h)
        latents.append(mla.kv_a_layernorm(compressed[: config.kv_lora_rank]))  # c_KV, eq. 41
        shared_keys.append(_turned(compressed[config.kv_lora_rank :], t, theta))  # k_R, eq. 43
    rows = []
    for t, h in enumerate(hidden_TD):
        flat = mla.q_b_proj(mla.q_a_layernorm(mla.q_a_proj(h))) if config.q_lora_rank else mla.q_proj(h)
        outputs = []
        for i, query in enumerate(flat.view(heads, nope + rope)):
            query = torch.cat([query[:nope], _turned(query[nope:], t, theta)])  # eq. 40
            logits = [
                query @ torch.cat([up[i, :nope] @ latents[s], shared_keys[s]]) / math.sqrt(nope + rope)  # eq. 44, 46
                for s in range(t + 1)
            ]
            weights = torch.stack(logits).softmax(0)
            outputs.append(sum(weights[s] * (up[i, nope:] @ latents[s]) for s in range(t + 1)))  # eq. 45, 46
        rows.append(mla.o_proj(torch.cat(outputs)))
    return torch.stack(rows)


@pytest.mark.parametrize("rank", [16, None])
@torch.no_grad()
def test_latent_attention_is_the_papers(rank) -> None:
    model = make_decoder("mla", q_lora_rank=rank).double()
    attention = model.model.layers[1].self_attn
    hidden_TD = torch.randn(6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixing = model.model.mixing(hidden_TD[None], None, torch.arange(6)[None])
    ours = attention(hidden_TD[None], **mixing)[0]
    torch.testing.assert_close(ours, _by_the_formula(attention, hidden_TD), rtol=0, atol=1e-5)


def test_products_of_rotated_neighbours_are_those_of_complex_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 2, 3, 5, 6, dtype=torch.float64, generator=generator)
    angle = torch.rand(2, 5, 3, dtype=torch.float64, generator=generator)
    cosine, sine = (torch.cat([part, part], -1) for part in (angle.cos(), angle.sin()))
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]
    products = []
    for states in (query, key):
        pairs = torch.view_as_complex(states.unflatten(-1, (-1, 2)).contiguous()) * turn
        products.append(torch.view_as_real(pairs).flatten(-2))
    expected = products[0] @ products[1].mT
    ours = rotate_neighbours(query, cosine, sine) @ rotate_neighbours(key, cosine, sine).mT
    torch.testing.assert_close(ours, expected)


@torch.no_grad()
def test_a_token_leaves_one_latent_and_one_rotary_key_in_the_cache() -> None:
    model = make_decoder("mla")
    cache = model(tokens(2, 9), use_cache=True).past_key_values
    model(tokens(2, 1), past_key_values=cache)
    for layer in cache.layers:
        assert isinstance(layer, RoomyLayer)
        assert layer.keys[:, :, : layer.length].shape == (2, 1, 10, model.config.kv_lora_rank)
        assert layer.values[:, :, : layer.length].shape == (2, 1, 10, model.config.qk_rope_head_dim)


def test_a_stretched_context_sharpens_the_logits_as_published() -> None:
    """DeepSeek-V3's released configuration: factor 40, mscale_all_dim 1, heads of 128 + 64."""
    yarn = {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096,
        "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
    }  # fmt: skip
    sizes = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "max_position_embeddings": 163840}
    assert logit_scale(make_config("mla", **sizes)) == pytest.approx(192**-0.5)
    stretched = logit_scale(make_config("mla", **sizes, rope_parameters=yarn))
    # 0.1 ln 40 + 1 = 1.368888
    assert stretched == pytest.approx(192**-0.5 * 1.368888**2, rel=1e-6)
    without = {k: v for k, v in yarn.items() if k != "mscale_all_dim"}
    assert logit_scale(make_config("mla", **sizes, rope_parameters=without)) == pytest.approx(192**-0.5)

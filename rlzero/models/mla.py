"""Multi-head latent attention: keys and values of all heads from one small cached vector (DeepSeek-V2 and V3)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaRMSNorm as RMSNorm
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from rlzero.models.attention import attend, causal_mask

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig

# DeepSeek's code, and transformers after it, fixes it for the norms of the latents; rms_norm_eps is for the others.
_LATENT_EPS = 1e-6


def rotate_neighbours(states_BHTd: Tensor, cosine_BTd: Tensor, sine_BTd: Tensor) -> Tensor:
    """float[B, H, T, d] with the pairs (0, 1), (2, 3), … turned by the angle of their position.

    The result has all first members in front and all second ones behind: queries and keys are reordered alike,
    so their products are those of neighbours left in place.
    """
    half = cosine_BTd.shape[-1] // 2
    cosine, sine = cosine_BTd[:, None, :, :half], sine_BTd[:, None, :, :half]
    first, second = states_BHTd[..., 0::2], states_BHTd[..., 1::2]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def logit_scale(config: MoEConfig) -> float:
    """1 / √(width of a query), times YaRN's squared temperature m = 0.1 · mscale_all_dim · ln(factor) + 1 where the
    context was extended (2309.00071, §3.4, as DeepSeek applies it)."""
    assert config.qk_nope_head_dim is not None
    assert config.qk_rope_head_dim is not None
    scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    rope: Any = config.rope_parameters
    if rope["rope_type"] == "default" or not rope.get("mscale_all_dim") or rope["factor"] <= 1:
        return scale
    return scale * (0.1 * rope["mscale_all_dim"] * math.log(rope["factor"]) + 1) ** 2


class LatentAttention(nn.Module):
    """MLA (DeepSeek-V2, 2405.04434, §2.1, eq. 9-19; appendix C, eq. 37-47, has it whole).

    A token leaves c_KV (kv_lora_rank wide) and one rotary key k_R (qk_rope_head_dim wide), shared by the heads,
    in the cache; keys and values are projected up from c_KV when they are needed. Rotary positions are decoupled:
    only k_R and its part of the queries carry them.
    """

    is_causal = True
    num_key_value_groups = 1
    make_mask = staticmethod(causal_mask)

    def __init__(self, config: MoEConfig, layer_idx: int) -> None:
        super().__init__()
        assert config.kv_lora_rank is not None
        assert config.v_head_dim is not None
        assert config.qk_nope_head_dim is not None
        assert config.qk_rope_head_dim is not None
        self.config = config
        self.layer_idx = layer_idx
        self.nope, self.rope, self.value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        self.scaling = logit_scale(config)
        self.attention_dropout = config.attention_dropout
        width, heads, bias = config.hidden_size, config.num_attention_heads, config.attention_bias
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(width, heads * (self.nope + self.rope), bias=False)
        else:
            self.q_a_proj = nn.Linear(width, config.q_lora_rank, bias=bias)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, eps=_LATENT_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * (self.nope + self.rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(width, config.kv_lora_rank + self.rope, bias=bias)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, eps=_LATENT_EPS)
        self.kv_b_proj = nn.Linear(config.kv_lora_rank, heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(heads * self.value, width, bias=bias)

    def forward(
        self,
        hidden_BTD: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """float[B, T, D]. position_embeddings: cosine and sine, [B, T, qk_rope_head_dim] each."""
        query_nope, query_rope = self.queries(hidden_BTD).split([self.nope, self.rope], dim=-1)
        latent, key_rope = self.latents(hidden_BTD)
        if self.config.rope_interleave:
            query_rope, key_rope = (
                rotate_neighbours(states, *position_embeddings) for states in (query_rope, key_rope)
            )
        else:
            query_rope, key_rope = apply_rotary_pos_emb(query_rope, key_rope, *position_embeddings)
        if past_key_values is not None:
            latent, key_rope = past_key_values.update(latent, key_rope, self.layer_idx)
        key, value = self.keys_and_values(latent, key_rope)
        query = torch.cat([query_nope, query_rope], dim=-1)
        return self.o_proj(attend(self, self.config, query, key, value, attention_mask, **kwargs))

    def queries(self, hidden_BTD: Tensor) -> Tensor:
        """float[B, H, T, nope + rope], before rotation: eq. 37-39, or without compression where q_lora_rank is None."""
        if self.config.q_lora_rank is None:
            flat = self.q_proj(hidden_BTD)
        else:
            flat = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(hidden_BTD)))
        return flat.unflatten(-1, (-1, self.nope + self.rope)).transpose(1, 2)

    def latents(self, hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """c_KV, normed, and k_R before rotation: float[B, 1, T, rank] and float[B, 1, T, rope] (eq. 41 and 43).

        The axis of one head is what transformers' caches expect.
        """
        latent, key_rope = self.kv_a_proj_with_mqa(hidden_BTD)[:, None].split([self.config.kv_lora_rank, self.rope], -1)
        return self.kv_a_layernorm(latent), key_rope

    def keys_and_values(self, latent_B1SR: Tensor, key_rope_B1Sr: Tensor) -> tuple[Tensor, Tensor]:
        """float[B, H, S, nope + rope] and float[B, H, S, value] (eq. 42, 44 and 45)."""
        flat = self.kv_b_proj(latent_B1SR[:, 0]).unflatten(-1, (-1, self.nope + self.value)).transpose(1, 2)
        key_nope, value = flat.split([self.nope, self.value], dim=-1)
        return torch.cat([key_nope, key_rope_B1Sr.expand(-1, key_nope.shape[1], -1, -1)], dim=-1), value

"""Grouped-query attention with rotary positions, optionally over a sliding window only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRMSNorm as RMSNorm
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from rlzero.models.layer_cache import RollingLayer, column_order

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig


def causal_mask(
    config: MoEConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    past_key_values: Cache | None,
    position_ids: Tensor,
) -> Tensor | None:
    """Which keys each query may see, as the attention kernel takes it: bool or float[B, 1, T, keys], None for causal.

    inputs_embeds: [B, T, D]. attention_mask: [B, past + T], 0 for padding, None without. Without it and without a
    past, positions (int64[B, T]) that do not go on by one begin another sequence.
    """
    past = past_key_values if past_key_values is not None and past_key_values.get_seq_length() > 0 else None
    if config.sliding_window is None:
        create = create_causal_mask
    else:
        create = create_sliding_window_causal_mask
        unpadded_step = attention_mask is None and inputs_embeds.shape[1] == 1
        if unpadded_step and past is not None and isinstance(past.layers[0], RollingLayer):
            # The buffer holds nothing that is outside the window.
            return None
    mask = create(
        config=config,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        # transformers does not look for packed sequences where there is a cache, even an empty one.
        past_key_values=past if attention_mask is None else past_key_values,
        position_ids=position_ids,
    )
    order = column_order(past_key_values, inputs_embeds.shape[1])
    return mask if mask is None or order is None else mask[..., order]


def attend(
    module: nn.Module,
    config: MoEConfig,
    query_BHTd: Tensor,
    key_BGSd: Tensor,
    value_BGSd: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> Tensor:
    """float[B, T, H * d]: attention through transformers' interface, by the implementation that `config` names.

    `module` says by its attributes: scaling (of the logits), attention_dropout and num_key_value_groups (H / G).
    """
    interface = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention_forward)
    output_BTHd, _ = interface(
        module,
        query_BHTd,
        key_BGSd,
        value_BGSd,
        mask,
        dropout=module.attention_dropout if module.training else 0.0,
        scaling=module.scaling,
        sliding_window=config.sliding_window,
        **kwargs,
    )
    return output_BTHd.reshape(*output_BTHd.shape[:2], -1)


class GroupedQueryAttention(nn.Module):
    """H query heads that share G key-value heads: MHA where G = H (GQA, 2305.13245; Mistral 7B, 2310.06825, §2)."""

    is_causal = True
    make_mask = staticmethod(causal_mask)

    def __init__(self, config: MoEConfig, layer_idx: int) -> None:
        super().__init__()
        assert config.num_key_value_heads is not None
        assert config.head_dim is not None
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        width, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(width, config.num_attention_heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, width, bias=bias)
        self.q_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps) if config.use_qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps) if config.use_qk_norm else nn.Identity()

    def forward(
        self,
        hidden_BTD: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """float[B, T, D]. position_embeddings: cosine and sine, [B, T, head_dim] each."""
        heads = (*hidden_BTD.shape[:-1], -1, self.head_dim)
        query = self.q_norm(self.q_proj(hidden_BTD).view(heads)).transpose(1, 2)
        key = self.k_norm(self.k_proj(hidden_BTD).view(heads)).transpose(1, 2)
        value = self.v_proj(hidden_BTD).view(heads).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        return self.o_proj(attend(self, self.config, query, key, value, attention_mask, **kwargs))

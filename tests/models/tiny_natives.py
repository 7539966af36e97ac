"""A tiny configuration of each native class, with the options that change what it computes or how it is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from rlzero.models.native_table import DeepseekConfig

_SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
_MLA: dict[str, Any] = {
    **_SIZE,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
}

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SIZE, attention_bias=True, pretraining_tp=2, rope_parameters=_YARN),
    "llama-tied": LlamaConfig(**_SIZE, tie_word_embeddings=True, attention_dropout=None),
    "mistral": MistralConfig(**_SIZE, head_dim=16, sliding_window=8, rms_norm_eps=1e-5),
    "mistral-no-window": MistralConfig(**_SIZE, sliding_window=None),
    "mixtral": MixtralConfig(
        **_SIZE, num_local_experts=4, router_aux_loss_coef=0.02, router_jitter_noise=0.1, sliding_window=8
    ),
    "qwen3-moe": Qwen3MoeConfig(
        **_SIZE,
        head_dim=16,
        attention_bias=True,
        moe_intermediate_size=24,
        num_experts=8,
        num_experts_per_tok=3,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[1],
    ),
    "qwen3-moe-step": Qwen3MoeConfig(
        **{**_SIZE, "num_hidden_layers": 4},
        head_dim=8,
        moe_intermediate_size=24,
        num_experts=8,
        num_experts_per_tok=2,
        decoder_sparse_step=2,
        use_sliding_window=True,
        sliding_window=8,
    ),
    "deepseek-v2": DeepseekV2Config(
        **_MLA,
        q_lora_rank=24,
        n_shared_experts=2,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        routed_scaling_factor=1.6,
    ),
    "deepseek-v2-lite": DeepseekV2Config(**_MLA, q_lora_rank=None, n_shared_experts=1, attention_bias=True),
    "deepseek-v3": DeepseekV3Config(
        **_MLA, q_lora_rank=24, n_group=4, topk_group=2, attention_bias=True, num_nextn_predict_layers=0
    ),
    "deepseek-v3-halves": DeepseekV3Config(
        **_MLA, q_lora_rank=None, n_group=1, topk_group=1, rope_interleave=False, norm_topk_prob=False
    ),
}
DEEPSEEK_MOE = DeepseekConfig(
    **{**_SIZE, "num_key_value_heads": 4},
    moe_intermediate_size=16,
    n_routed_experts=8,
    n_shared_experts=2,
    num_experts_per_tok=3,
    first_k_dense_replace=1,
    aux_loss_alpha=0.001,
)


def randomise(model: PreTrainedModel, seed: int = 0) -> None:
    """Every weight and bias its own value, the routers' too, so that nothing can be swapped unseen."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        tensor.copy_(1 + drawn / 4 if "norm" in name else drawn / 4)


def save_native(config: PreTrainedConfig, folder: Path, max_shard_size: str = "20KB") -> PreTrainedModel:
    """A model of that configuration with random weights, saved by transformers."""
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model

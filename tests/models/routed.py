"""Tiny random models with routers: transformers' own classes and our decoder, one of each kind of gate."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    LlamaConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from rlzero.models.config import MoEConfig

VOCABULARY, EXPERTS, TOP_K, LAYERS = 67, 8, 2, 3
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    # Large, so that the experts differ and a fault shows.
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_MLA = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}  # fmt: skip
_FINE = {
    "moe_intermediate_size": 24, "n_routed_experts": EXPERTS, "num_experts_per_tok": TOP_K, "n_shared_experts": 1,
    "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "first_k_dense_replace": 1,
}  # fmt: skip
_OURS = {"head_dim": 8, "moe_intermediate_size": 24, "n_routed_experts": EXPERTS, "num_experts_per_tok": TOP_K}
_QWEN = {"head_dim": 8, "moe_intermediate_size": 24, "num_experts": EXPERTS, "num_experts_per_tok": TOP_K}

STOCK = {
    "mixtral": lambda: MixtralConfig(**_SHAPE, num_local_experts=EXPERTS, num_experts_per_tok=TOP_K),
    "qwen3_moe": lambda: Qwen3MoeConfig(**_SHAPE, **_QWEN, norm_topk_prob=True),
    "qwen3_moe_plain": lambda: Qwen3MoeConfig(**_SHAPE, **_QWEN, norm_topk_prob=False),
    "deepseek_v2": lambda: DeepseekV2Config(**{**_SHAPE, **_MLA, **_FINE}, topk_method="group_limited_greedy"),
    "deepseek_v3": lambda: DeepseekV3Config(**{**_SHAPE, **_MLA, **_FINE}, norm_topk_prob=True),
}
OURS = {
    "ours_dense": lambda: MoEConfig(**{**_SHAPE, **_OURS, "num_experts_per_tok": EXPERTS}, topk_method="dense"),
    "ours_noisy_topk": lambda: MoEConfig(**_SHAPE, **_OURS, topk_method="noisy_topk"),
    "ours_top2_random": lambda: MoEConfig(**_SHAPE, **_OURS, topk_method="top2_random"),
    "ours_switch": lambda: MoEConfig(
        **{**_SHAPE, **_OURS, "num_experts_per_tok": 1}, topk_method="switch", router_jitter_noise=0.3
    ),
    "ours_topk_softmax": lambda: MoEConfig(**_SHAPE, **_OURS, topk_method="topk_softmax"),
    "ours_group_limited": lambda: MoEConfig(**{**_SHAPE, **_OURS, **_FINE}, topk_method="group_limited_greedy"),
    "ours_noaux_tc": lambda: MoEConfig(
        **{**_SHAPE, **_MLA, **_FINE}, attention_kind="mla", topk_method="noaux_tc", scoring_func="sigmoid",
        norm_topk_prob=True, bias_update_speed=0.01, num_nextn_predict_layers=1,
    ),
}  # fmt: skip
# Kinds in which the router really chooses.
CHOOSING = [*STOCK, *(kind for kind in OURS if kind != "ours_dense")]
_DENSE = {"llama": lambda: LlamaConfig(**_SHAPE)}


def make_model(kind: str, **changes) -> PreTrainedModel:
    """A random model in float32, the same every time; biases and gates too, where they would start at 0."""
    if kind in OURS:
        import rlzero.models.decoder  # noqa: F401  registers it

    config = {**STOCK, **OURS, **_DENSE}[kind]()
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "e_score_correction_bias" in name or (name.endswith("gate.weight") and not tensor.any()):
                tensor.copy_(0.2 * torch.randn_like(tensor))
    return model


def make_ids(rows: int = 2, length: int = 9) -> torch.Tensor:
    """int64[rows, length]."""
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))

"""The systems of the MoE line by name: at published size, and as a tiny variant that trains in minutes on two cores.

    preset("deepseek-v3")                    # a configuration of 671B parameters
    preset("deepseek-v3", tiny=True)         # the same router, mixer and losses with 2M

Where a size comes from stands beside it. "Released" is the config.json of the released checkpoint. What a decoder
of ours does not take over from a system: dropout, T5's relative position bias and LayerNorm (every model here
has rotary positions, the LSTM none, and RMSNorm), the sigmoid behind Shazeer's MoE layer, and V2's scaling
factors at its width bottlenecks, which the released model does not have either. Nothing of it changes a count.

Tiny variants keep what a system is known for. head_dim 32, kv_lora_rank 512 and qk_rope_head_dim 64 are what
vLLM runs on every CPU; 266 tokens, of which 256 is padding and 257 ends a text, are data/charset.py's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig

Settings = dict[str, Any]


@dataclass(frozen=True)
class Preset:
    """One system, as fields of MoEConfig. character: what both sizes share. published, tiny: the sizes."""

    character: Settings
    published: Settings
    tiny: Settings


def preset(name: str, tiny: bool = False, **overrides: Any) -> MoEConfig:
    """The configuration of that system, with `overrides` of single fields (vocab_size, token ids, …).

    Raises ValueError for an unknown preset or field, and what MoEConfig raises for values that do not fit together.
    """
    from rlzero.models.config import MoEConfig

    system = find_preset(name)
    unknown = sorted(set(overrides) - {field.name for field in fields(MoEConfig)})
    if unknown:
        raise ValueError(
            f"an override must be a field of MoEConfig, got {', '.join(unknown)} for preset {name!r}. "
            "The fields stand in rlzero/models/config.py."
        )
    return MoEConfig(**{**system.character, **(system.tiny if tiny else system.published), **overrides})


def find_preset(name: str) -> Preset:
    """The system of that name. Raises ValueError with all names for an unknown one."""
    found = PRESETS.get(ALIASES.get(name, name))
    if found is None:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join([*PRESETS, *ALIASES])}.")
    return found


# Tables read better than one field a line.
# fmt: off
_TINY = {
    "vocab_size": 266, "pad_token_id": 256, "eos_token_id": 257, "max_position_embeddings": 512,
    "hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3,
}
_TINY_GQA = {**_TINY, "head_dim": 32}
_TINY_MLA = {
    **_TINY, "kv_lora_rank": 512, "qk_nope_head_dim": 32, "qk_rope_head_dim": 64, "v_head_dim": 32,
    "intermediate_size": 384, "n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 64,
}
# Before gated units, the width of an expert is that of a dense layer.
_UNGATED = {"gated_mlp": False, "hidden_act": "relu"}
_MISTRAL = {"rms_norm_eps": 1e-5}
# 2310.06825, table 1, and released (Mistral-7B-v0.1); 2401.04088, table 1, for Mixtral, which differs in the context.
_MISTRAL_SIZE = {
    "vocab_size": 32000, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 32768, "hidden_size": 4096,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 14336,
}
# 0.006: 2401.02954, §2.2; 2401.06066, §5.1.2; 2405.04434, §3.1.2; 2412.19437, §4.2.
_DEEPSEEK_SIZE = {
    "vocab_size": 102400, "bos_token_id": 100000, "eos_token_id": 100001, "max_position_embeddings": 4096,
    "initializer_range": 0.006,
}
# 2405.04434, §3.1.2, and 2412.19437, §4.2: per-head sizes that V2, V2-Lite and V3 share.
_MLA_SIZE = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}


def _yarn(mscale: float) -> Settings:
    """The extension from 4K to 160K positions: 2405.04434, §3.1.4, and 2412.19437, §4.3; released."""
    return {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": mscale, "mscale_all_dim": mscale,
    }


PRESETS = {
    # Jacobs, Jordan, Nowlan, Hinton 1991: gate and experts are small networks with sigmoidal units, and all experts
    # are mixed. Its systems have 4 and 8 experts and tell vowels apart, so there is no published size of a language
    # model: ours is a decoder of GPT-2's small size with its eight experts.
    "jacobs-1991": Preset(
        {"topk_method": "dense", "gated_mlp": False, "hidden_act": "tanh", "n_routed_experts": 8,
         "num_experts_per_tok": 8},
        {"vocab_size": 50257, "max_position_embeddings": 1024, "hidden_size": 768, "num_hidden_layers": 12,
         "num_attention_heads": 12, "intermediate_size": 3072},
        {**_TINY_GQA, "intermediate_size": 128},
    ),
    # 1701.06538, appendix C.1, "MoE-256": embedding, LSTM, MoE, LSTM, softmax, all 512 wide, experts 512-1024-512;
    # 793,471 words (§5.1); k = 4, both loss weights 0.1.
    "shazeer-2017": Preset(
        {"attention_kind": "lstm", "topk_method": "noisy_topk", **_UNGATED, "num_hidden_layers": 2,
         "mlp_layer_types": ["sparse", "none"], "num_experts_per_tok": 4, "balance": {"importance": 0.1, "load": 0.1}},
        {"vocab_size": 793471, "hidden_size": 512, "intermediate_size": 1024, "n_routed_experts": 256},
        {**_TINY, "num_hidden_layers": 2, "intermediate_size": 256, "n_routed_experts": 16},
    ),
    # 2006.16668, table 1, MoE(2048E, 36L), which is 18 encoder and 18 decoder layers, every other one with experts;
    # appendix A.2 for the widths and the 32,000 tokens of the target side. Ours is the decoder without attention on
    # the encoder. Capacity 2N/(G·E), which is the even share of two choices a token. The paper does not give the
    # factor k of its loss: 0.01 · E² here, since mesh-tensorflow gives E² times the printed form the weight 0.01.
    "gshard": Preset(
        {"topk_method": "top2_random", **_UNGATED, "moe_layer_freq": 2, "num_experts_per_tok": 2,
         "norm_topk_prob": True, "drop_policy": "capacity", "capacity_factor_train": 1.0},
        {"vocab_size": 32000, "max_position_embeddings": 1024, "hidden_size": 1024, "num_hidden_layers": 18,
         "num_attention_heads": 16, "head_dim": 128, "intermediate_size": 8192, "n_routed_experts": 2048,
         "balance": {"gshard": 0.01 * 2048**2}},
        {**_TINY_GQA, "num_hidden_layers": 4, "intermediate_size": 256, "n_routed_experts": 8,
         "balance": {"gshard": 0.01 * 8**2}},
    ),
    # 2101.03961, table 9, "Switch-C": 15 layers each of encoder and decoder, all with experts; T5's 32,128 tokens.
    # Capacity factor 1.25 (§2.2), α and ε 0.01 (§2.2, table 6), initial scale 0.1 (§2.4): σ = sqrt(0.1 / width).
    # The paper's capacity in evaluation, 2.0, is left out: dropping would let a token depend on its batch.
    "switch": Preset(
        {"topk_method": "switch", **_UNGATED, "num_experts_per_tok": 1, "router_jitter_noise": 0.01,
         "balance": {"switch": 0.01}, "drop_policy": "capacity", "capacity_factor_train": 1.25},
        {"vocab_size": 32128, "max_position_embeddings": 512, "hidden_size": 2080, "num_hidden_layers": 15,
         "num_attention_heads": 32, "head_dim": 64, "intermediate_size": 6144, "n_routed_experts": 2048,
         "initializer_range": 0.007},
        {**_TINY_GQA, "intermediate_size": 128, "n_routed_experts": 8, "initializer_range": 0.028},
    ),
    "mistral-7b": Preset(
        _MISTRAL,
        {**_MISTRAL_SIZE, "sliding_window": 4096},
        # Shorter than a prompt with its answer, so that the buffer rolls.
        {**_TINY_GQA, "num_hidden_layers": 4, "num_key_value_heads": 2, "intermediate_size": 384,
         "sliding_window": 64},
    ),
    # Coefficient of the balance loss, base of the rotary positions: released (Mixtral-8x7B-v0.1).
    "mixtral-8x7b": Preset(
        {**_MISTRAL, "topk_method": "topk_softmax", "norm_topk_prob": True, "n_routed_experts": 8,
         "num_experts_per_tok": 2, "balance": {"switch": 0.02}},
        {**_MISTRAL_SIZE, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {**_TINY_GQA, "num_key_value_heads": 2, "intermediate_size": 128},
    ),
    # 2401.02954, table 2; feed-forward widths released.
    "deepseek-llm-7b": Preset(
        {},
        {**_DEEPSEEK_SIZE, "hidden_size": 4096, "num_hidden_layers": 30, "num_attention_heads": 32,
         "intermediate_size": 11008},
        {**_TINY_GQA, "intermediate_size": 384},
    ),
    "deepseek-llm-67b": Preset(
        {},
        {**_DEEPSEEK_SIZE, "hidden_size": 8192, "num_hidden_layers": 95, "num_attention_heads": 64,
         "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 22016},
        {**_TINY_GQA, "num_hidden_layers": 4, "num_key_value_heads": 2, "intermediate_size": 384},
    ),
    # 2401.06066, §5.1.2; widths released. Experts share their devices, so there is no device-level loss.
    "deepseekmoe-16b": Preset(
        {"topk_method": "greedy", "first_k_dense_replace": 1, "n_shared_experts": 2, "balance": {"expert": 0.001}},
        {**_DEEPSEEK_SIZE, "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16,
         "intermediate_size": 10944, "n_routed_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408},
        {**_TINY_GQA, "intermediate_size": 384, "n_routed_experts": 16, "num_experts_per_tok": 4,
         "moe_intermediate_size": 64},
    ),
    # 2405.04434, §3.1.2; width of the dense layer and factor 16 released. Tokens are dropped per device (§2.2.4).
    "deepseek-v2": Preset(
        {"attention_kind": "mla", "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3,
         "first_k_dense_replace": 1, "n_shared_experts": 2, "drop_policy": "device", "capacity_factor_train": 1.0,
         "balance": {"expert": 0.003, "device": 0.05, "communication": 0.02}},
        {**_DEEPSEEK_SIZE, **_MLA_SIZE, "hidden_size": 5120, "num_hidden_layers": 60, "num_attention_heads": 128,
         "q_lora_rank": 1536, "intermediate_size": 12288, "n_routed_experts": 160, "num_experts_per_tok": 6,
         "moe_intermediate_size": 1536, "routed_scaling_factor": 16.0, "max_position_embeddings": 163840,
         "rope_parameters": _yarn(0.707)},
        # 16 for 160 experts is 1.6 for 16: an even affinity then weighs as much as in the large model.
        {**_TINY_MLA, "q_lora_rank": 64, "routed_scaling_factor": 1.6},
    ),
    # 2405.04434, appendix B.1; width of the dense layer released. Queries are not compressed, routing is not limited.
    "deepseek-v2-lite": Preset(
        {"attention_kind": "mla", "topk_method": "greedy", "first_k_dense_replace": 1, "n_shared_experts": 2,
         "balance": {"expert": 0.001}},
        {**_DEEPSEEK_SIZE, **_MLA_SIZE, "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16,
         "intermediate_size": 10944, "n_routed_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408,
         "max_position_embeddings": 163840, "rope_parameters": _yarn(0.707)},
        _TINY_MLA,
    ),
    # 2412.19437, §4.2; width of the dense layers and factor 2.5 released. γ 0.001 and λ 0.3 are those of most of the
    # training; at its end they fall to 0 and 0.1.
    "deepseek-v3": Preset(
        {"attention_kind": "mla", "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True,
         "routed_scaling_factor": 2.5, "n_shared_experts": 1, "balance": {"sequence": 0.0001},
         "bias_update_speed": 0.001, "num_nextn_predict_layers": 1, "mtp_loss_weight": 0.3},
        {**_DEEPSEEK_SIZE, **_MLA_SIZE, "vocab_size": 129280, "bos_token_id": 0, "eos_token_id": 1,
         "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "q_lora_rank": 1536,
         "intermediate_size": 18432, "first_k_dense_replace": 3, "n_routed_experts": 256, "num_experts_per_tok": 8,
         "moe_intermediate_size": 2048, "n_group": 8, "topk_group": 4, "max_position_embeddings": 163840,
         "rope_parameters": _yarn(1.0)},
        {**_TINY_MLA, "q_lora_rank": 64, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2},
    ),
}
# fmt: on

# 2501.12948: R1 and R1-Zero are V3's architecture.
ALIASES = {"deepseek-r1": "deepseek-v3"}

"""What each native class of the MoE line computes: one row a class, its fields beside those of MoEConfig."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import (
    AutoConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)
from transformers.modeling_rope_utils import RopeParameters

Fields = Mapping[str, Any]


@strict
class DeepseekConfig(PreTrainedConfig):
    """DeepSeekMoE's configuration (2401.06066): names and defaults of its published file, which vLLM reads.

    transformers has no class for it, only vLLM has the model. The last five fields are not in the published file:
    vLLM runs this architecture by the code of V2 and V3 and obeys them.
    """

    model_type = "deepseek"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 102400
    hidden_size: int = 4096
    intermediate_size: int = 11008
    moe_intermediate_size: int = 1407
    num_hidden_layers: int = 30
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    n_shared_experts: int | None = None
    n_routed_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_layer_freq: int = 1
    first_k_dense_replace: int = 0
    norm_topk_prob: bool = False
    scoring_func: str = "softmax"
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 100000
    eos_token_id: int | list[int] | None = 100001
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters | dict | None = None
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    output_router_logits: bool = False
    topk_method: str = "greedy"
    n_group: int = 1
    topk_group: int = 1
    routed_scaling_factor: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        super().__post_init__(**kwargs)


# Here and not in transformers: AutoConfig, and with it vLLM, can then read the file.
AutoConfig.register(DeepseekConfig.model_type, DeepseekConfig, exist_ok=True)


@dataclass(frozen=True)
class Demand:
    """What a field of a native configuration must be for the class to compute what our decoder does."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Native:
    """One native class.

    shared: fields of the same name and meaning on both sides. renamed: our name -> the native one.
    means: fields of ours that the class has one value of, by construction.
    demands: native fields of which we know only some values; an absent field meets its demand.
    writes: what config.json must say beside, for those who read it elsewhere than in transformers.
    to_ours, to_native: the fields that are neither shared nor renamed, above all which layers are sparse.
    experts: how the checkpoint names the block of experts and the gate, up and down matrices of one expert.
    """

    config_class: type[PreTrainedConfig]
    architecture: str
    shared: tuple[str, ...]
    to_ours: Callable[[Fields], dict[str, Any]]
    to_native: Callable[[Fields], dict[str, Any]]
    renamed: Fields = field(default_factory=dict)
    means: Fields = field(default_factory=dict)
    demands: Mapping[str, Demand] = field(default_factory=dict)
    writes: Fields = field(default_factory=dict)
    experts: tuple[str, str, str, str] = ("mlp", "gate_proj", "up_proj", "down_proj")

    @property
    def model_type(self) -> str:
        return self.config_class.model_type


def one_of(*values: Any) -> Demand:
    return Demand(" or ".join(map(repr, values)), lambda value: value in values)


def _all_dense(native: Fields) -> dict[str, Any]:
    return {"mlp_layer_types": ["dense"] * native["num_hidden_layers"]}


def _all_sparse(native: Fields) -> dict[str, Any]:
    return {"mlp_layer_types": ["sparse"] * native["num_hidden_layers"]}


def _nothing(_: Fields) -> dict[str, Any]:
    return {}


def _qwen_to_ours(native: Fields) -> dict[str, Any]:
    """Every decoder_sparse_step-th layer is sparse, but for those named."""
    step, dense = native["decoder_sparse_step"], native["mlp_only_layers"]
    layers = range(native["num_hidden_layers"])
    kinds = ["dense" if layer in dense or (layer + 1) % step else "sparse" for layer in layers]
    return {"mlp_layer_types": kinds}


def _qwen_to_native(ours: Fields) -> dict[str, Any]:
    dense = [layer for layer, kind in enumerate(ours["mlp_layer_types"]) if kind != "sparse"]
    # Without the flag the class ignores the window.
    window = ours["sliding_window"] is not None
    return {"decoder_sparse_step": 1, "mlp_only_layers": dense, "use_sliding_window": window}


def _prefix_to_ours(native: Fields) -> dict[str, Any]:
    """A prefix of dense layers, then every moe_layer_freq-th of all layers is sparse."""
    first, step = native["first_k_dense_replace"], native.get("moe_layer_freq", 1)
    layers = range(native["num_hidden_layers"])
    kinds = ["sparse" if layer >= first and layer % step == 0 else "dense" for layer in layers]
    return {"first_k_dense_replace": first, "moe_layer_freq": step, "mlp_layer_types": kinds}


def _prefix_to_native(ours: Fields) -> dict[str, Any]:
    """The two numbers that give these layers; if none do, the nearest, and whoever compares will see it."""
    kinds = ours["mlp_layer_types"]
    first = kinds.index("sparse") if "sparse" in kinds else len(kinds)
    given = (ours["first_k_dense_replace"], ours["moe_layer_freq"])
    for first_k, step in [given, *((first, step) for step in range(1, len(kinds) + 1))]:
        names = {"first_k_dense_replace": first_k, "moe_layer_freq": step}
        if _prefix_to_ours({"num_hidden_layers": len(kinds), **names})["mlp_layer_types"] == kinds:
            return names
    return {"first_k_dense_replace": first, "moe_layer_freq": 1}


def _deepseek_to_native(ours: Fields) -> dict[str, Any]:
    # Zero would be a shared expert of width zero.
    return {**_prefix_to_native(ours), "n_shared_experts": ours["n_shared_experts"] or None}


_COMMON = (
    "vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "tie_word_embeddings", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "dtype", "hidden_act",
    "num_attention_heads", "num_key_value_heads", "attention_dropout", "rope_parameters",
)  # fmt: skip
_MLA = ("attention_bias", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_EXPERTS = ("num_experts_per_tok", "output_router_logits")
_QWEN = (
    "head_dim", "attention_bias", "sliding_window", "intermediate_size", "moe_intermediate_size", "norm_topk_prob",
)  # fmt: skip
_DEEPSEEK = (
    *_COMMON, *_EXPERTS, "intermediate_size", "moe_intermediate_size", "n_routed_experts", "n_shared_experts",
    "routed_scaling_factor", "n_group", "topk_group",
)  # fmt: skip
_SHARED_EXPERT = Demand("at least 1", lambda value: value >= 1)

# In the order in which they are tried, the plainest first.
NATIVES = (
    Native(
        LlamaConfig,
        "LlamaForCausalLM",
        shared=(*_COMMON, "head_dim", "intermediate_size", "attention_bias"),
        means={"attention_kind": "gqa"},
        demands={"mlp_bias": one_of(False)},
        to_ours=_all_dense,
        to_native=_nothing,
    ),
    Native(
        MistralConfig,
        "MistralForCausalLM",
        shared=(*_COMMON, "head_dim", "intermediate_size", "sliding_window"),
        means={"attention_kind": "gqa"},
        to_ours=_all_dense,
        to_native=_nothing,
    ),
    Native(
        MixtralConfig,
        "MixtralForCausalLM",
        shared=(*_COMMON, *_EXPERTS, "head_dim", "sliding_window"),
        # The class has no dense layer: its one width is that of an expert.
        renamed={
            "n_routed_experts": "num_local_experts",
            "moe_intermediate_size": "intermediate_size",
            "intermediate_size": "intermediate_size",
        },
        means={"attention_kind": "gqa", "topk_method": "topk_softmax", "norm_topk_prob": True},
        to_ours=_all_sparse,
        to_native=_nothing,
        experts=("block_sparse_moe", "w1", "w3", "w2"),
    ),
    Native(
        Qwen3MoeConfig,
        "Qwen3MoeForCausalLM",
        shared=(*_COMMON, *_EXPERTS, *_QWEN),
        renamed={"n_routed_experts": "num_local_experts"},
        means={"attention_kind": "gqa", "use_qk_norm": True},
        to_ours=_qwen_to_ours,
        to_native=_qwen_to_native,
    ),
    Native(
        DeepseekV2Config,
        "DeepseekV2ForCausalLM",
        shared=(*_DEEPSEEK, *_MLA, "topk_method"),
        means={"attention_kind": "mla"},
        demands={
            "topk_method": one_of("greedy", "group_limited_greedy"),
            "scoring_func": one_of("softmax"),
            # transformers ignores the field and vLLM obeys it: only False means the same to both.
            "norm_topk_prob": one_of(False, None),
            "n_shared_experts": _SHARED_EXPERT,
            "moe_layer_freq": one_of(1),
            "mlp_bias": one_of(False),
        },
        to_ours=_prefix_to_ours,
        to_native=_prefix_to_native,
    ),
    Native(
        DeepseekV3Config,
        "DeepseekV3ForCausalLM",
        shared=(*_DEEPSEEK, *_MLA, "norm_topk_prob", "rope_interleave", "num_nextn_predict_layers"),
        means={"attention_kind": "mla", "topk_method": "noaux_tc", "scoring_func": "sigmoid"},
        demands={
            "topk_method": one_of("noaux_tc"),
            "scoring_func": one_of("sigmoid"),
            "n_shared_experts": _SHARED_EXPERT,
            "moe_layer_freq": one_of(1),
        },
        # Not fields of the class; without them vLLM looks for no bias.
        writes={"topk_method": "noaux_tc", "scoring_func": "sigmoid"},
        to_ours=_prefix_to_ours,
        to_native=_prefix_to_native,
    ),
    Native(
        DeepseekConfig,
        "DeepseekForCausalLM",
        shared=(*_DEEPSEEK, "topk_method", "scoring_func", "norm_topk_prob"),
        means={"attention_kind": "gqa"},
        demands={
            "topk_method": one_of("greedy", "group_limited_greedy", "noaux_tc"),
            "hidden_act": one_of("silu"),
            # vLLM's class skips these weights without a word.
            "attention_bias": one_of(False),
            "tie_word_embeddings": one_of(False),
        },
        to_ours=_prefix_to_ours,
        to_native=_deepseek_to_native,
    ),
)
BY_MODEL_TYPE = {native.model_type: native for native in NATIVES}

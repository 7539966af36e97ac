"""Configurations go to native classes and back without loss, and what no class computes is refused by field."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, DeepseekV2Config, DeepseekV3Config, LlamaConfig, PreTrainedConfig, Qwen2Config

from rlzero.models.config import MoEConfig
from rlzero.models.native import ConversionError, from_native_config, inference_form, to_native_config
from rlzero.models.native_table import NATIVES, DeepseekConfig
from rlzero.models.presets import preset
from tests.models.tiny_natives import CONFIGS, DEEPSEEK_MOE, randomise

GQA: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "num_attention_heads": 4,
}
SPARSE: dict[str, Any] = {**GQA, "n_routed_experts": 4, "moe_intermediate_size": 16}
PRESET_CLASSES = {
    "mistral-7b": "MistralForCausalLM",
    "mixtral-8x7b": "MixtralForCausalLM",
    "deepseek-llm-7b": "LlamaForCausalLM",
    "deepseek-llm-67b": "LlamaForCausalLM",
    "deepseekmoe-16b": "DeepseekForCausalLM",
    "deepseek-v2": "DeepseekV2ForCausalLM",
    "deepseek-v2-lite": "DeepseekV2ForCausalLM",
    "deepseek-v3": "DeepseekV3ForCausalLM",
}
# config.json of the released DeepSeek-V3, but for its quantization: older names, and fields of its own code.
RELEASED_V3: dict[str, Any] = {
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "v_head_dim": 128,
    "vocab_size": 129280,
}
# What each router of the line becomes where no native class has it by name: 2006.16668, 2101.03961, Jacobs 1991.
AS_DEEPSEEK: dict[str, dict[str, Any]] = {
    "gshard": {
        "topk_method": "top2_random",
        "moe_layer_freq": 2,
        "balance": {"gshard": 0.01},
        "drop_policy": "capacity",
        "capacity_factor_train": 1.0,
    },
    "switch": {"topk_method": "switch", "num_experts_per_tok": 1, "router_jitter_noise": 0.01},
    "jacobs": {"topk_method": "dense", "num_experts_per_tok": 4},
    "noaux": {
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "bias_update_speed": 0.001,
    },
}


def equal_where_known(one: PreTrainedConfig, other: PreTrainedConfig) -> None:
    """Every field of the first is in the second, with the same value."""
    ignored = {"transformers_version", "architectures", "_name_or_path"}
    first, second = one.to_dict(), other.to_dict()
    assert type(one) is type(other)
    assert {k: second.get(k) for k in first if k not in ignored} == {k: first[k] for k in first if k not in ignored}


@pytest.mark.parametrize("name", [*CONFIGS, "deepseek-moe"])
def test_a_native_configuration_comes_back_with_every_field(name: str) -> None:
    config = CONFIGS.get(name, DEEPSEEK_MOE)
    ours = from_native_config(config)
    back = to_native_config(ours)
    equal_where_known(config, back)
    assert back.architectures == [n.architecture for n in NATIVES if n.model_type == config.model_type]


@pytest.mark.parametrize("tiny", [True, False])
@pytest.mark.parametrize("name", PRESET_CLASSES)
def test_a_preset_becomes_its_native_class_and_comes_back_with_every_field(name: str, tiny: bool) -> None:
    config = preset(name, tiny)
    native = to_native_config(config)
    assert native.architectures == [PRESET_CLASSES[name]]
    equal_where_known(config, from_native_config(native))


def test_the_released_configuration_of_v3_is_our_preset_and_comes_back_with_every_field() -> None:
    released = DeepseekV3Config.from_dict(RELEASED_V3)
    ours = from_native_config(released)
    equal_where_known(released, to_native_config(ours))
    del ours.rope_parameters["type"]  # the older name of rope_type, which stays beside it
    assert inference_form(ours.to_dict()) == inference_form(preset("deepseek-v3").to_dict())
    assert ours.num_nextn_predict_layers == 1


@pytest.mark.parametrize("name", AS_DEEPSEEK)
def test_training_only_fields_and_router_names_survive_a_class_that_lacks_them(name: str) -> None:
    config = MoEConfig(**{**SPARSE, **AS_DEEPSEEK[name]})
    native = to_native_config(config)
    assert native.architectures == ["DeepseekForCausalLM"]
    equal_where_known(config, from_native_config(native))


@pytest.mark.parametrize("name", AS_DEEPSEEK)
def test_the_native_fields_alone_give_the_same_logits(name: str) -> None:
    from rlzero.models.decoder import MoEForCausalLM

    config = MoEConfig(**{**SPARSE, **AS_DEEPSEEK[name]})
    native = to_native_config(config)
    del native.rlzero
    plain = from_native_config(native)
    assert plain.topk_method == ("noaux_tc" if name == "noaux" else "greedy")
    assert plain.balance == {}
    one, other = MoEForCausalLM(config).eval(), MoEForCausalLM(plain).eval()
    randomise(one)
    other.load_state_dict(one.state_dict())
    ids = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(one(ids).logits, other(ids).logits, atol=1e-6)


def test_what_vllm_reads_beside_the_class_stands_in_the_file(tmp_path: Any) -> None:
    to_native_config(preset("deepseek-v3", tiny=True)).save_pretrained(tmp_path / "v3")
    saved = AutoConfig.from_pretrained(tmp_path / "v3")
    assert (saved.topk_method, saved.scoring_func) == ("noaux_tc", "sigmoid")
    to_native_config(preset("deepseek-v2", tiny=True)).save_pretrained(tmp_path / "v2")
    assert AutoConfig.from_pretrained(tmp_path / "v2").topk_method == "group_limited_greedy"
    # No shared expert is None there: vLLM would build one of width zero.
    without = to_native_config(MoEConfig(**SPARSE))
    assert isinstance(without, DeepseekConfig)
    assert without.n_shared_experts is None


@pytest.mark.parametrize(
    ("fields", "model_type"),
    [
        (GQA, "llama"),
        ({**GQA, "sliding_window": 8}, "mistral"),
        ({**SPARSE, "topk_method": "topk_softmax"}, "mixtral"),
        ({**SPARSE, "topk_method": "greedy", "norm_topk_prob": True}, "mixtral"),
        ({**SPARSE, "topk_method": "top2_random"}, "mixtral"),
        ({**SPARSE, "use_qk_norm": True}, "qwen3_moe"),
        ({**SPARSE, "norm_topk_prob": True, "n_shared_experts": 1}, "deepseek"),
        ({**SPARSE, "topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 2}, "deepseek"),
    ],
)
def test_the_plainest_class_that_computes_the_same_is_chosen(fields: dict[str, Any], model_type: str) -> None:
    assert to_native_config(MoEConfig(**fields)).model_type == model_type


def test_a_choice_within_all_groups_is_a_choice_without_groups() -> None:
    grouped = MoEConfig(**SPARSE, topk_method="group_limited_greedy", n_group=2, topk_group=2)
    assert inference_form(grouped.to_dict()) == inference_form(MoEConfig(**SPARSE).to_dict())
    limited = MoEConfig(**SPARSE, topk_method="group_limited_greedy", n_group=2, topk_group=1)
    assert inference_form(limited.to_dict()) != inference_form(MoEConfig(**SPARSE).to_dict())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({**GQA, "attention_kind": "lstm"}, ["llama: attention_kind is 'lstm' and must be 'gqa'"]),
        ({**SPARSE, "topk_method": "noisy_topk"}, ["deepseek: topk_method is 'noisy_topk' and must be"]),
        ({**SPARSE, "gated_mlp": False}, ["mixtral: gated_mlp is False and must be True"]),
        ({**GQA, "num_nextn_predict_layers": 1}, ["llama: num_nextn_predict_layers is 1 and must be 0"]),
        ({**SPARSE, "sliding_window": 4}, ["deepseek: sliding_window is 4 and must be None"]),
        ({**SPARSE, "head_dim": 16}, ["deepseek: head_dim is 16 and must be 8"]),
        ({**SPARSE, "tie_word_embeddings": True}, ["deepseek: tie_word_embeddings is True and must be False"]),
        ({**SPARSE, "attention_bias": True}, ["deepseek: attention_bias is True and must be False"]),
        ({**SPARSE, "hidden_act": "gelu"}, ["deepseek: hidden_act is 'gelu' and must be 'silu'"]),
        (
            {**SPARSE, "mlp_layer_types": ["sparse", "none", "sparse"]},
            ["mlp_layer_types is ['sparse', 'none', 'sparse'] and must be"],
        ),
        (
            {**CONFIGS["deepseek-v2"].to_dict(), "attention_kind": "mla", "n_shared_experts": 0},
            ["deepseek_v2: n_shared_experts is 0 and must be at least 1"],
        ),
    ],
)
def test_a_configuration_without_a_class_is_refused_with_the_fields_in_the_way(
    fields: dict[str, Any], named: list[str]
) -> None:
    fields = {name: value for name, value in fields.items() if hasattr(MoEConfig, name) and name != "model_type"}
    with pytest.raises(ConversionError) as refusal:
        to_native_config(MoEConfig(**fields))
    message = str(refusal.value)
    for words in named:
        assert words in message
    assert all(f"  {native.model_type}: " in message for native in NATIVES)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Qwen2Config(), "model types llama, mistral, mixtral.*'qwen2'"),
        (LlamaConfig(mlp_bias=True), "mlp_bias is True and must be False"),
        (DeepseekV2Config(norm_topk_prob=True, num_experts_per_tok=2), "norm_topk_prob is True and must be False"),
        (DeepseekV2Config(topk_method="x", num_experts_per_tok=2), "topk_method is 'x' and must be 'greedy' or"),
        (DeepseekV2Config(moe_layer_freq=2, num_experts_per_tok=2), "moe_layer_freq is 2 and must be 1"),
        (DeepseekConfig(scoring_func="sigmoid", num_experts_per_tok=2, n_routed_experts=4), "scoring_func must be"),
    ],
)
def test_a_native_model_that_computes_something_else_is_refused(config: PreTrainedConfig, words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        from_native_config(config)


def test_kept_fields_that_contradict_an_edited_configuration_are_refused() -> None:
    native = to_native_config(MoEConfig(**{**SPARSE, **AS_DEEPSEEK["switch"]}))
    native.num_experts_per_tok = 3
    with pytest.raises(ConversionError, match=r"'rlzero' contradicts .* in num_experts_per_tok"):
        from_native_config(native)
    ours = from_native_config(CONFIGS["qwen3-moe-step"])
    ours.mlp_layer_types = ["sparse"] * 4
    with pytest.raises(ConversionError, match=r"'native' contradicts .* in .*mlp_layer_types"):
        to_native_config(ours)

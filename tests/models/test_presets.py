"""A preset is the published system, and its tiny variant the same one small enough to train here."""

from __future__ import annotations

import pytest
import torch

from data.charset import EOS, PAD, byte_tokenizer
from rlzero.models.count import count_parameters
from rlzero.models.decoder import MoEForCausalLM
from rlzero.models.native import ConversionError, to_native_config
from rlzero.models.presets import ALIASES, PRESETS, preset

NATIVE = {
    "mistral-7b": "MistralForCausalLM",
    "mixtral-8x7b": "MixtralForCausalLM",
    "deepseek-llm-7b": "LlamaForCausalLM",
    "deepseek-llm-67b": "LlamaForCausalLM",
    "deepseekmoe-16b": "DeepseekForCausalLM",
    "deepseek-v2": "DeepseekV2ForCausalLM",
    "deepseek-v2-lite": "DeepseekV2ForCausalLM",
    "deepseek-v3": "DeepseekV3ForCausalLM",
}
# What makes a system itself, whatever its size.
CHARACTER = (
    "attention_kind", "use_qk_norm", "gated_mlp", "hidden_act", "moe_layer_freq", "n_shared_experts", "topk_method",
    "scoring_func", "norm_topk_prob", "router_jitter_noise", "bias_update_speed", "drop_policy",
    "capacity_factor_train", "capacity_factor_eval", "num_nextn_predict_layers", "rms_norm_eps", "rope_interleave",
)  # fmt: skip
ALL = pytest.mark.parametrize("name", PRESETS)


@ALL
def test_both_sizes_are_the_same_system(name: str) -> None:
    large, small = preset(name), preset(name, tiny=True)
    assert [getattr(small, field) for field in CHARACTER] == [getattr(large, field) for field in CHARACTER]
    # GShard's printed loss is smaller by the square of the experts, so its weight grows with it.
    small_weights, large_weights = (
        {loss: weight / config.n_routed_experts**2 if loss == "gshard" else weight for loss, weight in balance.items()}
        for config, balance in ((small, small.balance), (large, large.balance))
    )
    assert small_weights == pytest.approx(large_weights)
    for property_of in (
        lambda config: config.num_key_value_heads < config.num_attention_heads,
        lambda config: config.sliding_window is None,
        lambda config: config.q_lora_rank is None,
        lambda config: 1 < config.topk_group < config.n_group,
        lambda config: sorted(set(config.mlp_layer_types)),
        lambda config: config.mlp_layer_types[0],
        lambda config: config.num_experts_per_tok == config.n_routed_experts,
    ):
        assert property_of(small) == property_of(large)


@ALL
def test_a_tiny_variant_trains(name: str) -> None:
    torch.manual_seed(0)
    config = preset(name, tiny=True)
    model = MoEForCausalLM(config).train()
    ids_BT = torch.randint(config.vocab_size, (2, 96))
    out = model(input_ids=ids_BT, labels=ids_BT)
    assert out.loss.isfinite()
    assert (out.aux_loss is not None and out.aux_loss.isfinite()) == bool(config.balance)
    out.loss.backward()
    gradients = [weight.grad for weight in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@ALL
def test_a_tiny_variant_has_at_most_two_million_parameters_and_its_prediction_module_one_more(name: str) -> None:
    parameters = count_parameters(preset(name, tiny=True))
    assert 500_000 < parameters.total <= 2_000_000
    assert parameters.mtp <= 1_000_000


@ALL
def test_a_tiny_variant_reads_the_embedded_tokenizer(name: str) -> None:
    config, tokenizer = preset(name, tiny=True), byte_tokenizer()
    assert config.vocab_size == len(tokenizer)
    assert tokenizer.convert_tokens_to_ids([PAD, EOS]) == [config.pad_token_id, config.eos_token_id]


@ALL
def test_a_tiny_variant_has_the_head_sizes_that_vllm_runs_on_every_cpu(name: str) -> None:
    config = preset(name, tiny=True)
    if config.attention_kind == "mla":
        assert (config.kv_lora_rank, config.qk_rope_head_dim) == (512, 64)
    elif config.attention_kind == "gqa":
        assert config.head_dim == 32


@ALL
@pytest.mark.parametrize("tiny", [False, True])
def test_the_native_class_is_the_one_that_the_system_was_released_for(name: str, tiny: bool) -> None:
    config = preset(name, tiny)
    if name in NATIVE:
        assert to_native_config(config).architectures == [NATIVE[name]]
    else:
        with pytest.raises(ConversionError):
            to_native_config(config)


@ALL
def test_nothing_is_dropped_outside_training(name: str) -> None:
    assert preset(name).capacity_factor_eval is None


def test_the_rolling_buffer_of_the_tiny_mistral_rolls() -> None:
    config = preset("mistral-7b", tiny=True)
    assert config.sliding_window is not None
    assert config.sliding_window * 4 <= config.max_position_embeddings


def test_losses_have_their_published_weights() -> None:
    balance = {name: preset(name).balance for name in PRESETS if preset(name).balance}
    assert balance == {
        "shazeer-2017": {"importance": 0.1, "load": 0.1},
        "gshard": {"gshard": 0.01 * 2048**2},
        "switch": {"switch": 0.01},
        "mixtral-8x7b": {"switch": 0.02},
        "deepseekmoe-16b": {"expert": 0.001},
        "deepseek-v2": {"expert": 0.003, "device": 0.05, "communication": 0.02},
        "deepseek-v2-lite": {"expert": 0.001},
        "deepseek-v3": {"sequence": 0.0001},
    }
    assert {name for name in PRESETS if preset(name).bias_update_speed} == {"deepseek-v3"}


def test_r1_is_v3() -> None:
    assert ALIASES == {"deepseek-r1": "deepseek-v3"}
    assert preset("deepseek-r1").to_dict() == preset("deepseek-v3").to_dict()


def test_overrides_replace_single_fields_and_presets_stay_as_they_are() -> None:
    config = preset("mixtral-8x7b", tiny=True, vocab_size=300, eos_token_id=7, num_hidden_layers=2)
    assert (config.vocab_size, config.eos_token_id, len(config.mlp_layer_types)) == (300, 7, 2)
    assert preset("mixtral-8x7b", tiny=True).vocab_size == 266


def test_an_unknown_override_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"must be a field of MoEConfig, got num_expert for preset 'switch'"):
        preset("switch", num_expert=4)


def test_an_unknown_preset_is_refused_with_all_names() -> None:
    with pytest.raises(ValueError, match="unknown preset 'gpt-4': choose one of") as caught:
        preset("gpt-4")
    assert all(name in str(caught.value) for name in [*PRESETS, *ALIASES])

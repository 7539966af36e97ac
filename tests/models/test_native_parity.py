"""Our decoder computes what transformers' own classes compute, from their weights under their own names."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen3MoeConfig,
)

from rlzero.models.config import MoEConfig
from rlzero.models.decoder import MoEForCausalLM
from tests.models.tiny import SHAPE, VOCAB, scramble, tokens

_EXPERTS = {"moe_intermediate_size": 20, "num_experts_per_tok": 3}
_LATENT = {"kv_lora_rank": 18, "qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 12}
_MLA = {k: v for k, v in {**SHAPE, **_EXPERTS, **_LATENT, "num_key_value_heads": 4}.items() if k != "head_dim"}
_MLA |= {"n_routed_experts": 8, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2}
_OURS_MLA = {**_MLA, "attention_kind": "mla"}
_YARN = {
    "rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "original_max_position_embeddings": 16,
    "beta_fast": 32, "beta_slow": 1,
}  # fmt: skip
# The temperature goes into the logits (mscale_all_dim) and into the rotation (mscale against it).
_MSCALE = {**_YARN, "mscale": 0.707, "mscale_all_dim": 1.2}

PAIRS = {
    "llama": (LlamaConfig(**SHAPE), SHAPE),
    "llama_bias_tied_stretched": (
        LlamaConfig(**{**SHAPE, "rope_parameters": _YARN}, attention_bias=True, tie_word_embeddings=True),
        {**SHAPE, "attention_bias": True, "tie_word_embeddings": True, "rope_parameters": _YARN},
    ),
    "mistral": (MistralConfig(**SHAPE, sliding_window=5), {**SHAPE, "sliding_window": 5}),
    "mixtral": (
        MixtralConfig(**SHAPE, num_local_experts=8, num_experts_per_tok=3, sliding_window=None),
        {**SHAPE, "n_routed_experts": 8, "num_experts_per_tok": 3, "topk_method": "topk_softmax"},
    ),
    "qwen3_moe": (
        Qwen3MoeConfig(**SHAPE, **_EXPERTS, num_experts=8, norm_topk_prob=True, mlp_only_layers=[1]),
        {**SHAPE, **_EXPERTS, "n_routed_experts": 8, "norm_topk_prob": True, "use_qk_norm": True,
         "mlp_layer_types": ["sparse", "dense", "sparse"]},
    ),
    "deepseek_v2": (
        DeepseekV2Config(**{**_MLA, "rope_parameters": _MSCALE}, q_lora_rank=16, n_shared_experts=2,
                         topk_method="group_limited_greedy", routed_scaling_factor=1.7),
        {**_OURS_MLA, "q_lora_rank": 16, "n_shared_experts": 2, "topk_method": "group_limited_greedy",
         "routed_scaling_factor": 1.7, "rope_parameters": _MSCALE},
    ),
    "deepseek_v2_lite": (
        DeepseekV2Config(**_MLA, q_lora_rank=None, n_shared_experts=2, topk_method="greedy"),
        {**_OURS_MLA, "n_shared_experts": 2, "topk_method": "greedy"},
    ),
    "deepseek_v3": (
        DeepseekV3Config(**{**_MLA, "rope_parameters": _MSCALE}, q_lora_rank=16, n_shared_experts=1,
                         routed_scaling_factor=2.5, num_mtp_layers=0),
        {**_OURS_MLA, "q_lora_rank": 16, "n_shared_experts": 1, "topk_method": "noaux_tc", "norm_topk_prob": True,
         "routed_scaling_factor": 2.5, "rope_parameters": _MSCALE},
    ),
    "deepseek_v3_halves": (
        DeepseekV3Config(**_MLA, q_lora_rank=None, n_shared_experts=1, rope_interleave=False, num_mtp_layers=0),
        {**_OURS_MLA, "n_shared_experts": 1, "topk_method": "noaux_tc", "norm_topk_prob": True,
         "routed_scaling_factor": 2.5, "rope_interleave": False},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest):
    """Native model and ours, float32, with the same random weights."""
    native_config, ours = PAIRS[request.param]
    native = scramble(AutoModelForCausalLM.from_config(native_config).eval())
    model = MoEForCausalLM(MoEConfig(**ours)).eval()
    model.load_state_dict(native.state_dict(), strict=True)
    return native, model


def _same(native: torch.Tensor, ours: torch.Tensor) -> bool:
    # Logits are of the order of 1, or a difference would say little.
    assert native.std() > 0.3
    return torch.allclose(native, ours, rtol=0, atol=1e-5)


@torch.no_grad()
def _decode(model, ids, steps: list[int], **first) -> torch.Tensor:
    """Logits of all positions, in cached passes of these lengths."""
    cache, logits, start = None, [], 0
    mask = first.get("attention_mask")
    positions = first.get("position_ids")
    for step in steps:
        columns = slice(start, start + step)
        output = model(
            ids[:, columns],
            attention_mask=None if mask is None else mask[:, : start + step],
            position_ids=None if positions is None else positions[:, columns],
            past_key_values=cache,
            use_cache=True,
        )
        cache, start = output.past_key_values, start + step
        logits.append(output.logits)
    return torch.cat(logits, dim=1)


@torch.no_grad()
def test_a_full_forward_is_the_native_one(pair) -> None:
    native, model = pair
    ids = tokens(3, 14)
    assert _same(native(ids).logits, model(ids).logits)


@torch.no_grad()
def test_routing_of_the_tests_is_not_trivial(pair) -> None:
    _, model = pair
    router_logits = model(tokens(3, 14), output_router_logits=True).router_logits
    for layer in model.model.layers:
        if layer.routing is not None:
            assert len(layer.routing.indices.unique()) > 5
            assert layer.routing.weights.std() > 0.02
    assert len(router_logits) == model.config.mlp_layer_types.count("sparse")


@pytest.mark.parametrize("steps", [[1] * 14, [6, 1, 4, 1, 1, 1], [3, 8, 3]], ids=["tokens", "mixed", "chunks"])
def test_cached_passes_are_the_native_ones(pair, steps) -> None:
    native, model = pair
    ids = tokens(2, 14)
    with torch.no_grad():
        whole = native(ids).logits
    assert _same(whole, _decode(model, ids, steps))
    assert _same(_decode(native, ids, steps), _decode(model, ids, steps))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("steps", [[14], [9, 1, 1, 1, 1, 1], [5, 7, 2]], ids=["whole", "tokens", "chunks"])
def test_padded_rows_are_the_native_ones(pair, side, steps) -> None:
    native, model = pair
    ids = tokens(3, 14)
    lengths = torch.tensor([14, 9, 6])
    columns = torch.arange(14)
    mask = columns < lengths[:, None] if side == "right" else columns >= 14 - lengths[:, None]
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    options = {"attention_mask": mask.long(), "position_ids": positions}
    theirs, ours = (_decode(each, ids, steps, **options) for each in (native, model))
    assert _same(theirs[mask], ours[mask])
    with torch.no_grad():
        alone = model(ids[1][mask[1]][None]).logits[0]
    assert _same(alone, ours[1][mask[1]])


@torch.no_grad()
def test_packed_rows_are_the_native_ones(pair) -> None:
    native, model = pair
    ids = tokens(2, 14)
    positions = torch.tensor([[*range(6), *range(8)], [*range(3), *range(4), *range(7)]])
    theirs = native(ids, position_ids=positions, use_cache=False).logits
    assert _same(theirs, model(ids, position_ids=positions, use_cache=False).logits)
    # Ours sees where a sequence ends although it fills a cache.
    assert _same(theirs, model(ids, position_ids=positions).logits)
    assert _same(theirs[:1, 6:], model(ids[:1, 6:]).logits)


@torch.no_grad()
def test_eager_attention_is_the_native_one(pair) -> None:
    native, model = pair
    ids = tokens(2, 14)
    whole = native(ids).logits
    model.set_attn_implementation("eager")
    try:
        assert _same(whole, model(ids).logits)
        assert _same(whole, _decode(model, ids, [7, 1, 1, 5]))
    finally:
        model.set_attn_implementation("sdpa")


def test_gradients_are_the_native_ones(pair) -> None:
    native, model = pair
    ids = tokens(2, 14)
    for each in (native, model):
        each.zero_grad()
        each(ids, labels=ids).loss.backward()
    theirs = dict(native.named_parameters())
    for name, weight in model.named_parameters():
        # An expert that no token chose has no gradient, or one of 0.
        expected = theirs[name].grad if theirs[name].grad is not None else torch.zeros_like(weight)
        torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-5, msg=name)
    native.zero_grad()
    model.zero_grad()


def test_the_vocabulary_of_the_tests_is_that_of_the_models() -> None:
    assert all(native.vocab_size == VOCAB for native, _ in PAIRS.values())

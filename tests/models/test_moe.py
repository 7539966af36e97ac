"""A layer of experts: equal to the native one, and in training mode free of chance where it must be."""

from __future__ import annotations

import pytest
import torch
from transformers import DeepseekV2Config, DeepseekV3Config, MixtralConfig, Qwen3MoeConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from rlzero.models.config import MoEConfig
from rlzero.models.moe import MoELayer, moe_layers, set_exact_routing

HIDDEN, WIDTH, EXPERTS, TOP_K = 16, 24, 8, 2
_OURS = {"hidden_size": HIDDEN, "moe_intermediate_size": WIDTH, "n_routed_experts": EXPERTS}
_NATIVE = {"hidden_size": HIDDEN, "num_attention_heads": 4, "num_experts_per_tok": TOP_K}
_FINE = {
    "moe_intermediate_size": WIDTH, "n_routed_experts": EXPERTS, "n_shared_experts": 2, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 2.5,
}  # fmt: skip
NATIVE = {
    "mixtral": (
        {"topk_method": "topk_softmax"},
        MixtralSparseMoeBlock, MixtralConfig(**_NATIVE, intermediate_size=WIDTH, num_local_experts=EXPERTS),
    ),
    "qwen3_moe": (
        {"topk_method": "greedy", "norm_topk_prob": True},
        Qwen3MoeSparseMoeBlock,
        Qwen3MoeConfig(**_NATIVE, moe_intermediate_size=WIDTH, num_experts=EXPERTS, norm_topk_prob=True),
    ),
    "deepseek_v2": (
        _FINE | {"topk_method": "group_limited_greedy"},
        DeepseekV2Moe, DeepseekV2Config(**_NATIVE, **_FINE, topk_method="group_limited_greedy"),
    ),
    "deepseek_v3": (
        _FINE | {"topk_method": "noaux_tc", "norm_topk_prob": True},
        DeepseekV3MoE, DeepseekV3Config(**_NATIVE, **_FINE, norm_topk_prob=True),
    ),
}  # fmt: skip


def random_layer(**options) -> MoELayer:
    """In evaluation mode, all weights and the bias random."""
    layer = MoELayer(MoEConfig(**(_OURS | options))).eval()
    layer.config._experts_implementation = "eager"
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return layer


def random_hidden() -> torch.Tensor:
    return torch.randn(3, 7, HIDDEN, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NATIVE)
def test_output_and_gradients_equal_the_native_layers(name: str) -> None:
    options, native_class, native_config = NATIVE[name]
    native_config._experts_implementation = "eager"
    ours, native = random_layer(**options), native_class(native_config)
    native.load_state_dict(ours.state_dict())  # strict: the names are the same
    hidden = [random_hidden().requires_grad_() for _ in range(2)]
    outputs = ours(hidden[0]), native(hidden[1])
    torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)
    for output in outputs:
        output.square().mean().backward()
    torch.testing.assert_close(hidden[0].grad, hidden[1].grad, rtol=1e-5, atol=1e-5)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, native.get_parameter(name).grad, rtol=1e-5, atol=1e-5)


def test_shared_experts_add_to_the_routed_ones() -> None:
    layer = random_layer(topk_method="greedy", n_shared_experts=2)
    hidden = random_hidden()
    routing = layer.gate(hidden.flatten(0, 1))
    routed = layer.experts(hidden.flatten(0, 1), routing.indices, routing.weights).view_as(hidden)
    torch.testing.assert_close(layer(hidden) - routed, layer.shared_experts(hidden))
    # Two of width I side by side are one of width 2 I.
    gate, up, down = (getattr(layer.shared_experts, name).weight for name in ("gate_proj", "up_proj", "down_proj"))
    halves = [slice(0, WIDTH), slice(WIDTH, None)]
    apart = [(torch.nn.functional.silu(hidden @ gate[h].T) * (hidden @ up[h].T)) @ down[:, h].T for h in halves]
    torch.testing.assert_close(layer.shared_experts(hidden), sum(apart))


def test_a_dropped_token_passes_by_the_residual_alone() -> None:
    layer = random_layer(
        topk_method="switch", num_experts_per_tok=1, drop_policy="capacity", capacity_factor_train=0.5
    ).train()
    output = layer(random_hidden()).flatten(0, 1)
    dropped = layer.last.weights[:, 0] == 0
    # Each expert takes ceil(21 / 8 / 2) = 2 of 21 tokens.
    load = layer.last.indices.flatten().bincount(minlength=EXPERTS)
    assert dropped.sum() == (load - 2).clamp(min=0).sum() > 0
    assert not output[dropped].any()
    assert output[~dropped].any(dim=1).all()


def test_capacity_holds_in_training_and_where_evaluation_has_its_own() -> None:
    options = {"topk_method": "greedy", "drop_policy": "capacity", "capacity_factor_train": 0.5}
    hidden = random_hidden()
    free = random_layer(topk_method="greedy")(hidden)
    layer = random_layer(**options)
    assert torch.equal(layer(hidden), free)
    layer.train()
    assert not torch.equal(layer(hidden), free)
    set_exact_routing(layer, True)
    assert torch.equal(layer(hidden), free)
    tight = random_layer(**options, capacity_factor_eval=0.25)
    assert not torch.equal(tight(hidden), free)
    set_exact_routing(tight, True)
    assert torch.equal(tight(hidden), free)


@pytest.mark.parametrize(
    "options",
    [
        {"topk_method": "noisy_topk"},
        {"topk_method": "top2_random"},
        {"topk_method": "switch", "num_experts_per_tok": 1, "router_jitter_noise": 0.3},
    ],
)
def test_exact_training_computes_what_evaluation_does(options: dict) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(random_layer(**options), random_layer(**options))
    hidden = random_hidden()
    evaluated = model(hidden)
    model.train()
    assert not torch.equal(model(hidden), evaluated)
    set_exact_routing(model, True)
    assert torch.equal(model(hidden), evaluated)
    set_exact_routing(model, False)
    assert not torch.equal(model(hidden), evaluated)
    assert moe_layers(model) == list(model)


def test_jitter_reaches_the_router_and_not_the_experts() -> None:
    layer = random_layer(topk_method="switch", num_experts_per_tok=1, router_jitter_noise=0.3).train()
    hidden = random_hidden()
    output = layer(hidden)
    routing = layer.last
    wanted = layer.experts(hidden.flatten(0, 1), routing.indices, routing.weights)
    torch.testing.assert_close(output.flatten(0, 1), wanted)


def test_routing_is_kept_while_recording() -> None:
    layer = random_layer(topk_method="greedy").train()
    layer(random_hidden())
    kept = layer.last
    assert kept.logits.shape == (21, EXPERTS)
    assert kept.weights.requires_grad
    layer.recording = False
    layer(random_hidden())
    assert layer.last is kept


def test_every_parameter_has_a_gradient_though_no_token_reaches_an_expert() -> None:
    layer = random_layer(topk_method="greedy", n_shared_experts=1).train()
    with torch.no_grad():
        layer.gate.weight.copy_(torch.arange(EXPERTS)[:, None].expand(-1, HIDDEN))
    layer(random_hidden().abs()).sum().backward()  # all tokens go to experts 6 and 7
    assert not layer.experts.gate_up_proj.grad[:6].any()
    assert layer.experts.gate_up_proj.grad[6:].flatten(1).any(dim=1).all()
    assert all(parameter.grad is not None for parameter in layer.parameters())

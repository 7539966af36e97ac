"""Experts compute each token's K networks, by every implementation, with a gradient for all of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import MixtralConfig
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from rlzero.models.config import MoEConfig
from rlzero.models.experts import GatedExperts, PlainExperts, make_experts, make_mlp

HIDDEN, WIDTH, EXPERTS, TOKENS, TOP_K = 16, 24, 6, 30, 2
IMPLEMENTATIONS = ["eager", "grouped_mm", "batched_mm"]


def make_config(implementation: str = "eager", **changes) -> MoEConfig:
    config = MoEConfig(hidden_size=HIDDEN, moe_intermediate_size=WIDTH, n_routed_experts=EXPERTS, **changes)
    config._experts_implementation = implementation
    return config


def random_experts(config: MoEConfig) -> GatedExperts | PlainExperts:
    torch.manual_seed(0)
    experts = make_experts(config)
    experts.initialize(0.3)
    return experts


def random_routing(tokens: int = TOKENS, top_k: int = TOP_K, experts: int = EXPERTS):
    """(hidden [T, D], indices [T, K], weights [T, K]); no token goes to the last expert unless all do."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(tokens, HIDDEN, generator=generator)
    choices = torch.rand(tokens, experts, generator=generator)
    if top_k < experts:
        choices[:, -1] = -1
    indices = choices.topk(top_k).indices
    return hidden, indices, torch.rand(tokens, top_k, generator=generator)


def one_by_one(experts, hidden: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ_k weight · down(act(up x)), a token and an expert at a time."""
    rows = []
    for token, x in enumerate(hidden):
        total = torch.zeros(HIDDEN, dtype=hidden.dtype)
        for expert, weight in zip(indices[token].tolist(), weights[token], strict=True):
            if isinstance(experts, GatedExperts):
                gate, up = experts.gate_up_proj[expert, :WIDTH] @ x, experts.gate_up_proj[expert, WIDTH:] @ x
                inner = F.silu(gate) * up
            else:
                inner = F.relu(experts.up_proj[expert] @ x)
            total = total + weight * (experts.down_proj[expert] @ inner)
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("top_k", [1, TOP_K, EXPERTS])
@pytest.mark.parametrize("gated", [True, False])
def test_output_and_gradients_equal_a_token_at_a_time(gated: bool, top_k: int, implementation: str) -> None:
    config = make_config(implementation, gated_mlp=gated, hidden_act="silu" if gated else "relu")
    experts = random_experts(config)
    hidden, indices, weights = random_routing(top_k=top_k)
    inputs = [hidden.requires_grad_(), weights.requires_grad_(), *experts.parameters()]
    found = experts(hidden, indices, weights)
    wanted = one_by_one(experts, hidden, indices, weights)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    direction = torch.linspace(-1, 1, found.numel()).view_as(found)
    for mine, reference in zip(
        torch.autograd.grad((found * direction).sum(), inputs),
        torch.autograd.grad((wanted * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_output_equals_that_of_mixtrals_experts(implementation: str) -> None:
    ours = random_experts(make_config(implementation))
    native_config = MixtralConfig(hidden_size=HIDDEN, intermediate_size=WIDTH, num_local_experts=EXPERTS)
    native_config._experts_implementation = implementation
    native = MixtralExperts(native_config)
    native.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(*random_routing()), native(*random_routing()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("gated", [True, False])
def test_an_expert_without_tokens_gets_a_gradient_of_zero(gated: bool, implementation: str) -> None:
    experts = random_experts(make_config(implementation, gated_mlp=gated))
    experts(*random_routing()).square().sum().backward()
    for parameter in experts.parameters():
        assert parameter.grad is not None
        assert not parameter.grad[-1].any()
        assert parameter.grad[:-1].flatten(1).any(dim=1).all()


def test_a_batch_without_tokens_leaves_no_gradient_out() -> None:
    experts = random_experts(make_config())
    output = experts(*random_routing(tokens=0))
    assert output.shape == (0, HIDDEN)
    output.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in experts.parameters())


@pytest.mark.parametrize("gated", [True, False])
def test_gradients_equal_finite_differences(gated: bool) -> None:
    experts = random_experts(make_config(gated_mlp=gated)).double()
    hidden, indices, weights = random_routing(tokens=3)

    def output(hidden: torch.Tensor, weights: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(experts.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(experts, named, (hidden, indices, weights))

    parameters = [parameter.detach().clone().requires_grad_() for parameter in experts.parameters()]
    inputs = (hidden.double().requires_grad_(), weights.double().requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(output, inputs, fast_mode=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_assignment_of_weight_zero_counts_for_nothing(implementation: str) -> None:
    experts = random_experts(make_config(implementation))
    hidden, indices, weights = random_routing()
    weights[:10, 1] = 0
    found = experts(hidden, indices, weights)
    torch.testing.assert_close(found[:10], experts(hidden[:10], indices[:10, :1], weights[:10, :1]))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_bfloat16_model_sums_in_the_gates_precision(implementation: str) -> None:
    experts = random_experts(make_config(implementation)).bfloat16()
    hidden, indices, weights = random_routing()
    found = experts(hidden.bfloat16(), indices, weights)
    assert found.dtype == torch.bfloat16
    wide = one_by_one(experts.float(), hidden.bfloat16().float(), indices, weights)
    torch.testing.assert_close(found.float(), wide, rtol=0.03, atol=0.03)


def test_a_gated_network_is_llamas() -> None:
    torch.manual_seed(0)
    config = make_config()
    config.mlp_bias = False  # LlamaMLP asks for it
    ours, native = make_mlp(config, config.intermediate_size), LlamaMLP(config)
    native.load_state_dict(ours.state_dict())
    hidden = torch.randn(2, 5, HIDDEN)
    assert torch.equal(ours(hidden), native(hidden))


def test_a_plain_network_has_two_matrices() -> None:
    torch.manual_seed(0)
    network = make_mlp(make_config(gated_mlp=False, hidden_act="relu"), WIDTH)
    hidden = torch.randn(2, 5, HIDDEN)
    assert [tuple(parameter.shape) for parameter in network.parameters()] == [(WIDTH, HIDDEN), (HIDDEN, WIDTH)]
    wanted = (hidden @ network.up_proj.weight.T).relu() @ network.down_proj.weight.T
    torch.testing.assert_close(network(hidden), wanted)

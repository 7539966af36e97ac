"""Routers compute what their paper says: against transformers' own where it has one, and against the equations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DeepseekV2Config, DeepseekV3Config, MixtralConfig, Qwen3MoeConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from rlzero.models.config import MoEConfig
from rlzero.models.router import ROUTERS, NoisyRouting, Router, Routing, make_router

HIDDEN, EXPERTS, TOKENS = 16, 8, 40
K_OF = {"dense": EXPERTS, "top2_random": 2, "switch": 1}
# Kinds in which chance acts in training, with what makes it act.
RANDOM = {"noisy_topk": {}, "top2_random": {}, "switch": {"router_jitter_noise": 0.3}}
SUM_TO_ONE = ("dense", "noisy_topk", "top2_random", "topk_softmax")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make_config(topk_method: str, **changes) -> MoEConfig:
    options = {"n_group": 4, "topk_group": 2, "num_experts_per_tok": K_OF.get(topk_method, 3)} | changes
    return MoEConfig(hidden_size=HIDDEN, n_routed_experts=EXPERTS, topk_method=topk_method, **options)


def random_router(topk_method: str, seed: int = 0, **changes) -> Router:
    """In evaluation mode, with a random weight, and random bias and noise where there is one."""
    router = make_router(make_config(topk_method, **changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in router.state_dict().values():
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
    return router


def random_tokens(count: int = TOKENS, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(seed))


def gates(routing: Routing) -> torch.Tensor:
    """[T, E], 0 where an expert was not chosen."""
    return torch.zeros_like(routing.scores).scatter(1, routing.indices, routing.weights)


_NATIVE = {"hidden_size": HIDDEN, "num_experts_per_tok": 3, "num_attention_heads": 4}
_DEEPSEEK = _NATIVE | {"n_routed_experts": EXPERTS, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}
_V2 = {"routed_scaling_factor": 2.5}
_QWEN = _NATIVE | {"num_experts": EXPERTS}
NATIVE = {
    "mixtral": ("topk_softmax", {}, MixtralTopKRouter, MixtralConfig(**_NATIVE, num_local_experts=EXPERTS)),
    "qwen3_moe": ("greedy", {}, Qwen3MoeTopKRouter, Qwen3MoeConfig(**_QWEN, norm_topk_prob=False)),
    "qwen3_moe renormalised": (
        "greedy", {"norm_topk_prob": True}, Qwen3MoeTopKRouter, Qwen3MoeConfig(**_QWEN, norm_topk_prob=True),
    ),
    **{
        f"deepseek_v2 {method}": (method, _V2, DeepseekV2TopkRouter, DeepseekV2Config(**_DEEPSEEK, topk_method=method))
        for method in ("greedy", "group_limited_greedy")
    },
    **{
        f"deepseek_v3 {norm}": (
            "noaux_tc", _V2 | {"norm_topk_prob": norm},
            DeepseekV3TopkRouter, DeepseekV3Config(**_DEEPSEEK, norm_topk_prob=norm),
        )
        for norm in (True, False)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NATIVE)
def test_routing_equals_that_of_the_native_class(name: str) -> None:
    method, options, native_class, native_config = NATIVE[name]
    ours, native = random_router(method, **options), native_class(native_config)
    native.load_state_dict(ours.state_dict())  # strict: the names are the same
    tokens = random_tokens()
    logits, weights, indices = native(tokens)
    routing = ours(tokens)
    torch.testing.assert_close(routing.logits, logits, rtol=0, atol=0)
    torch.testing.assert_close(gates(routing), torch.zeros_like(logits).scatter(1, indices, weights), rtol=1e-6, atol=0)


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def best(values: list[float], count: int) -> list[int]:
    return sorted(range(len(values)), key=lambda i: -values[i])[:count]


def best_in_groups(values: list[float], group_score) -> list[int]:
    """The three best experts in the two best groups of two."""
    groups = [values[2 * group : 2 * group + 2] for group in range(4)]
    reached = best([group_score(group) for group in groups], 2)
    return sorted((i for i in range(EXPERTS) if i // 2 in reached), key=lambda i: -values[i])[:3]


def literal_gates(method: str, logits: list[float], bias: list[float]) -> dict[int, float]:
    """Expert -> gate of one token, as the equations read, without any chance."""
    scores = softmax(logits)
    match method:
        case "dense":
            return dict(enumerate(scores))
        case "noisy_topk" | "topk_softmax":
            chosen = best(logits, 3)
            return dict(zip(chosen, softmax([logits[i] for i in chosen]), strict=True))
        case "top2_random":
            first, second = best(scores, 2)
            return {i: scores[i] / (scores[first] + scores[second]) for i in (first, second)}
        case "switch" | "greedy":
            chosen = best(scores, K_OF.get(method, 3))
        case "group_limited_greedy":
            chosen = best_in_groups(scores, max)
        case "noaux_tc":
            scores = [1 / (1 + math.exp(-value)) for value in logits]
            chosen = best_in_groups([s + b for s, b in zip(scores, bias, strict=True)], sum)
            total = sum(scores[i] for i in chosen)
            return {i: 2.5 * scores[i] / total for i in chosen}
    return {i: scores[i] for i in chosen}


@pytest.mark.parametrize("method", ROUTERS)
def test_gates_equal_the_equations_written_out(method: str) -> None:
    options = {"norm_topk_prob": True, "routed_scaling_factor": 2.5} if method == "noaux_tc" else {}
    router = random_router(method, **options).double()
    tokens = random_tokens().double()
    logits = (tokens @ router.weight.T).tolist()
    bias = router.e_score_correction_bias.tolist() if method == "noaux_tc" else [0.0] * EXPERTS
    routing = router(tokens)
    for token in range(TOKENS):
        found = dict(zip(routing.indices[token].tolist(), routing.weights[token].tolist(), strict=True))
        wanted = literal_gates(method, logits[token], bias)
        assert list(found) == list(wanted)  # in order of choice
        assert found == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("method", ROUTERS)
def test_gradients_of_the_gates_equal_finite_differences(method: str) -> None:
    router = random_router(method).double()
    tokens = random_tokens(5).double().requires_grad_()

    def weights(hidden: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(router.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(router, named, (hidden,)).weights

    parameters = [parameter.detach().clone().requires_grad_() for parameter in router.parameters()]
    assert torch.autograd.gradcheck(weights, (tokens, *parameters))


@settings(max_examples=30, deadline=None)
@given(method=st.sampled_from(list(ROUTERS)), seed=st.integers(0, 10**6), size=st.sampled_from([0.1, 1.0, 300.0]))
def test_k_different_experts_in_few_groups_and_gates_of_at_most_one(method: str, seed: int, size: float) -> None:
    router = random_router(method, seed)
    # 300: affinities underflow to 0, and ties must not lead out of the groups.
    routing = router(size * random_tokens(seed=seed))
    ordered = routing.indices.sort(dim=-1).values
    assert (ordered[:, 1:] > ordered[:, :-1]).all()
    assert routing.weights.min() >= 0
    assert routing.weights.sum(dim=-1).max() <= (3 if method == "noaux_tc" else 1 + 1e-6)
    if method in SUM_TO_ONE:
        torch.testing.assert_close(routing.weights.sum(dim=-1), torch.ones(TOKENS))
    if method in ("group_limited_greedy", "noaux_tc"):
        assert all(len(set(row)) <= 2 for row in (routing.indices // 2).tolist())


@pytest.mark.parametrize("method", ROUTERS)
def test_exact_routing_in_training_is_that_of_evaluation(method: str) -> None:
    router = random_router(method, **RANDOM.get(method, {}))
    tokens = random_tokens()
    evaluated = router(tokens)
    router.train()
    trained = [router(tokens) for _ in range(2)]
    if method in RANDOM:
        assert not torch.equal(gates(trained[0]), gates(trained[1]))
        assert not torch.equal(gates(trained[0]), gates(evaluated))
    router.exact = True
    assert torch.equal(gates(router(tokens)), gates(evaluated))


def test_noise_is_normal_with_the_learned_scale() -> None:
    router = random_router("noisy_topk").train()
    tokens = random_tokens(4000)
    routing = router(tokens)
    assert isinstance(routing, NoisyRouting)
    torch.testing.assert_close(routing.noise_scale, F.softplus(tokens @ router.noise_weight.T))
    noise = ((routing.logits - routing.clean) / routing.noise_scale).detach()
    assert noise.mean().abs() < 0.03
    assert noise.std() == pytest.approx(1, abs=0.03)
    assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 0.1  # drawn for each expert


def test_noisy_router_starts_with_equal_load() -> None:
    router = random_router("noisy_topk").train()
    router.initialize(0.02)
    assert not router.weight.any()
    assert not router.noise_weight.any()
    load = router(random_tokens(4000)).indices.flatten().bincount(minlength=EXPERTS) / 4000
    torch.testing.assert_close(load, torch.full((EXPERTS,), 3 / EXPERTS), rtol=0.1, atol=0)


def test_noise_weight_has_a_gradient_without_noise() -> None:
    router = random_router("noisy_topk").train()
    router.exact = True
    router(random_tokens()).weights[:, 0].sum().backward()
    assert router.noise_weight.grad is not None
    assert not router.noise_weight.grad.any()


def test_second_expert_is_used_with_twice_its_gate_as_chance() -> None:
    router = random_router("top2_random").train()
    tokens = random_tokens(1).expand(5000, -1)
    router.exact = True
    first, second = router(tokens).weights[0].tolist()
    router.exact = False
    weights = router(tokens).weights
    assert weights[:, 0].unique().tolist() == pytest.approx([first])
    assert weights[:, 1].unique().tolist() == pytest.approx([0, second])
    assert (weights[:, 1] > 0).float().mean() == pytest.approx(2 * second, abs=0.03)


def test_jitter_multiplies_the_routers_input() -> None:
    router = random_router("switch", router_jitter_noise=0.1).train()
    with torch.no_grad():
        router.weight.copy_(torch.eye(EXPERTS, HIDDEN))  # logits are the input's first components
    tokens = torch.full((500, HIDDEN), 2.0)
    ratio = router(tokens).logits / 2
    assert 0.9 <= ratio.min() < 0.905
    assert 1.095 < ratio.max() <= 1.1


@pytest.mark.parametrize("method", ["topk_softmax", "noaux_tc", "noisy_topk"])
def test_bfloat16_models_route_in_float32(method: str) -> None:
    router, tokens = random_router(method).bfloat16(), random_tokens().bfloat16()
    wide = random_router(method)
    wide.load_state_dict({name: value.float() for name, value in router.state_dict().items()})
    for routing in (router(tokens), torch.autocast("cpu", dtype=torch.bfloat16)(wide)(tokens.float())):
        assert routing.logits.dtype == routing.weights.dtype == torch.float32
        assert torch.equal(gates(routing), gates(wide(tokens.float())))


@pytest.mark.parametrize("method", ROUTERS)
def test_replaying_the_own_choice_changes_nothing(method: str) -> None:
    router = random_router(method)
    routing = router(random_tokens())
    replayed = router.reroute(routing, routing.indices)
    assert type(replayed) is type(routing)
    assert torch.equal(replayed.weights, routing.weights)


@pytest.mark.parametrize("method", [method for method in ROUTERS if method != "dense"])
def test_a_replayed_choice_is_used_and_weighed_with_gradient(method: str) -> None:
    router = random_router(method)
    tokens = random_tokens()
    routing = router(tokens)
    forced = (routing.indices + 1) % EXPERTS
    forced[3:7, 0] = -1
    replayed = router.reroute(routing, forced)
    assert torch.equal(replayed.indices[3:7], routing.indices[3:7])
    assert torch.equal(replayed.indices[7:], forced[7:])
    scores = (tokens @ router.weight.T).sigmoid() if method == "noaux_tc" else (tokens @ router.weight.T).softmax(-1)
    wanted = scores.gather(1, replayed.indices)
    if method in SUM_TO_ONE:
        wanted = wanted / wanted.sum(-1, keepdim=True)
    torch.testing.assert_close(replayed.weights, wanted)
    mixture = torch.linspace(0, 1, wanted.numel()).view_as(wanted)
    found = torch.autograd.grad((replayed.weights * mixture).sum(), router.weight, retain_graph=True)[0]
    torch.testing.assert_close(found, torch.autograd.grad((wanted * mixture).sum(), router.weight)[0])
    assert found.abs().max() > 0


def test_a_replay_of_other_tokens_is_refused() -> None:
    router = random_router("greedy")
    routing = router(random_tokens())
    with pytest.raises(ValueError, match=r"3 experts for each of 40 tokens, got shape \(40, 2\)"):
        router.reroute(routing, routing.indices[:, :2])


def test_the_bias_chooses_and_does_not_weigh() -> None:
    router = random_router("noaux_tc", n_group=1, topk_group=1)
    assert "e_score_correction_bias" in router.state_dict()
    assert router.e_score_correction_bias.dtype == torch.float32
    with torch.no_grad():
        router.e_score_correction_bias.zero_()[5] = 10
    routing = router(random_tokens())
    assert (routing.indices[:, 0] == 5).all()
    torch.testing.assert_close(routing.weights[:, 0], routing.logits[:, 5].sigmoid())
    router.initialize(0.02)
    assert not router.e_score_correction_bias.any()
    assert router.weight.detach().std() == pytest.approx(0.02, rel=0.3)

"""What does not fit is left out: in the published order, and never more of it than must be."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzero.models.capacity import capacity, drop
from rlzero.models.config import MoEConfig
from rlzero.models.router import Routing

EXPERTS, GROUPS = 8, 4


def make_config(policy: str, experts: int = EXPERTS, groups: int = GROUPS, top_k: int = 2) -> MoEConfig:
    return MoEConfig(
        n_routed_experts=experts,
        n_group=groups,
        num_experts_per_tok=top_k,
        drop_policy=policy,
        capacity_factor_train=1.0,
    )


def make_routing(indices: list[list[int]], scores: torch.Tensor, weights: list[list[float]] | None = None) -> Routing:
    chosen = torch.tensor(indices)
    gates = scores.gather(1, chosen) if weights is None else torch.tensor(weights)
    return Routing(scores.log(), scores, chosen, gates)


def random_routing(seed: int, tokens: int, top_k: int) -> Routing:
    scores = (2 * torch.randn(tokens, EXPERTS, generator=torch.Generator().manual_seed(seed))).softmax(-1)
    return make_routing(scores.topk(top_k).indices.tolist(), scores)


def test_gshard_serves_all_first_choices_before_any_second_one() -> None:
    scores = torch.full((4, 2), 0.5)
    routing = make_routing([[0, 1], [0, 1], [0, 1], [1, 0]], scores)
    # C = 4 · 2 / 2 · 0.75 = 3: expert 0 is filled by three first choices, so token 3 loses its second; expert 1
    # serves token 3's first choice, then tokens 0 and 1.
    kept = drop(routing, make_config("capacity", experts=2, groups=1), 0.75).weights > 0
    assert kept.tolist() == [[True, True], [True, True], [True, False], [True, False]]


def test_switch_serves_tokens_in_their_order() -> None:
    routing = make_routing([[0], [1], [0], [0], [1]], torch.full((5, 2), 0.5))
    kept = drop(routing, make_config("capacity", experts=2, groups=1, top_k=1), 0.8).weights > 0
    assert kept[:, 0].tolist() == [True, True, True, False, True]


def test_a_second_expert_left_out_by_chance_takes_no_place() -> None:
    routing = make_routing([[1, 0], [1, 0]], torch.full((2, 2), 0.5), weights=[[0.5, 0.0], [0.5, 0.5]])
    config = make_config("capacity", experts=2, groups=1)
    assert drop(routing, config, 0.5).weights.tolist() == [[0.5, 0.0], [0.0, 0.5]]


def test_a_device_keeps_the_assignments_of_highest_affinity() -> None:
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.15, 0.05], [0.1, 0.5, 0.3, 0.1]])
    routing = make_routing([[0, 1], [0, 2], [1, 2]], scores)
    # Budget: 3 · 2 / 2 = 3 on each of two devices. The first has 0.7, 0.5, 0.4 and 0.3, and loses the last.
    kept = drop(routing, make_config("device", experts=4, groups=2), 1.0).weights > 0
    assert kept.tolist() == [[True, False], [True, True], [True, True]]


def test_capacity_is_rounded_up() -> None:
    assert [capacity(*arguments) for arguments in [(21, 8, 1.0), (16, 8, 1.25), (8, 8, 0.1)]] == [3, 3, 1]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 40),
    top_k=st.integers(1, 3),
    factor=st.sampled_from([0.3, 1.0, 1.25]),
)
def test_no_expert_exceeds_its_capacity_and_nobody_is_dropped_needlessly(
    seed: int, tokens: int, top_k: int, factor: float
) -> None:
    routing = random_routing(seed, tokens, top_k)
    weights = drop(routing, make_config("capacity", top_k=top_k), factor).weights
    assert torch.equal(weights[weights > 0], routing.weights[weights > 0])
    free = [math.ceil(tokens * top_k / EXPERTS * factor)] * EXPERTS
    for choice in range(top_k):
        for token in range(tokens):
            expert = int(routing.indices[token, choice])
            assert bool(weights[token, choice] > 0) == (free[expert] > 0)
            free[expert] = max(free[expert] - 1, 0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 40),
    top_k=st.integers(1, 3),
    factor=st.sampled_from([0.3, 1.0, 1.25]),
)
def test_a_device_drops_only_above_its_budget_and_the_lowest(seed: int, tokens: int, top_k: int, factor: float) -> None:
    routing = random_routing(seed, tokens, top_k)
    kept = drop(routing, make_config("device", top_k=top_k), factor).weights > 0
    budget = math.ceil(tokens * top_k / GROUPS * factor)
    devices, affinity = routing.indices // (EXPERTS // GROUPS), routing.scores.gather(1, routing.indices)
    wanted = Counter(devices.flatten().tolist())
    for device in range(GROUPS):
        here = devices == device
        assert (here & kept).sum() == min(wanted[device], budget)
        if (here & ~kept).any():
            assert affinity[here & ~kept].max() <= affinity[here & kept].min()


def test_a_dropped_assignment_gives_the_router_no_gradient() -> None:
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    scores = logits.softmax(-1)
    indices = torch.zeros(6, 1, dtype=torch.int64)
    routing = Routing(logits, scores, indices, scores.gather(1, indices))
    drop(routing, make_config("capacity", experts=2, groups=1, top_k=1), 1.0).weights.sum().backward()
    assert logits.grad[:3].any(dim=1).all()
    assert not logits.grad[3:].any()


@pytest.mark.parametrize("policy", ["capacity", "device"])
def test_an_even_load_fits_at_factor_one(policy: str) -> None:
    # 20 assignments: 5 for each of 4 devices, and 2 or 3 for each of 8 experts.
    indices = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7]).repeat(3)[:20].view(10, 2)
    routing = make_routing(indices.tolist(), torch.full((10, EXPERTS), 1 / EXPERTS))
    assert torch.equal(drop(routing, make_config(policy), 1.0).weights, routing.weights)

"""Each balance loss is the published one."""

from __future__ import annotations

import math

import pytest
import torch

from rlzero.models.balance import BALANCE, balance_loss, competitive_loss
from rlzero.models.config import MoEConfig
from rlzero.models.router import NoisyRouting, Routing, make_router

HIDDEN, EXPERTS, GROUPS, REACHED, TOP_K, TOKENS = 16, 8, 4, 2, 3, 24
METHOD = {"load": "noisy_topk", "importance": "noisy_topk", "sequence": "noaux_tc", "gshard": "greedy"}


def make_config(experts: int = EXPERTS, groups: int = GROUPS, reached: int = REACHED, top_k: int = TOP_K) -> MoEConfig:
    return MoEConfig(
        hidden_size=HIDDEN, n_routed_experts=experts, n_group=groups, topk_group=reached, num_experts_per_tok=top_k
    )


def random_routing(name: str, seed: int = 0, tokens: int = TOKENS) -> Routing:
    """Of a random router in float64 that suits this loss, with gradient to its weight."""
    torch.manual_seed(seed)
    config = make_config()
    config.topk_method = METHOD.get(name, "group_limited_greedy")
    router = make_router(config).double()
    with torch.no_grad():
        for tensor in router.state_dict().values():
            tensor.copy_(0.5 * torch.randn_like(tensor))
    return router(torch.randn(tokens, HIDDEN, dtype=torch.float64))


def value(name: str, routing: Routing, **options) -> torch.Tensor:
    return BALANCE[name](routing, make_config(), **options)


def take(routing: Routing, rows: list[int]) -> Routing:
    return type(routing)(**{field: tensor[rows] for field, tensor in vars(routing).items()})


# Two tokens, four experts (two devices of two), the two best chosen, affinities that are easy to add up.
SCORES = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.5, 0.1, 0.3, 0.1]], dtype=torch.float64)
CHOSEN = torch.tensor([[0, 1], [0, 2]])
BY_HAND = {
    # Σ gates = (0.9, 0.3, 0.3, 0): mean 0.375, variance (0.525² + 2 · 0.075² + 0.375²) / 4 = 0.106875.
    "importance": 0.106875 / 0.375**2,
    # First choices: both expert 0, of mean affinity 0.45. 1/4 · 1 · 0.45.
    "gshard": 0.1125,
    # f = (1, ½, ½, 0), P = (0.45, 0.2, 0.25, 0.1): 4 · (0.45 + 0.1 + 0.125).
    "switch": 2.7,
    # The same over K = 2.
    "expert": 1.35,
    # f = (2, 1, 1, 0); devices: f' = (1.5, 0.5), P' = (0.65, 0.35).
    "device": 1.15,
    # Sent to device: (2, 1) of 2 tokens, times G/M = 2/1: f'' = (2, 1).
    "communication": 1.65,
    # Affinities sum to 1 and the choice is that of the highest: as "expert".
    "sequence": 1.35,
    # Logits log s: log Σ exp = log 1.
    "z": 0.0,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_loss_equals_a_value_computed_by_hand(name: str) -> None:
    routing = Routing(SCORES.log(), SCORES, CHOSEN, SCORES.gather(1, CHOSEN))
    found = BALANCE[name](routing, make_config(experts=4, groups=2, reached=1, top_k=2))
    assert found.item() == pytest.approx(BY_HAND[name], abs=1e-12)


def test_load_loss_equals_a_value_computed_by_hand() -> None:
    # One token, three experts, two chosen, noise of scale 1 that happened to be 0: logits 2, 1, 0.
    logits = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    routing = NoisyRouting(logits, logits.softmax(-1), torch.tensor([[0, 1]]), logits[:, :2], logits, logits * 0 + 1)
    # Without it, the second best is 0, 0 and 1: P = Φ(2), Φ(1), Φ(-1).
    chances = [0.9772498681, 0.8413447461, 0.1586552539]
    mean = sum(chances) / 3
    wanted = sum((chance - mean) ** 2 for chance in chances) / 3 / mean**2
    found = BALANCE["load"](routing, make_config(experts=3, groups=1, reached=1, top_k=2))
    assert found.item() == pytest.approx(wanted, abs=1e-9)


def test_z_loss_equals_a_value_computed_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    routing = Routing(logits, logits.softmax(-1), torch.tensor([[0], [0]]), torch.ones(2, 1))
    found = BALANCE["z"](routing, make_config(experts=2, groups=1, reached=1, top_k=1))
    assert found.item() == pytest.approx((math.log(2) ** 2 + math.log(4) ** 2) / 2)


def literal(name: str, routing: Routing) -> float:
    """The loss of one sequence, as its equation reads, token by token."""
    scores, chosen, weights = routing.scores.tolist(), routing.indices.tolist(), routing.weights.tolist()
    logits, count, experts = routing.logits.tolist(), len(routing.scores), range(EXPERTS)
    affinity = [sum(row[i] for row in scores) / count for i in experts]
    frequency = [EXPERTS / (TOP_K * count) * sum(i in row for row in chosen) for i in experts]
    device_of = [i // (EXPERTS // GROUPS) for i in experts]
    members = [[i for i in experts if device_of[i] == d] for d in range(GROUPS)]

    def squared_variation(values: list[float]) -> float:
        mean = sum(values) / EXPERTS
        return sum((value - mean) ** 2 for value in values) / EXPERTS / mean**2

    match name:
        case "importance":
            gates = [dict(zip(row, gate, strict=True)) for row, gate in zip(chosen, weights, strict=True)]
            return squared_variation([sum(gate.get(i, 0) for gate in gates) for i in experts])
        case "load":
            totals = [0.0] * EXPERTS
            clean, scale = routing.clean.tolist(), routing.noise_scale.tolist()
            for t, row in enumerate(logits):
                for i in experts:
                    threshold = sorted(row[:i] + row[i + 1 :], reverse=True)[TOP_K - 1]
                    totals[i] += 0.5 * (1 + math.erf((clean[t][i] - threshold) / scale[t][i] / math.sqrt(2)))
            return squared_variation(totals)
        case "gshard":
            return sum(sum(row[0] == i for row in chosen) / count * affinity[i] for i in experts) / EXPERTS
        case "switch":
            return EXPERTS * sum(sum(i in row for row in chosen) / count * affinity[i] for i in experts)
        case "expert":
            return sum(f * p for f, p in zip(frequency, affinity, strict=True))
        case "device":
            return sum(sum(frequency[i] for i in ids) / len(ids) * sum(affinity[i] for i in ids) for ids in members)
        case "communication":
            total = 0.0
            for d, ids in enumerate(members):
                sent = sum(any(device_of[i] == d for i in row) for row in chosen)
                total += GROUPS / (REACHED * count) * sent * sum(affinity[i] for i in ids)
            return total
        case "sequence":
            highest = [sorted(experts, key=lambda i, row=row: -row[i])[:TOP_K] for row in scores]
            frequency = [EXPERTS / (TOP_K * count) * sum(i in row for row in highest) for i in experts]
            normal = [sum(row[i] / sum(row) for row in scores) / count for i in experts]
            return sum(f * p for f, p in zip(frequency, normal, strict=True))
        case "z":
            return sum(math.log(sum(map(math.exp, row))) ** 2 for row in logits) / count
    raise AssertionError(name)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", BALANCE)
def test_loss_equals_its_equation_written_out(name: str, seed: int) -> None:
    routing = random_routing(name, seed)
    assert value(name, routing).item() == pytest.approx(literal(name, routing), rel=1e-10)


@pytest.mark.parametrize("name", BALANCE)
def test_padding_does_not_change_a_loss(name: str) -> None:
    routing = random_routing(name)
    counts = torch.arange(TOKENS) % 3 != 0
    kept = take(routing, counts.nonzero()[:, 0].tolist())
    torch.testing.assert_close(value(name, routing, mask_T=counts), value(name, kept))
    assert value(name, routing, mask_T=torch.zeros(TOKENS, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("name", ["expert", "device", "communication", "sequence"])
def test_a_loss_of_sequences_is_the_mean_of_each_alone(name: str) -> None:
    routing = random_routing(name)
    # Three sequences of unequal length, interleaved; the last token of each is padding.
    members = [[0, 3, 4, 9, 20], [1, 2, 5, 6, 7, 8, 10, 11], [*range(12, 20), 21, 22, 23]]
    sequence, mask = torch.empty(TOKENS, dtype=torch.int64), torch.ones(TOKENS, dtype=torch.bool)
    for number, tokens in zip((5, 0, 17), members, strict=True):
        sequence[tokens] = number
        mask[tokens[-1]] = False
    alone = [value(name, take(routing, tokens[:-1])) for tokens in members]
    found = value(name, routing, mask_T=mask, sequence_T=sequence)
    torch.testing.assert_close(found, torch.stack(alone).mean())
    assert not torch.isclose(found, value(name, routing, mask_T=mask))


@pytest.mark.parametrize("name", BALANCE)
def test_gradient_equals_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    sequence = torch.arange(TOKENS) // 8
    weight, noise = 0.3 * torch.randn(2, EXPERTS, HIDDEN, dtype=torch.float64)
    hidden = torch.randn(TOKENS, HIDDEN, dtype=torch.float64)
    config = make_config()
    config.topk_method = METHOD.get(name, "group_limited_greedy")
    router = make_router(config).double().eval()

    def loss(*parameters: torch.Tensor) -> torch.Tensor:
        named = dict(zip(["weight", "noise_weight"], parameters, strict=False))
        return value(name, torch.func.functional_call(router, named, (hidden,)), sequence_T=sequence)

    parameters = [weight, noise] if config.topk_method == "noisy_topk" else [weight]
    parameters = [parameter.clone().requires_grad_() for parameter in parameters]
    assert torch.autograd.gradcheck(loss, parameters, fast_mode=True)
    assert torch.autograd.grad(loss(*parameters), parameters[0])[0].abs().max() > 1e-4


def test_load_counts_the_chance_that_noise_chooses_an_expert() -> None:
    torch.manual_seed(0)
    draws, clean, scale = 20000, torch.tensor([0.5, 0.0, -0.3, 0.2]), torch.tensor([0.7, 0.4, 1.0, 0.2])
    logits = clean + torch.randn(4) * scale
    config = make_config(experts=4, groups=1, reached=1, top_k=2)
    simulated = []
    for i in range(4):
        again = logits.repeat(draws, 1)
        again[:, i] = clean[i] + torch.randn(draws) * scale[i]
        simulated.append((again.topk(2).indices == i).any(dim=1).float().mean())
    load_E = torch.stack(simulated)
    routing = NoisyRouting(
        *(x[None] for x in (logits, logits.softmax(-1), logits.topk(2).indices, logits, clean, scale))
    )
    wanted = load_E.var(correction=0) / load_E.mean() ** 2
    assert BALANCE["load"](routing, config).item() == pytest.approx(wanted.item(), rel=0.05)


def test_balance_loss_adds_weighted_losses_over_layers() -> None:
    routings = [random_routing("expert", seed) for seed in (0, 1)]
    config = make_config()
    config.balance = {"expert": 0.5, "z": 0.25}
    mask = torch.arange(TOKENS) > 2
    wanted = sum(0.5 * value("expert", r, mask_T=mask) + 0.25 * value("z", r, mask_T=mask) for r in routings)
    torch.testing.assert_close(balance_loss(routings, config, mask), wanted)
    assert balance_loss([], config).item() == 0


def test_competitive_loss_equals_a_value_computed_by_hand() -> None:
    outputs = torch.tensor([[[0.0], [2.0]]], dtype=torch.float64)
    gates, target = torch.tensor([[0.25, 0.75]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    # Both are 1 away: -log(0.25 e^-½ + 0.75 e^-½) = ½, though the mixture, 1.5, is only ½ away.
    assert competitive_loss(outputs, gates, target).item() == pytest.approx(0.5)
    torch.manual_seed(0)
    outputs = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 2, dtype=torch.float64)
    total = 0.0
    for row, gate, d in zip(outputs.tolist(), logits.softmax(-1).tolist(), target.tolist(), strict=True):
        total -= math.log(sum(p * math.exp(-(math.dist(d, o) ** 2) / 2) for p, o in zip(gate, row, strict=True)))
    assert competitive_loss(outputs, logits.softmax(-1), target).item() == pytest.approx(total / 4)
    assert torch.autograd.gradcheck(lambda o, x: competitive_loss(o, x.softmax(-1), target), (outputs, logits))


def test_competition_moves_the_nearest_expert_most() -> None:
    outputs = torch.tensor([[[0.0], [3.0]]], requires_grad=True)
    competitive_loss(outputs, torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0]])).backward()
    near, far = outputs.grad.flatten().abs().tolist()
    assert near > 2 * far

"""The load is counted, a bias moves against it, and each mechanism evens the load that it is meant to even."""

from __future__ import annotations

import pytest
import torch

from rlzero.models.balance import balance_loss, count_load, load, update_bias
from rlzero.models.config import MoEConfig
from rlzero.models.moe import MoELayer
from rlzero.models.router import Routing

HIDDEN = 16
# Two tokens, four experts, the two best chosen.
SCORES = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.5, 0.1, 0.3, 0.1]], dtype=torch.float64)
CHOSEN = torch.tensor([[0, 1], [0, 2]])


def test_load_counts_choices_of_tokens_that_count() -> None:
    routing = Routing(SCORES, SCORES, CHOSEN, torch.zeros(2, 2))
    assert load(routing).tolist() == [2, 1, 1, 0]
    assert load(routing, torch.tensor([False, True])).tolist() == [1, 0, 1, 0]


def biased_layer(**options) -> MoELayer:
    config = MoEConfig(hidden_size=HIDDEN, n_routed_experts=4, num_experts_per_tok=2, topk_method="noaux_tc", **options)
    config._experts_implementation = "eager"
    layer = MoELayer(config).train()
    layer.gate.initialize(0.3)
    layer.experts.initialize(0.3)
    return layer


def test_bias_moves_against_the_counted_load() -> None:
    layer = biased_layer()
    routing = Routing(SCORES, SCORES, CHOSEN, torch.zeros(2, 2))
    layer.last = routing
    count_load([layer])
    layer.last = Routing(SCORES, SCORES, torch.tensor([[1, 3], [0, 1]]), torch.zeros(2, 2))
    count_load([layer], torch.tensor([True, False]))
    assert layer.load_E.tolist() == [2, 2, 1, 1]
    assert update_bias(layer, 0.01).tolist() == [[2, 2, 1, 1]]
    torch.testing.assert_close(layer.gate.e_score_correction_bias, torch.tensor([-0.01, -0.01, 0.01, 0.01]))
    # Counted from 0 again; an even load, and none at all, moves nothing.
    assert update_bias(layer, 0.01).tolist() == [[0, 0, 0, 0]]
    torch.testing.assert_close(layer.gate.e_score_correction_bias, torch.tensor([-0.01, -0.01, 0.01, 0.01]))


def test_bias_moves_by_the_load_of_all_processes() -> None:
    layers = torch.nn.ModuleList([biased_layer(), biased_layer()])
    for layer in layers:
        layer.last = Routing(SCORES, SCORES, CHOSEN, torch.zeros(2, 2))
    count_load(layers)
    elsewhere = torch.tensor([[0, 1, 1, 2], [2, 1, 1, 0]])
    counts = update_bias(layers, 0.5, reduce=lambda counts_LE: counts_LE + elsewhere)
    assert counts.tolist() == [[2, 2, 2, 2], [4, 2, 2, 0]]
    assert layers[0].gate.e_score_correction_bias.tolist() == [0, 0, 0, 0]
    assert layers[1].gate.e_score_correction_bias.tolist() == [-0.5, 0, 0, 0.5]


def test_a_model_without_a_bias_is_refused() -> None:
    with pytest.raises(ValueError, match="noaux_tc"):
        update_bias(MoELayer(MoEConfig(n_routed_experts=8)), 0.01)


def trained_load_variation(method: str, balance: dict[str, float], speed: float) -> float:
    """The load's coefficient of variation after 200 steps on clusters of unequal size, each with its own map."""
    torch.manual_seed(0)
    config = MoEConfig(
        hidden_size=HIDDEN, moe_intermediate_size=HIDDEN, n_routed_experts=16, num_experts_per_tok=2,
        topk_method=method, balance=balance,
    )  # fmt: skip
    config._experts_implementation = "eager"
    layer = MoELayer(config).train()
    layer.gate.initialize(0.3)
    layer.experts.initialize(0.3)
    centres, maps = 1 + torch.randn(12, HIDDEN), torch.randn(12, HIDDEN, HIDDEN) / 4
    sizes = torch.arange(1, 13).reciprocal()
    optimizer = torch.optim.Adam(layer.parameters(), lr=5e-3)

    def batch(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        cluster = torch.multinomial(sizes, tokens, replacement=True)
        inputs = centres[cluster] + 0.7 * torch.randn(tokens, HIDDEN)
        return inputs, torch.einsum("td,tde->te", inputs, maps[cluster])

    for _ in range(200):
        inputs, targets = batch(256)
        loss = (layer(inputs) - targets).square().mean() + balance_loss([layer.last], config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if speed:
            count_load([layer])
            update_bias(layer, speed)
    layer(batch(4096)[0])
    counts = load(layer.last).double()
    return (counts.std(correction=0) / counts.mean()).item()


@pytest.mark.parametrize(
    ("method", "balance", "speed"),
    [
        ("noaux_tc", {}, 0.01),
        ("noaux_tc", {"sequence": 1.0}, 0.0),
        ("noisy_topk", {"importance": 1.0, "load": 1.0}, 0.0),
        ("greedy", {"expert": 1.0}, 0.0),
    ],
)
def test_each_mechanism_evens_the_load_in_a_toy_run(method: str, balance: dict[str, float], speed: float) -> None:
    assert trained_load_variation(method, balance, speed) < 0.2
    assert trained_load_variation(method, {}, 0.0) > 0.5

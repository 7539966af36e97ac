"""What each mechanism of the MoE line is for, in toy runs: prints the tables that stand in docs/models.md.

    python benchmarks/moe_toys.py      # under two minutes on one core

Load: a single layer, 16 experts of which a token uses two (one for Switch), learns to apply twelve random linear maps
to points of twelve clusters, of which the first is twelve times as frequent as the last. After training, over 8192
new points in evaluation mode: the coefficient of variation of the experts' loads (0 is even), the busiest expert's
load in multiples of an even share, experts with less than a tenth of that share, and the share of the targets'
variance that is missed. Means over three seeds.

Capacity: the same layer with Switch's router, and what of its load an expert capacity drops.

Competition: eight experts with Jacobs' dense gate on the same points, with his two losses.

Replay: an engine that computes in bfloat16 samples from a random model, and the same model in float32 says how
probable the samples are: with its own choice of experts, and with the engine's.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data.problem import Problem
from rlzero.grpo.mismatch import mismatch_sums
from rlzero.models.balance import balance_loss, competitive_loss, count_load, load, update_bias
from rlzero.models.capacity import drop
from rlzero.models.config import MoEConfig
from rlzero.models.decoder import MoEForCausalLM
from rlzero.models.moe import MoELayer
from rlzero.models.routing import record_routing, replay_routing
from rlzero.rollout.builtin import BuiltinEngine
from rlzero.rollout.types import Rollout, Sampling

HIDDEN, EXPERTS, CLUSTERS = 16, 16, 12
STEPS, BATCH, TESTED = 400, 256, 8192
SEEDS = (0, 1, 2)
PROBLEMS = 48


@dataclass(frozen=True)
class Run:
    """One line of the first table: how a layer is made and what keeps its load even."""

    what: str
    method: str
    balance: dict[str, float] = field(default_factory=dict)
    speed: float = 0.0


# Enough to even the load of so short a training; GShard's loss as printed is smaller than the others by E².
WEIGHT = 0.3
RUNS = (
    Run("noisy top 2 (Shazeer)", "noisy_topk"),
    Run("– with the importance loss", "noisy_topk", {"importance": WEIGHT}),
    Run("– with importance and load loss", "noisy_topk", {"importance": WEIGHT, "load": WEIGHT}),
    Run("top 2 with a random second (GShard)", "top2_random"),
    Run("– with GShard's loss", "top2_random", {"gshard": WEIGHT * EXPERTS**2}),
    Run("softmax over the top 2 (Mixtral)", "topk_softmax"),
    Run("– with Switch's loss", "topk_softmax", {"switch": WEIGHT}),
    Run("top 2 of the softmax (DeepSeekMoE)", "greedy"),
    Run("– with the expert-level loss", "greedy", {"expert": WEIGHT}),
    Run("top 2 by sigmoid (V3)", "noaux_tc"),
    Run("– with the sequence-wise loss", "noaux_tc", {"sequence": WEIGHT}),
    Run("– with the bias and no loss", "noaux_tc", {}, speed=0.01),
)
CAPACITIES = (1.0, 1.25, 2.0)


class Clusters:
    """Points of twelve clusters of unequal size, each with a linear map of its own."""

    def __init__(self) -> None:
        self._centres = 1 + torch.randn(CLUSTERS, HIDDEN)
        self._maps = torch.randn(CLUSTERS, HIDDEN, HIDDEN) / HIDDEN**0.5
        self._sizes = torch.arange(1, CLUSTERS + 1).reciprocal()

    def draw(self, points: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, float[points, HIDDEN]."""
        cluster_T = torch.multinomial(self._sizes, points, replacement=True)
        inputs_TD = self._centres[cluster_T] + 0.7 * torch.randn(points, HIDDEN)
        return inputs_TD, torch.einsum("td,tde->te", inputs_TD, self._maps[cluster_T])


def make_layer(method: str, **settings) -> MoELayer:
    """A layer in training mode, drawn anew."""
    config = MoEConfig(hidden_size=HIDDEN, moe_intermediate_size=HIDDEN, topk_method=method, **settings)
    config._experts_implementation = "eager"
    layer = MoELayer(config).train()
    layer.gate.initialize(0.3)
    layer.experts.initialize(0.3)
    return layer


def train(layer: MoELayer, loss_of: Callable[[Tensor, Tensor], Tensor], clusters: Clusters, speed: float = 0) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), lr=5e-3)
    for _ in range(STEPS):
        loss = loss_of(*clusters.draw(BATCH))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if speed:
            count_load([layer])
            update_bias(layer, speed)


def missed(outputs_TD: Tensor, targets_TD: Tensor) -> float:
    """Share of the targets' variance that the outputs leave unexplained."""
    return ((outputs_TD - targets_TD).square().mean() / targets_TD.var()).item()


@torch.no_grad()
def balanced(run: Run, seed: int) -> tuple[float, float, float, float]:
    """Coefficient of variation, busiest, idle and missed after training."""
    torch.manual_seed(seed)
    clusters = Clusters()
    layer = make_layer(
        run.method, n_routed_experts=EXPERTS, num_experts_per_tok=2, balance=run.balance,
        norm_topk_prob=run.method == "noaux_tc",
    )  # fmt: skip

    def loss_of(inputs_TD: Tensor, targets_TD: Tensor) -> Tensor:
        error = (layer(inputs_TD) - targets_TD).square().mean()
        return error + balance_loss([layer.last], layer.config)

    with torch.enable_grad():
        train(layer, loss_of, clusters, run.speed)
    inputs_TD, targets_TD = clusters.draw(TESTED)
    outputs_TD = layer.eval()(inputs_TD)
    shares_E = load(layer.last).double() / (TESTED * 2 / EXPERTS)
    variation = shares_E.std(correction=0).item()
    return variation, shares_E.max().item(), (shares_E < 0.1).sum().item(), missed(outputs_TD, targets_TD)


@torch.no_grad()
def dropped(balance: dict[str, float], seed: int) -> list[float]:
    """Share of the tokens that each of the capacities leaves out, of a Switch layer that was trained without any."""
    torch.manual_seed(seed)
    clusters = Clusters()
    layer = make_layer(
        "switch", n_routed_experts=EXPERTS, num_experts_per_tok=1, balance=balance, drop_policy="capacity",
        capacity_factor_train=100.0,
    )  # fmt: skip

    def loss_of(inputs_TD: Tensor, targets_TD: Tensor) -> Tensor:
        return (layer(inputs_TD) - targets_TD).square().mean() + balance_loss([layer.last], layer.config)

    with torch.enable_grad():
        train(layer, loss_of, clusters)
    layer.eval()(clusters.draw(TESTED)[0])
    return [(drop(layer.last, layer.config, factor).weights == 0).double().mean().item() for factor in CAPACITIES]


@torch.no_grad()
def competed(competes: bool, seed: int) -> tuple[float, float]:
    """Mean gate of a point's best expert, and the share of variance missed, after training by one of Jacobs' losses."""
    torch.manual_seed(seed)
    clusters = Clusters()
    layer = make_layer("dense", n_routed_experts=8, num_experts_per_tok=8)

    def outputs_of(inputs_TD: Tensor) -> Tensor:
        """[T, E, D], what each expert says by itself."""
        ones_T1 = torch.ones(len(inputs_TD), 1)
        return torch.stack([layer.experts(inputs_TD, (ones_T1 * e).long(), ones_T1) for e in range(8)], dim=1)

    def loss_of(inputs_TD: Tensor, targets_TD: Tensor) -> Tensor:
        if not competes:
            return (layer(inputs_TD) - targets_TD).square().sum(dim=-1).mean() / 2
        return competitive_loss(outputs_of(inputs_TD), layer.gate(inputs_TD).weights, targets_TD)

    with torch.enable_grad():
        train(layer, loss_of, clusters)
    inputs_TD, targets_TD = clusters.draw(TESTED)
    gates_TE = layer.eval().gate(inputs_TD).weights
    return gates_TE.amax(dim=-1).mean().item(), missed(layer(inputs_TD), targets_TD)


def make_model(routed: int) -> MoEForCausalLM:
    """A random decoder with V3's router, or without experts; weights so large that the experts differ."""
    torch.manual_seed(0)
    experts = {
        "topk_method": "noaux_tc", "norm_topk_prob": True, "n_routed_experts": routed, "num_experts_per_tok": 2,
        "n_shared_experts": 1, "moe_intermediate_size": 24, "first_k_dense_replace": 1,
    }  # fmt: skip
    config = MoEConfig(
        vocab_size=67, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=72,
        max_position_embeddings=128, initializer_range=0.2, pad_token_id=0, eos_token_id=2,
        **(experts if routed else {}),
    )  # fmt: skip
    return MoEForCausalLM(config).eval()


@torch.no_grad()
def differences(model: MoEForCausalLM, rollout: Rollout, replays: bool) -> tuple[Tensor, Tensor]:
    """Policy less sampler log-probability of each sampled token, float[C], and whether the experts of all layers
    were the engine's when it was predicted, bool[C]."""
    ids = torch.cat([torch.from_numpy(rollout.prompt_ids), torch.from_numpy(rollout.completion_ids)])
    recorded = None if rollout.routing is None else torch.from_numpy(rollout.routing).long()
    replay = replay_routing(model, recorded.transpose(0, 1)) if replays and recorded is not None else nullcontext()
    with replay, record_routing(model) as tape:
        logprobs_TV = model(input_ids=ids[None, :-1], use_cache=False).logits[0].log_softmax(-1)
    start = len(rollout.prompt_ids) - 1
    policy_C = logprobs_TV.gather(-1, ids[1:, None])[start:, 0]
    same_T = torch.ones(len(ids) - 1, dtype=torch.bool)
    if recorded is not None:
        same_T = (tape.stacked().sort(-1).values == recorded.sort(-1).values).all(-1).all(-1)
    return policy_C - torch.from_numpy(rollout.sampler_logprobs), same_T[start:]


def mismatch(routed: int, replays: bool) -> tuple[float, float, float]:
    """Share of tokens with other experts than the engine's, KL(engine ‖ trainer) in nats a token, and share of tokens
    to which one side gives more than twice the other's probability."""
    model = make_model(routed)
    engine = BuiltinEngine(copy.deepcopy(model).to(torch.bfloat16), [2], record_routing=routed > 0)
    problems = [Problem(f"problem {i}", "1") for i in range(PROBLEMS)]
    groups = engine.generate(problems, [[5 + i, 6, 7] for i in range(PROBLEMS)], Sampling(n=8, max_tokens=32))
    pairs = [differences(model, rollout, replays) for group in groups for rollout in group.rollouts]
    difference, same = torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])
    _, kl, far, _ = mismatch_sums(difference, torch.ones_like(difference, dtype=torch.bool))
    return 1 - same.double().mean().item(), kl.item() / len(difference), far.item() / len(difference)


def mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]


def show(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table, each row as soon as it is there."""
    for cells in (header, ["---"] * len(header)):
        print(f"| {' | '.join(cells)} |")
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)
    print()


def load_rows() -> Iterator[list[str]]:
    for run in RUNS:
        variation, busiest, idle, error = mean([balanced(run, seed) for seed in SEEDS])
        yield [run.what, f"{variation:.2f}", f"×{busiest:.1f}", f"{idle:.1f}", f"{error:.1%}"]


def capacity_rows() -> Iterator[list[str]]:
    for what, balance in (("Switch without its loss", {}), ("Switch with its loss", {"switch": WEIGHT})):
        yield [what, *(f"{share:.1%}" for share in mean([dropped(balance, seed) for seed in SEEDS]))]


def competition_rows() -> Iterator[list[str]]:
    for what, competes in (("of the mixture (eq. 1.1)", False), ("competitive (eq. 1.3)", True)):
        gate, error = mean([competed(competes, seed) for seed in SEEDS])
        yield [what, f"{gate:.2f}", f"{error:.1%}"]


def replay_rows() -> Iterator[list[str]]:
    for what, routed, replays in (
        ("dense model", 0, False),
        ("experts, each side's own choice", 8, False),
        ("experts, the engine's choice replayed", 8, True),
    ):
        other, kl, far = mismatch(routed, replays)
        yield [what, f"{other:.1%}", f"{kl:.1e}", f"{far:.2%}"]


def main() -> None:
    torch.set_num_threads(1)
    show(["load: router and balance", "load's CV", "busiest", f"idle of {EXPERTS}", "missed"], load_rows())
    show(["capacity: tokens dropped at", *map(str, CAPACITIES)], capacity_rows())
    show(["competition: Jacobs' loss", "best expert's gate", "missed"], competition_rows())
    show(["replay: engine and trainer", "other experts", "KL, nats a token", "ratio above 2"], replay_rows())


if __name__ == "__main__":
    main()

"""Our layer of experts against transformers' MixtralSparseMoeBlock: same weights, same outputs, how much time.

    python benchmarks/moe_layer.py                  # this CPU, one thread: about three minutes
    python benchmarks/moe_layer.py --device cuda    # a stack of layers with a billion active parameters

On the CPU, time is what the process gets of it, so that other programs matter little; both sides run in every round,
in an order drawn anew. A ratio is that of one round, ours over stock: below 1, ours is faster. Shown are the median
and, in brackets, the middle half of the rounds.

The last line is JSON. `moe_layer_ratio` is ours over stock in forward and backward pass, each with the expert kernel
that its model class picks by itself: the geometric mean over the sizes of training.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from rlzero.models.config import MoEConfig
from rlzero.models.decoder import MoEForCausalLM
from rlzero.models.moe import MoELayer

EXPERTS, TOP_K = 8, 2
IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
WARM_UP = 2
SHORTEST = 0.02  # seconds: a shorter pass is repeated so often in a round
# batched_mm copies the weights of an expert for each token that it gets; beyond this many bytes it is left out.
COPIES = 500e6


@dataclass(frozen=True)
class Size:
    """hidden: D. width: of an expert. tokens: of one pass. trains: the backward pass is run too."""

    hidden: int
    width: int
    tokens: int
    trains: bool

    def __str__(self) -> str:
        passes = "forward and backward" if self.trains else "forward"
        return f"hidden {self.hidden}, width {self.width}, {self.tokens} tokens, {passes}"

    @property
    def copies(self) -> int:
        """Bytes that batched_mm copies in a pass in float32."""
        return self.tokens * TOP_K * 3 * self.hidden * self.width * 4


# A microbatch of the embedded task, and four times its width in Mixtral's proportions; then a step of decoding.
SIZES = (
    Size(128, 128, 4096, trains=True),
    Size(512, 1792, 1024, trains=True),
    Size(128, 128, 64, trains=False),
    Size(512, 1792, 16, trains=False),
)
# Mixtral's own width of an expert over its hidden size is 3.5; 2 of 8 experts of 12 layers are 1.06 billion.
BILLION = {"hidden": 2048, "width": 7168, "layers": 12, "rows": 8, "length": 1024}


def make_configs(hidden: int, width: int, implementation: str | None) -> tuple[MixtralConfig, MoEConfig]:
    """Stock and ours; implementation None: as the model class picks it."""
    small = {"hidden_size": hidden, "num_hidden_layers": 1, "vocab_size": 8, "num_attention_heads": hidden // 32}
    stock = MixtralConfig(
        **small, intermediate_size=width, num_local_experts=EXPERTS, num_experts_per_tok=TOP_K, num_key_value_heads=1
    )
    ours = MoEConfig(
        **small, moe_intermediate_size=width, n_routed_experts=EXPERTS, num_experts_per_tok=TOP_K,
        topk_method="topk_softmax",
    )  # fmt: skip
    stock._experts_implementation = ours._experts_implementation = implementation
    return stock, ours


def default_implementations() -> tuple[str, str]:
    """What a stock and what one of our models runs that was asked for nothing."""
    stock, ours = make_configs(32, 32, None)
    with torch.device("meta"):
        models = (MixtralForCausalLM(stock), MoEForCausalLM(ours))
    first, second = (str(model.config._experts_implementation) for model in models)
    return first, second


def make_pair(hidden: int, width: int, implementation: str) -> tuple[nn.Module, nn.Module]:
    """Stock and our layer with the same weights, in training mode."""
    stock_config, our_config = make_configs(hidden, width, implementation)
    stock, ours = MixtralSparseMoeBlock(stock_config), MoELayer(our_config)
    for weight in stock.parameters():
        nn.init.normal_(weight, std=0.02)
    ours.load_state_dict(stock.state_dict())
    return stock.train(), ours.train()


def step(layer: nn.Module, inputs_BTD: Tensor, gradient_BTD: Tensor | None) -> Tensor:
    """The output of a pass; with a gradient of it, the backward pass too."""
    with torch.set_grad_enabled(gradient_BTD is not None):
        outputs_BTD = layer(inputs_BTD)
    if gradient_BTD is not None:
        layer.zero_grad(set_to_none=True)
        inputs_BTD.grad = None
        outputs_BTD.backward(gradient_BTD)
    return outputs_BTD.detach()


def check_equal(stock: nn.Module, ours: nn.Module, inputs_BTD: Tensor, gradient_BTD: Tensor | None) -> None:
    """AssertionError where outputs or gradients are not the same up to rounding."""
    results = []
    for layer in (stock, ours):
        outputs = {"output": step(layer, inputs_BTD, gradient_BTD)}
        if gradient_BTD is not None:
            assert inputs_BTD.grad is not None
            outputs["input"] = inputs_BTD.grad.clone()
            outputs |= {name: weight.grad for name, weight in layer.named_parameters()}
        results.append(outputs)
    for name, wanted in results[0].items():
        torch.testing.assert_close(results[1][name], wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


def measure(size: Size, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of a pass in each round by "<implementation> stock" and "<implementation> ours"."""
    inputs = torch.randn(1, size.tokens, size.hidden, requires_grad=size.trains)
    gradient = torch.randn(1, size.tokens, size.hidden) if size.trains else None
    layers: dict[str, nn.Module] = {}
    for implementation in IMPLEMENTATIONS:
        if implementation == "batched_mm" and size.copies > COPIES:
            continue
        stock, ours = make_pair(size.hidden, size.width, implementation)
        check_equal(stock, ours, inputs, gradient)
        layers |= {f"{implementation} stock": stock, f"{implementation} ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in layers}
    order, repeats = [*layers], dict.fromkeys(layers, 1)
    for number in range(WARM_UP + rounds):
        random.shuffle(order)
        for name in order:
            start = time.process_time()
            for _ in range(repeats[name]):
                step(layers[name], inputs, gradient)
            seconds[name].append((time.process_time() - start) / repeats[name])
            if number < WARM_UP:
                repeats[name] = math.ceil(SHORTEST / seconds[name][-1])
    return {name: values[WARM_UP:] for name, values in seconds.items()}


def ratios(ours: Sequence[float], stock: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile of ours over stock, round by round."""
    low, middle, high = statistics.quantiles([o / s for o, s in zip(ours, stock, strict=True)], n=4)
    return middle, low, high


def report(size: Size, seconds: dict[str, list[float]], defaults: tuple[str, str]) -> float:
    """Print a table; return ours over stock, both by default."""
    print(f"{size}")
    for implementation in IMPLEMENTATIONS:
        stock, ours = (seconds.get(f"{implementation} {side}") for side in ("stock", "ours"))
        if stock is None or ours is None:
            print(f"  {implementation:10}  left out: it would copy {size.copies / 1e9:.1f} GB of weights in a pass")
            continue
        middle, low, high = ratios(ours, stock)
        print(
            f"  {implementation:10}  stock {statistics.median(stock) * 1e3:7.2f} ms, ours "
            f"{statistics.median(ours) * 1e3:7.2f} ms, ratio {middle:.3f} [{low:.3f}, {high:.3f}]"
        )
    middle, low, high = ratios(seconds[f"{defaults[1]} ours"], seconds[f"{defaults[0]} stock"])
    print(f"  by default  stock {defaults[0]}, ours {defaults[1]}, ratio {middle:.3f} [{low:.3f}, {high:.3f}]")
    return middle


def on_cpu(rounds: int) -> dict[str, object]:
    torch.set_num_threads(1)
    defaults = default_implementations()
    print(f"one CPU thread, float32, {rounds} rounds, {EXPERTS} experts, {TOP_K} of them for a token")
    by_size = {str(size): report(size, measure(size, rounds), defaults) for size in SIZES}
    overall = statistics.geometric_mean([by_size[str(size)] for size in SIZES if size.trains])
    return {"moe_layer_ratio": round(overall, 4), "ratios": {k: round(v, 4) for k, v in by_size.items()}}


class Stack(nn.Module):
    """h ← h + layer(norm(h)), so many times: the feed-forward half of a decoder."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_BTD = hidden_BTD + layer(F.rms_norm(hidden_BTD, hidden_BTD.shape[-1:]))
        return hidden_BTD


def active_parameters(stack: nn.Module) -> int:
    """Weights that one token meets."""
    return sum(
        weight.numel() * TOP_K // EXPERTS if ".experts." in name else weight.numel()
        for name, weight in stack.named_parameters()
    )


def on_cuda(rounds: int, hidden: int, width: int, layers: int, rows: int, length: int) -> dict[str, object]:
    """Throughput and peak memory of a stack in bfloat16, forward and backward, ours and stock one after the other."""
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name()}, bfloat16, {layers} layers, hidden {hidden}, width {width}, {rounds} rounds")
    kinds: dict[str, Callable[[MixtralConfig, MoEConfig], nn.Module]] = {
        "stock": lambda stock, ours: MixtralSparseMoeBlock(stock),
        "ours": lambda stock, ours: MoELayer(ours),
    }
    configs = make_configs(hidden, width, "grouped_mm")
    inputs = torch.randn(rows, length, hidden, device=device, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn_like(inputs)
    figures: dict[str, dict[str, float]] = {}
    for name, make in kinds.items():
        torch.manual_seed(0)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with device:
            stack = Stack([make(*configs) for _ in range(layers)]).to(torch.bfloat16).train()
            for weight in stack.parameters():
                nn.init.normal_(weight, std=0.02)
        times = []
        for _ in range(WARM_UP + rounds):
            torch.cuda.synchronize()
            start = time.perf_counter()
            step(stack, inputs, gradient)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        figures[name] = {
            "tokens_per_second": round(rows * length / statistics.median(times[WARM_UP:])),
            "peak_bytes": torch.cuda.max_memory_allocated(),
            "active_parameters": active_parameters(stack),
        }
        print(
            f"  {name:5}  {figures[name]['tokens_per_second']:9,.0f} tokens/s, "
            f"{figures[name]['peak_bytes'] / 2**30:.2f} GiB, {active_parameters(stack) / 1e9:.2f}B active"
        )
        del stack
    ratio = figures["stock"]["tokens_per_second"] / figures["ours"]["tokens_per_second"]
    return {"moe_stack_ratio": round(ratio, 4), **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=40, help="of every layer, after warm-up (default: %(default)s)")
    arguments = parser.parse_args()
    random.seed(0)
    torch.manual_seed(0)
    figures = on_cpu(arguments.rounds) if arguments.device == "cpu" else on_cuda(arguments.rounds, **BILLION)
    print(json.dumps({"torch": torch.__version__, **figures}))


if __name__ == "__main__":
    main()

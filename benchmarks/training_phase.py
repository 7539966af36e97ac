"""The training phase, forward and backward of one optimizer step: packed as it is, padded as it was, and as TRL pads.

    python benchmarks/training_phase.py                     # one CPU thread: about forty minutes
    python benchmarks/training_phase.py --models base --prompts 16

Groups of 16 with completions of long-tailed lengths (mean about 60, at most 256). Sides, of the same samples:

- packed: `rlzero.grpo` now, prompts shared where that pays; "plain" is the same without sharing;
- padded: `rlzero.grpo` before packing: rows of like length together, padded to the longest, log-softmax in plain torch;
- trl: what TRL's GRPOTrainer does, with its own fused head (`add_fused_lm_head`): rows in random order, prompts
  padded on the left and completions on the right to the longest of the step, a mask, as many rows in a microbatch as
  fit the budget; log-probabilities and entropy of every position.

All run in every round in an order drawn anew, their gradients are compared first, and time is what the process gets
of the CPU. A ratio is that of one round, the other side over packed: above 1, packed is faster. Shown are the median
and, in brackets, the middle half of the rounds. FLOP/s are those that the packed side cannot do without (the matrix
products of every token once, forward and twice that backward; attention over what a token sees), as a share of the rate
of one large matrix product, measured before and after. The last line is JSON.

--profile shows where the packed side's time goes, operator by operator, and measures nothing else.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn
from training_sides import BUDGET, Side, check_equal, make_model, make_samples, make_sides, run_packed
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from rlzero.grpo.batch import TrainingSample
from rlzero.grpo.policy import prepare_policy

SIDES = ("packed", "plain", "padded", "trl")


def measure(
    model: PreTrainedModel, sides: dict[str, Side], samples: Sequence[TrainingSample], rounds: int
) -> dict[str, list[float]]:
    """CPU seconds of every side in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = [*sides]
    for number in range(rounds + 1):
        random.shuffle(order)
        for name in order:
            model.zero_grad()
            start = time.process_time()
            sides[name](samples)
            # The first round warms up.
            if number:
                seconds[name].append(time.process_time() - start)
    return seconds


def compare(name: str, prompts: int, prompt_length: int, rounds: int) -> dict[str, float]:
    """One table; the ratios by side."""
    model = make_model(name)
    assert prepare_policy(model)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    words = model.config.vocab_size
    sides = make_sides(model)
    check_equal(model, sides, make_samples(2, prompt_length, words, seed=1))
    samples = make_samples(prompts, prompt_length, words)
    completions = [len(s.rollout.completion_ids) for s in samples]
    seconds = measure(model, sides, samples, rounds)
    print(
        f"{name}: {prompts} prompts of about {prompt_length} tokens, {len(samples)} completions of "
        f"{statistics.mean(completions):.0f} on average"
    )
    found = {}
    for side in SIDES:
        low, middle, high = statistics.quantiles(
            [other / ours for other, ours in zip(seconds[side], seconds["packed"], strict=True)], n=4
        )
        found[side] = middle
        median = statistics.median(seconds[side])
        print(
            f"  {side:6}  {median:7.2f} s  {sum(completions) / median:7,.0f} completion tokens/s  ratio {middle:.2f} "
            f"[{low:.2f}, {high:.2f}]",
            flush=True,
        )
    return found


def scaling(name: str, rounds: int, prompt_length: int = 60) -> float:
    """Seconds a completion token with 128 prompts over that with 8, and the table between."""
    model = make_model(name)
    prepare_policy(model)
    sizes = (8, 32, 128)
    samples = {size: make_samples(size, prompt_length, model.config.vocab_size) for size in sizes}
    tokens = {size: sum(len(s.rollout.completion_ids) for s in samples[size]) for size in sizes}
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    run_packed(model, samples[sizes[0]], None)
    for _ in range(rounds):
        for size in random.sample(sizes, len(sizes)):
            # As many tokens for each.
            start = time.process_time()
            for _ in range(sizes[-1] // size // 4 or 1):
                model.zero_grad()
                run_packed(model, samples[size], None)
            seconds[size].append((time.process_time() - start) / (sizes[-1] // size // 4 or 1) / tokens[size])
    medians = {size: statistics.median(values) for size, values in seconds.items()}
    print(f"{name}: microseconds a token, " + ", ".join(f"{n} prompts {s * 1e6:.1f}" for n, s in medians.items()))
    return medians[sizes[-1]] / medians[sizes[0]]


def model_flops(model: PreTrainedModel, samples: Sequence[TrainingSample]) -> float:
    """Of a dense model's forward and backward pass over the samples, every prompt once."""
    config, head = model.config, model.get_output_embeddings()
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    prompts = {s.rollout.prompt_ids.tobytes(): len(s.rollout.prompt_ids) for s in samples}.values()
    completions = [(len(s.rollout.prompt_ids), len(s.rollout.completion_ids)) for s in samples]
    predictions = sum(length for _, length in completions)
    run = sum(prompts) + predictions - len(completions)
    pairs = sum(n * (n + 1) / 2 for n in prompts) + sum((n - 1) * (p + n / 2) for p, n in completions)
    forward = run * weights + predictions * head.weight.numel()
    forward += 2 * pairs * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    return 3 * 2 * forward


def matmul_rate(seconds: float = 0.3) -> float:
    """FLOP/s of a large product in float32, at its best."""
    left, right = torch.randn(2048, 1024), torch.randn(1024, 1024)
    best = 0.0
    end = time.process_time() + seconds
    while (start := time.process_time()) < end:
        torch.mm(left, right)
        best = max(best, 2 * left.numel() * len(right) / (time.process_time() - start))
    return best


def flops_share(name: str, prompts: int, rounds: int, prompt_length: int = 60) -> float:
    """FLOP/s of the packed side over those of a matrix product, and the line that says so."""
    model = make_model(name)
    prepare_policy(model)
    samples = make_samples(prompts, prompt_length, model.config.vocab_size)
    flops = model_flops(model, samples)
    rates, shares = [], []
    for number in range(rounds + 1):
        before = matmul_rate()
        start = time.process_time()
        model.zero_grad()
        run_packed(model, samples, None)
        rate = flops / (time.process_time() - start)
        if number:
            rates.append(rate)
            shares.append(rate / max(before, matmul_rate()))
    share = statistics.median(shares)
    print(f"{name}: {statistics.median(rates) / 1e9:.1f} GFLOP/s, {share:.2f} of a matrix product's", flush=True)
    return share


def profile(name: str, prompts: int, prompt_length: int) -> None:
    """The operators of one packed pass, by the time that they take themselves."""
    model = make_model(name)
    prepare_policy(model)
    samples = make_samples(prompts, prompt_length, model.config.vocab_size)
    run_packed(model, samples, None)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        run_packed(model, samples, None)
    print(f"{name}: {prompts} prompts of about {prompt_length} tokens")
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=50))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["base", "dense", "words"], default=["base", "dense", "words"])
    parser.add_argument("--prompts", type=int, help="a step. Default: 32 for base, 8 for the others")
    parser.add_argument("--prompt_lengths", type=int, nargs="+", default=[16, 60])
    parser.add_argument("--rounds", type=int, default=7, help="of every side, after warm-up (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="the packed side's operators instead of all figures")
    arguments = parser.parse_args()
    random.seed(0)
    torch.set_num_threads(1)
    print(f"one CPU thread, float32, {arguments.rounds} rounds, at most {BUDGET} tokens in a microbatch")
    figures: dict[str, object] = {}
    for name in arguments.models:
        prompts = arguments.prompts or (32 if name == "base" else 8)
        if arguments.profile:
            profile(name, prompts, arguments.prompt_lengths[0])
            continue
        if name != "base":
            figures[f"{name}_flops_share"] = round(flops_share(name, prompts, arguments.rounds), 3)
        for length in arguments.prompt_lengths:
            ratios = compare(name, prompts, length, arguments.rounds)
            figures |= {f"{name}_{length}_{side}": round(ratio, 3) for side, ratio in ratios.items()}
    if "base" in arguments.models and not arguments.profile:
        figures["scaling_8_to_128"] = round(scaling("base", arguments.rounds), 3)
    print(json.dumps({"torch": torch.__version__, **figures}))


if __name__ == "__main__":
    main()

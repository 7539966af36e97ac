"""The training phase, forward and backward of one optimizer step: packed as it is, padded as it was, and as TRL pads.

    python benchmarks/training_phase.py                     # one CPU thread: about ten minutes
    python benchmarks/training_phase.py --models base --prompts 16

Groups of 16 with completions of long-tailed lengths (mean about 60, at most 256). Sides, of the same samples:

- packed: `rlzero.grpo` now, prompts shared where that pays; "plain" is the same without sharing;
- padded: `rlzero.grpo` before packing: rows of like length together, padded to the longest, log-softmax in plain torch;
- trl: what TRL's GRPOTrainer does, with its own fused head (`add_fused_lm_head`): rows in random order, prompts
  padded on the left and completions on the right to the longest of the step, a mask, as many rows in a microbatch as
  fit the budget; log-probabilities and entropy of every position.

All run in every round in an order drawn anew, their gradients are compared first, and time is what the process gets
of the CPU. A ratio is that of one round, the other side over packed: above 1, packed is faster. Shown are the median
and, in brackets, the middle half of the rounds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from data.problem import Problem
from rlzero.grpo.batch import Batch, TrainingSample, pack
from rlzero.grpo.policy import policy_logprobs, prepare_policy
from rlzero.models.load import load_model
from rlzero.rollout.types import Rollout

ROOT = Path(__file__).resolve().parents[1]
GROUP, LONGEST, BUDGET, PAD = 16, 256, 8192, 0
SIDES = ("packed", "plain", "padded", "trl")


def make_model(name: str) -> PreTrainedModel:
    """base: the embedded one. dense: hidden size 512 and 266 words. words: the same with 32,768."""
    if name == "base":
        return load_model(ROOT / "recipes" / "base", "float32").train()
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=266 if name == "dense" else 32_768, tie_word_embeddings=True,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).train()


def make_samples(prompts: int, prompt_length: int, words: int, seed: int = 0) -> list[TrainingSample]:
    """prompts × GROUP samples; a prompt has about the length given."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(prompts):
        prompt = rng.integers(1, words, max(1, round(prompt_length * rng.uniform(0.7, 1.3))))
        for _ in range(GROUP):
            length = int(np.clip(rng.lognormal(3.78, 0.85), 2, LONGEST))
            completion = rng.integers(1, words, length)
            logprobs = rng.uniform(-6, -4, length).astype(np.float32)
            rollout = Rollout(Problem("", ""), prompt, completion, logprobs, "stop")
            samples.append(TrainingSample(rollout, float(rng.normal()), 1e-3))
    return samples


def run_packed(model: PreTrainedModel, samples: Sequence[TrainingSample], shared_prefix: bool | None) -> None:
    for batch in pack(samples, BUDGET, PAD, shared_prefix=shared_prefix):
        backward(*policy_logprobs(model, batch, 1.0), batch)


def run_padded(model: PreTrainedModel, samples: Sequence[TrainingSample]) -> None:
    """`policy_logprobs` as it was before packing."""
    for batch in pack(samples, BUDGET, PAD, packed=False):
        kept = batch.input_ids.shape[1] - batch.first
        logits = model(input_ids=batch.input_ids, logits_to_keep=kept, use_cache=False).logits[:, :-1].float()
        targets = batch.input_ids[:, batch.first + 1 :]
        normalizer = torch.logsumexp(logits, dim=-1)
        logprobs = logits.gather(-1, targets[..., None]).squeeze(-1) - normalizer
        with torch.no_grad():
            probabilities = torch.exp(logits - normalizer[..., None])
            entropy = normalizer - (probabilities * logits).sum(-1)
        pad = (batch.first, 0)
        backward(torch.nn.functional.pad(logprobs, pad), torch.nn.functional.pad(entropy, pad), batch)


def run_trl(model: PreTrainedModel, samples: Sequence[TrainingSample]) -> None:
    longest_prompt = max(len(s.rollout.prompt_ids) for s in samples)
    longest = max(len(s.rollout.completion_ids) for s in samples)
    rows = max(1, BUDGET // (longest_prompt + longest))
    order = random.sample(range(len(samples)), len(samples))
    for start in range(0, len(order), rows):
        some = [samples[i] for i in order[start : start + rows]]
        ids = torch.full((len(some), longest_prompt + longest), PAD)
        mask = torch.zeros_like(ids)
        old = torch.zeros(len(some), longest)
        for i, sample in enumerate(some):
            prompt, completion = (torch.from_numpy(x) for x in (sample.rollout.prompt_ids, sample.rollout.completion_ids))
            ids[i, longest_prompt - len(prompt) : longest_prompt + len(completion)] = torch.cat([prompt, completion])
            mask[i, longest_prompt - len(prompt) : longest_prompt + len(completion)] = 1
            old[i, : len(completion)] = torch.from_numpy(sample.rollout.sampler_logprobs)
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :longest_prompt] = -100
        found = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        logprobs = found.log_probs[:, -longest:]
        advantages = torch.tensor([s.advantage for s in some])
        loss(logprobs, old, advantages, mask[:, longest_prompt:].bool()).backward()


def backward(logprobs: Tensor, entropy: Tensor, batch: Batch) -> None:
    loss(logprobs, batch.sampler_logprobs, batch.advantages, batch.completion_mask).backward()


def loss(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    ratio = torch.exp(logprobs - torch.where(mask, old, logprobs.detach()))
    return -(ratio * advantages[:, None] * mask).sum() * 1e-3


def make_sides(model: PreTrainedModel) -> dict[str, Callable[[Sequence[TrainingSample]], None]]:
    return {
        "packed": lambda samples: run_packed(model, samples, None),
        "plain": lambda samples: run_packed(model, samples, False),
        "padded": lambda samples: run_padded(model, samples),
        "trl": lambda samples: run_trl(model, samples),
    }


def check_equal(model: PreTrainedModel, sides: dict[str, Callable], samples: Sequence[TrainingSample]) -> None:
    """AssertionError where two sides do not give the same gradients."""
    gradients = {}
    for name, side in sides.items():
        model.zero_grad()
        side(samples)
        gradients[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    for name, found in gradients.items():
        difference = (found - gradients["padded"]).norm() / gradients["padded"].norm()
        assert difference < 1e-4, f"the gradient of {name} differs by {difference:.2g}"


def measure(
    model: PreTrainedModel, sides: dict[str, Callable], samples: Sequence[TrainingSample], rounds: int
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


def peak_memory(run: Callable[[], None]) -> int | None:
    """Bytes that the run had at its peak beyond what was there before; None where the kernel does not say."""

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        run()
        return status("VmHWM") - before
    except OSError:
        return None


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
        peak = peak_memory(lambda side=side: sides[side](samples))  # type: ignore[misc]
        print(
            f"  {side:6}  {statistics.median(seconds[side]):7.2f} s  {sum(completions) / statistics.median(seconds[side]):7,.0f} "
            f"completion tokens/s  ratio {middle:.2f} [{low:.2f}, {high:.2f}]"
            + ("" if peak is None else f"  peak {peak / 2**20:,.0f} MiB"),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["base", "dense", "words"], default=["base", "dense", "words"])
    parser.add_argument("--prompts", type=int, help="a step. Default: 32 for base, 8 for the others")
    parser.add_argument("--prompt_lengths", type=int, nargs="+", default=[16, 60])
    parser.add_argument("--rounds", type=int, default=7, help="of every side, after warm-up (default: %(default)s)")
    arguments = parser.parse_args()
    random.seed(0)
    torch.set_num_threads(1)
    print(f"one CPU thread, float32, {arguments.rounds} rounds, at most {BUDGET} tokens in a microbatch")
    figures: dict[str, object] = {}
    for name in arguments.models:
        prompts = arguments.prompts or (32 if name == "base" else 8)
        for length in arguments.prompt_lengths:
            ratios = compare(name, prompts, length, arguments.rounds)
            figures |= {f"{name}_{length}_{side}": round(ratio, 3) for side, ratio in ratios.items()}
    if "base" in arguments.models:
        figures["scaling_8_to_128"] = round(scaling("base", arguments.rounds), 3)
    print(json.dumps({"torch": torch.__version__, **figures}))


if __name__ == "__main__":
    main()

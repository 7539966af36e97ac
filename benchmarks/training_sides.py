"""The sides of training_phase.py: four ways to run samples forward and backward; its models and samples."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from drawn import GROUP, draw_lengths
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from data.problem import Problem
from rlzero.grpo.batch import Batch, TrainingSample, pack
from rlzero.grpo.policy import policy_logprobs
from rlzero.models.load import load_model
from rlzero.rollout.types import Rollout

ROOT = Path(__file__).resolve().parents[1]
BUDGET, PAD = 8192, 0

Side = Callable[[Sequence[TrainingSample]], None]


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
        for length in draw_lengths(rng, GROUP).tolist():
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
            rollout = sample.rollout
            prompt, completion = torch.from_numpy(rollout.prompt_ids), torch.from_numpy(rollout.completion_ids)
            ids[i, longest_prompt - len(prompt) : longest_prompt + len(completion)] = torch.cat([prompt, completion])
            mask[i, longest_prompt - len(prompt) : longest_prompt + len(completion)] = 1
            old[i, : len(completion)] = torch.from_numpy(rollout.sampler_logprobs)
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


def make_sides(model: PreTrainedModel) -> dict[str, Side]:
    return {
        "packed": lambda samples: run_packed(model, samples, None),
        "plain": lambda samples: run_packed(model, samples, False),
        "padded": lambda samples: run_padded(model, samples),
        "trl": lambda samples: run_trl(model, samples),
    }


def check_equal(model: PreTrainedModel, sides: dict[str, Side], samples: Sequence[TrainingSample]) -> None:
    """AssertionError where two sides do not give the same gradients."""
    gradients = {}
    for name, side in sides.items():
        model.zero_grad()
        side(samples)
        gradients[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    for name, found in gradients.items():
        difference = (found - gradients["padded"]).norm() / gradients["padded"].norm()
        assert difference < 1e-4, f"the gradient of {name} differs by {difference:.2g}"

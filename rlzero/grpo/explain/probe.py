"""A few seconds' measurement of this machine: the model's own layers with random weights, through the real code.

Nothing of a checkpoint is read. What it costs to launch a layer's many small operations, to read and write activations
and to multiply matrices of these sizes on these threads is then in the figures, whatever the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from data.problem import Problem
from rlzero.grpo.batch import TrainingSample, pack
from rlzero.grpo.policy import policy_logprobs, prepare_policy
from rlzero.models.logprobs import autocast
from rlzero.rollout.builtin import BuiltinEngine
from rlzero.rollout.types import Rollout, Sampling

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from rlzero.grpo.config import Recipe
    from rlzero.grpo.explain.lengths import Lengths

# Parameters of what is built and run here, at most: more would take too long.
LARGEST = 100_000_000
# Layers of the two cuts that a deeper model is extrapolated from.
DEPTHS = (1, 3)
_FLOPS, _MOST_TOKENS, _LONGEST, _STEPS = 3e10, 4096, 256, 8


@dataclass(frozen=True)
class Measured:
    """Seconds. microbatch, token: a forward and backward pass, its fixed part and that of a token run; forward: share
    of both that a forward pass alone takes. step, row: of decoding, a step's fixed part and that of each sequence in
    it. parameter: of the optimizer."""

    microbatch: float
    token: float
    forward: float
    step: float
    row: float
    parameter: float


def interpreter_seconds() -> float:
    """Of a turn of an empty loop with an addition: the unit of `constants`' Python parts."""

    def loop() -> None:
        total = 0
        for i in range(100_000):
            total += i

    return _best(loop, times=3) / 100_000


def probe(
    recipe: Recipe, config: PretrainedConfig, lengths: Lengths, flops: float, dtype: torch.dtype | None
) -> Measured:
    """flops: of a token's forward pass. dtype: of matrix products where they are mixed with the weights' own."""
    with torch.random.fork_rng(devices=[]):
        layers = config.get_text_config().num_hidden_layers
        if layers <= DEPTHS[1] + 1:
            return _run(recipe, _cut(config, layers), lengths, flops, dtype)
        shallow, deep = (_run(recipe, _cut(config, n), lengths, flops, dtype) for n in DEPTHS)
    return _extrapolated(shallow, deep, layers)


def probed_parameters(config: PretrainedConfig) -> int:
    """Of the largest model that `probe` would build."""
    with torch.device("meta"):
        model = _cut(config, min(config.get_text_config().num_hidden_layers, DEPTHS[1] + 1))
    return sum(parameter.numel() for parameter in model.parameters())


def _cut(config: PretrainedConfig, layers: int) -> PreTrainedModel:
    """A random model with the first layers of this one."""
    from transformers import AutoModelForCausalLM

    config = deepcopy(config)
    text = config.get_text_config()
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == text.num_hidden_layers:
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
    return AutoModelForCausalLM.from_config(config)


def _run(recipe: Recipe, model: PreTrainedModel, lengths: Lengths, flops: float, dtype: torch.dtype | None) -> Measured:
    microbatch, token, forward = _training(recipe, model, lengths, flops, dtype)
    step, row = _decoding(recipe, model, lengths, flops, dtype)
    return Measured(microbatch, token, forward, step, row, _optimizer(model))


def _training(
    recipe: Recipe, model: PreTrainedModel, lengths: Lengths, flops: float, dtype: torch.dtype | None
) -> tuple[float, float, float]:
    packed, answers = prepare_policy(model.train()), min(recipe.rollout.num_generations, 16)
    tokens = max(64.0, min(_MOST_TOKENS, recipe.grpo.tokens_per_microbatch, _FLOPS / (3 * flops)))
    # A group of the recipe's, made smaller as a whole where one alone would be too much.
    longest = min(1.0, tokens / (lengths.prompt + answers * lengths.completion))
    prompt, completion = (max(2, min(_LONGEST, round(longest * n))) for n in (lengths.prompt, lengths.completion))
    figures = []
    for size in (tokens / 4, tokens):
        groups = max(1, round(size / (answers * completion)))
        samples = [sample for group in range(groups) for sample in _group(group, answers, prompt, completion)]
        budget = sum(sample.length for sample in samples)
        (batch,) = pack(samples, budget, 0, packed=packed, shared_prefix=recipe.grpo.shared_prefix)

        def forward(batch=batch) -> torch.Tensor:
            with autocast(model.device, dtype):
                return policy_logprobs(model, batch, recipe.rollout.temperature)[0]

        def both(forward=forward) -> None:
            forward().sum().backward()

        run = batch.input_ids.numel() if batch.packed is None else len(batch.packed.tokens)
        with torch.no_grad():
            alone = _best(forward)
        figures.append((run, _best(both), alone))
    (few, quick, _), (many, slow, alone) = figures
    slope = (slow - quick) / (many - few) if many > few else slow / many
    slope = min(max(slope, 0.5 * slow / many), slow / many)
    return slow - slope * many, slope, alone / slow


def _group(group: int, answers: int, prompt: int, completion: int) -> list[TrainingSample]:
    ids, generator = np.full(prompt, group % 7 + 1, dtype=np.int64), np.random.default_rng(group)
    zeros = np.zeros(completion, dtype=np.float32)
    drawn = generator.integers(1, 8, (answers, completion))
    return [TrainingSample(Rollout(_NOBODY, ids, row, zeros, "stop"), 1.0, 1.0) for row in drawn]


def _decoding(
    recipe: Recipe, model: PreTrainedModel, lengths: Lengths, flops: float, dtype: torch.dtype | None
) -> tuple[float, float]:
    """With the built-in engine, without an end-of-sequence token: every row goes on."""
    rollout = recipe.rollout
    engine = BuiltinEngine(model, [], max_rows=rollout.max_num_seqs, autocast_dtype=dtype)
    prompt = max(1, min(_LONGEST, round(lengths.prompt), round(_FLOPS / (16 * flops))))
    most = min(256, rollout.max_num_seqs, recipe.grpo.prompts_per_rollout * rollout.num_generations)
    most = max(8, min(most, round(_FLOPS / (2 * _STEPS * flops))))
    ids, figures = [1] * prompt, []
    for rows in (max(1, most // 8), most):

        def generate(tokens: int, rows=rows) -> None:
            sampling = Sampling(rows, tokens, rollout.temperature, rollout.top_p, rollout.top_k)
            engine.generate([_NOBODY], [ids], sampling)

        first, more = _best(lambda: generate(1)), _best(lambda: generate(1 + _STEPS))
        figures.append((rows, max(more - first, 0.0) / _STEPS))
    (few, quick), (many, slow) = figures
    row = max(slow - quick, 0.1 * slow) / (many - few) if many > few else 0.0
    return max(slow - row * many, 0.0), row


def _optimizer(model: PreTrainedModel) -> float:
    """AdamW and the norm of the gradient, as the trainer calls them."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step()
    seconds = _best(step)
    model.zero_grad()
    return seconds / sum(parameter.numel() for parameter in model.parameters())


def _extrapolated(shallow: Measured, deep: Measured, layers: int) -> Measured:
    """What grows with the layers grows as from the one to the other; shares and the optimizer are the deeper one's."""
    steps = (layers - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
    grown = {
        name: low + max(getattr(deep, name) - low, 0.0) * steps
        for name in ("microbatch", "token", "step", "row")
        for low in [getattr(shallow, name)]
    }
    return Measured(**grown, forward=deep.forward, parameter=deep.parameter)


def _best(call: Callable[[], object], times: int = 2) -> float:
    """Seconds of the quickest call: what disturbs only makes it longer. With one thread they are the process's own, so
    that other work on the machine does not count; several may wait for each other."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    found = []
    for _ in range(times):
        start = clock()
        call()
        found.append(clock() - start)
    return min(found)


_NOBODY = Problem("", "")

"""How fast the parts of a step are: measured on this machine where the model is small, from its FLOPs where not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rlzero.grpo.explain import constants
from rlzero.grpo.explain.memory import ITEMSIZES, Precision
from rlzero.grpo.explain.probe import LARGEST, interpreter_seconds, probe, probed_parameters
from rlzero.rollout.vllm_cpu_options import BLOCK_TOKENS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from rlzero.grpo.config import Recipe
    from rlzero.grpo.explain.architecture import Architecture
    from rlzero.grpo.explain.lengths import Lengths
    from rlzero.grpo.explain.place import Place


@dataclass(frozen=True)
class Rates:
    """Seconds of one process. token: run by a forward and backward pass; microbatch: its fixed part; forward: share of
    both that a forward pass takes. step: of decoding, its fixed part; row: of a sequence in it; prompt: of a prompt's
    token; block: of how many tokens a prompt must have whole ones for its answers to share them. answer: of an answer's
    other handling by the engine, score: by the rewards. optimizer, sync, start: each."""

    token: float
    microbatch: float
    forward: float
    step: float
    row: float
    prompt: float
    block: int
    answer: float
    score: float
    optimizer: float
    sync: float
    start: float
    how: str


def find_rates(
    recipe: Recipe, architecture: Architecture, config: PretrainedConfig, place: Place, lengths: Lengths, engine: str,
    kind: Precision,
) -> Rates:  # fmt: skip
    """kind: how numbers are stored and computed."""
    turn = interpreter_seconds()
    if place.device == "cpu" and probed_parameters(config) <= LARGEST:
        return _measured(recipe, architecture, config, lengths, engine, kind, turn)
    return _by_flops(recipe, architecture, place, lengths, engine, kind, turn)


def _measured(
    recipe: Recipe, architecture: Architecture, config: PretrainedConfig, lengths: Lengths, engine: str,
    kind: Precision, turn: float,
) -> Rates:  # fmt: skip
    flops = architecture.flops(lengths.prompt + lengths.completion) + architecture.head_flops
    found = probe(recipe, config, lengths, flops, torch.bfloat16 if kind.mixed else None)
    total = architecture.parameters.total
    recomputed = 1 + found.forward if recipe.model.gradient_checkpointing else 1.0
    step, row, answer, sync, start = found.step, found.row, 0.0, 0.0, turn * constants.BUILTIN_START
    if engine == "vllm":
        step += turn * constants.VLLM_STEP
        row += turn * constants.VLLM_TOKEN
        answer, start = turn * constants.VLLM_ANSWER, turn * constants.VLLM_START
        # Read, written, and packed: three times over.
        sync = turn * constants.VLLM_SYNC + 3 * total * kind.computed / _copy_rate()
    return Rates(
        token=found.token * recomputed,
        microbatch=found.microbatch * recomputed,
        forward=found.forward / recomputed,
        step=step,
        row=row,
        prompt=found.token * found.forward,
        block=BLOCK_TOKENS if engine == "vllm" else 1,
        answer=answer,
        score=turn * constants.ANSWER,
        optimizer=found.parameter * architecture.trained,
        sync=sync,
        start=start,
        how="measured here on layers of random weights",
    )


def _by_flops(
    recipe: Recipe, architecture: Architecture, place: Place, lengths: Lengths, engine: str, kind: Precision,
    turn: float,
) -> Rates:  # fmt: skip
    """Three forward passes to train on a token, four where activations are computed again; a decode step reads all
    weights once, however many sequences there are."""
    flops = architecture.flops((lengths.prompt + lengths.completion) / 2) + architecture.head_flops
    gpu = place.device == "cuda"
    dtype = torch.bfloat16 if kind.computed == 2 else torch.float32
    peak = constants.ASSUMED_GPU_FLOPS if place.assumed else _matmul_rate(place.device, dtype, architecture.hidden)
    bandwidth = constants.ASSUMED_GPU_BANDWIDTH if place.assumed else _copy_rate(place.device)
    share = constants.GPU_MATMUL_SHARE if gpu else constants.CPU_MATMUL_SHARE
    passes = 4 if recipe.model.gradient_checkpointing else 3
    total, active = architecture.parameters.total, architecture.parameters.active
    # Many sequences reach all experts, so that the whole model is read.
    read = (total if architecture.experts else active) * kind.computed / bandwidth
    owned = architecture.trained / (place.processes if place.sharded else 1)
    rate = f"{peak / 1e12:.3g} TFLOP/s of {place.name}"
    rate += " (data sheet: none is at hand)" if place.assumed else ", measured here on one matrix product"
    return Rates(
        token=passes * flops / (share * peak),
        microbatch=constants.GPU_MICROBATCH_SECONDS if gpu else 0.0,
        forward=1 / passes,
        step=read + (constants.GPU_STEP_SECONDS if gpu else 0.0),
        row=flops / (share * peak) + (turn * constants.VLLM_TOKEN if engine == "vllm" and not gpu else 0.0),
        prompt=flops / (share * peak),
        block=(constants.VLLM_BLOCK if gpu else BLOCK_TOKENS) if engine == "vllm" else 1,
        answer=turn * constants.VLLM_ANSWER if engine == "vllm" else 0.0,
        score=turn * constants.ANSWER,
        # Weights, gradients and both moments are read, and three of them written.
        optimizer=7 * owned * kind.stored / bandwidth,
        sync=3 * total * kind.computed / bandwidth if engine == "vllm" else 0.0,
        start=constants.GPU_START_SECONDS if gpu else turn * constants.VLLM_START,
        how=f"from the model's FLOPs at {share:.0%} of {rate}",
    )


def _matmul_rate(device: str, dtype: torch.dtype, hidden: int) -> float:
    """FLOP/s of a product of 1,024 rows with a square matrix of the model's width."""
    size = min(hidden, 4096)
    left, right = (torch.randn(n, size, device=device, dtype=dtype) for n in (1024, size))
    times = 20 if device == "cuda" else 3

    def multiply() -> None:
        for _ in range(times):
            left @ right
        if device == "cuda":
            torch.cuda.synchronize()

    multiply()
    start = time.perf_counter()
    multiply()
    return 2 * 1024 * size * size * times / (time.perf_counter() - start)


def _copy_rate(device: str = "cpu") -> float:
    """Bytes/s that are read or written in a copy of 64 MiB."""
    source = torch.ones(2**24, device=device, dtype=torch.float32)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * source.numel() * ITEMSIZES["float32"] / min(seconds)

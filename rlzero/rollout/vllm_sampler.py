"""What vLLM's sampler does for every token beside the draw, without what nobody reads.

Imported by vllm_engine.py, after it has set what vLLM reads when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

from rlzero.rollout.sampling import uniforms


def lighten(sampler: Any) -> None:
    """Have vLLM's `Sampler` return log-probabilities without ranks and, on a CPU, draw without torch's generators.

    The rank of a token is counted by a compiled function: tens of seconds of a first call, and a C++ compiler. A CPU
    draws one number a row and step from a generator of its own, and as many again from torch's global one, which is
    the trainer's.
    """
    sampler.gather_logprobs = _keeping_ranks_out(sampler.gather_logprobs)
    draw = sampler.topk_topp_sampler
    if draw.forward.__name__ == "forward_cpu":
        draw.forward = _SeededDraw()


def _keeping_ranks_out(gather: Callable[..., LogprobsTensors]) -> Callable[..., LogprobsTensors]:
    def gather_logprobs(logprobs: Tensor, num_logprobs: int, token_ids: Tensor) -> LogprobsTensors:
        """Of the given tokens alone where no more are wanted: int32[N, 1], float32[N, 1], and zeros for the ranks."""
        if num_logprobs:
            return gather(logprobs, num_logprobs, token_ids)
        ids_N1 = token_ids[:, None]
        return LogprobsTensors(ids_N1.int(), logprobs.gather(-1, ids_N1), torch.zeros_like(token_ids))

    return gather_logprobs


class _SeededDraw:
    """vLLM's `forward_cpu` with the seed of every draw made from the request's seed and the number of its draw."""

    def __init__(self) -> None:
        self._draws: WeakKeyDictionary[torch.Generator, int] = WeakKeyDictionary()

    def __call__(
        self, logits: Tensor, generators: dict[int, torch.Generator], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens int64[R], and the log-probabilities float32[R, V] of the distribution that they were drawn from.

        generators: by row; one without is drawn for by its place in the batch, and nobody asks which token it was.
        """
        logits_RV = apply_top_k_top_p(logits, k, p).float()
        keys_R, steps_R = np.arange(len(logits_RV), dtype=np.uint64), np.zeros(len(logits_RV), dtype=np.int64)
        for row, generator in generators.items():
            keys_R[row], steps_R[row] = generator.initial_seed(), self._draws.get(generator, 0)
            self._draws[generator] = int(steps_R[row]) + 1
        seeds_R = torch.from_numpy((uniforms(keys_R, steps_R) * 2**31).astype(np.int64))
        return torch.ops._C.fused_gumbel_argmax(logits_RV, seeds_R), logits_RV.log_softmax(dim=-1)

"""Does the engine compute what the trainer computes? Asked when it is made, and after weight syncs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from data.problem import Problem
from rlzero.models.logprobs import token_logprobs
from rlzero.rollout.types import Engine, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Mean |difference| in nats a token. float32 engines agree to about 1e-6, and a sync gone wrong is off by
# tenths; half precision rounds hidden states, in bfloat16 to 3 digits, and two implementations round
# differently.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class SyncError(RuntimeError):
    """Engine and trainer disagree about the same tokens: the engine's weights are not the trainer's.

    difference: mean |Δ log-probability|, in nats a token.
    """

    def __init__(self, message: str, difference: float) -> None:
        super().__init__(message)
        self.difference = difference


def default_tolerance(*dtypes: torch.dtype) -> float:
    """Mean |difference| that the coarsest of these dtypes (trainer's, engine's) explains, in nats a token."""
    return max(TOLERANCES[dtype] for dtype in dtypes)


def check_sync(
    engine: Engine,
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    tolerance: float,
    *,
    autocast_dtype: torch.dtype | None = None,
    max_tokens: int = 256,
) -> float:
    """Mean |Δ log-probability| in nats between engine and model over the sequences' tokens.

    sequences: token ids, prompt and completion together; a few suffice. Each is cut to `max_tokens` (and to
    what the engine can score). Raises SyncError beyond the tolerance, or where a value is not finite.
    """
    longest = min(max_tokens, engine.max_model_len - 1)
    cut = [list(sequence[:longest]) for sequence in sequences]
    cut = [sequence for sequence in cut if len(sequence) > 1]
    if not cut:
        raise ValueError("the sync check needs a sequence of at least two tokens, got none: pass sampled completions.")
    by_engine = np.concatenate(engine.score(cut))
    by_model = np.concatenate(token_logprobs(model, cut, autocast_dtype=autocast_dtype))
    differences = np.abs(by_engine.astype(np.float64) - by_model)
    mean = float(differences.mean())
    if not mean <= tolerance:  # also when it is NaN
        raise SyncError(
            f"after a weight sync the {engine.name} engine must give the trainer's log-probabilities, and "
            f"it does not: mean |difference| {mean:.3g} nats a token, maximum {differences.max():.3g}, "
            f"tolerance {tolerance:g} ({len(differences)} tokens of {len(cut)} sequences). Training on such "
            "samples would learn from garbage. Likely causes: a weight that the sync did not reach or that "
            "vLLM repacked (an architecture not tried yet), another checkpoint in the engine than in the "
            "trainer, or dtypes that differ (then raise the tolerance). Try --rollout builtin, which has "
            "no second copy of the weights.",
            mean,
        )
    return mean


def check_decoding(engine: Engine, vocabulary: int, tolerance: float, architecture: str) -> None:
    """Raise ValueError where the engine samples, token by token with a cache, by other log-probabilities than it has
    for the same tokens at once. Two prompts of unlike length are sampled together; tolerance in nats a token.

    A model that does not take a cache, or cannot be padded on the left, samples nonsense without an error.
    """
    tokens = max(1, min(6, engine.max_model_len // 2))
    prompts = [[token % vocabulary for token in range(2, 2 + length)] for length in (tokens, (tokens + 1) // 2)]
    groups = engine.generate([Problem("", "")] * 2, prompts, Sampling(n=1, max_tokens=tokens))
    rollouts = [group.rollouts[0] for group in groups]
    whole = engine.score([np.concatenate([r.prompt_ids, r.completion_ids]).tolist() for r in rollouts])
    at_once = [logprobs[-len(r.completion_ids) :] for r, logprobs in zip(rollouts, whole, strict=True)]
    sampled = np.concatenate([r.sampler_logprobs for r in rollouts])
    mean = float(np.abs(sampled - np.concatenate(at_once)).mean())
    if mean > tolerance:  # not for NaN: another process may have the weights
        raise ValueError(
            f"the {engine.name} engine must sample by the log-probabilities that the model has, and with "
            f"{architecture} it does not: mean |difference| {mean:.3g} nats a token, tolerance {tolerance:g}. It "
            "probably does not take a cache, or no padding on the left: use --rollout vllm if vLLM knows it, or "
            "another architecture."
        )

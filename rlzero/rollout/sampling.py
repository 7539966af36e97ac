"""Drawing tokens so that a completion depends on its own seed, and not on what else is in the batch."""

from __future__ import annotations

import numpy as np
import torch

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def row_keys(seed: int, prompt_positions: np.ndarray, sample_positions: np.ndarray) -> np.ndarray:
    """uint64[R]: a key for each completion, so that (seed, prompt, sample) names a random stream of its own.

    prompt_positions, sample_positions: int64[R].
    """
    keys = np.full(len(prompt_positions), seed % 2**64, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for positions in (prompt_positions, sample_positions):
            keys = _mix(keys + _GAMMA) ^ _mix(positions.astype(np.uint64) + _GAMMA + _GAMMA)
    return keys


def uniforms(keys: np.ndarray, step: int | np.ndarray) -> np.ndarray:
    """float64[R] in [0, 1): the `step`-th number of each row's own stream; a step for all rows, or int[R].

    keys: uint64[R]. SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) with the key as its state: a counter-
    based generator, so a row's numbers need no state, and rows may leave the batch in any order.
    """
    with np.errstate(over="ignore"):
        bits = _mix(keys + (np.asarray(step, dtype=np.uint64) + np.uint64(1)) * _GAMMA)
    # 48 bits: u * total stays below total in float64, so the search below never runs off the end.
    return (bits >> np.uint64(16)).astype(np.float64) * 2.0**-48


def sample_tokens(
    logits_RV: torch.Tensor, uniforms_R: torch.Tensor, temperature: float, top_p: float, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row by inverting the cumulative distribution at the row's uniform number.

    logits_RV: float[R, V]. uniforms_R: float64[R] in [0, 1). temperature 0 takes the largest logit.
    Returns int64[R] and float32[R], the log-probability of each under the distribution that it was drawn
    from: after temperature, top-k and top-p (greedy: the model's own distribution). NaN where the logits are
    broken.

    One number a row serves where Gumbel noise needs V, and a rounding error in the logits changes a draw only
    if it moves a boundary across the number.
    """
    logits_RV = logits_RV.float()
    if temperature == 0:
        logprobs_RV = logits_RV.log_softmax(-1)
        tokens_R = logprobs_RV.argmax(-1)
        return tokens_R, logprobs_RV.gather(-1, tokens_R[:, None]).squeeze(-1)
    logprobs_RV = (logits_RV / temperature).log_softmax(-1)
    if 0 < top_k < logprobs_RV.shape[-1]:
        least_R1 = logprobs_RV.topk(top_k, dim=-1).values[:, -1:]
        logprobs_RV = logprobs_RV.masked_fill(logprobs_RV < least_R1, -torch.inf).log_softmax(-1)
    if top_p < 1:
        sorted_RV, order_RV = logprobs_RV.sort(dim=-1, descending=True)
        probs_RV = sorted_RV.exp()
        # A token stays while those before it do not yet reach top_p, so the first always stays.
        outside_RV = probs_RV.cumsum(-1) - probs_RV >= top_p
        outside_RV = torch.zeros_like(outside_RV).scatter(-1, order_RV, outside_RV)
        logprobs_RV = logprobs_RV.masked_fill(outside_RV, -torch.inf).log_softmax(-1)
    # float64: over a large vocabulary a float32 sum would lose the rare tokens.
    cumulative_RV = logprobs_RV.double().exp_().cumsum_(-1)
    target_R1 = (uniforms_R * cumulative_RV[:, -1])[:, None]
    # right=True: the first entry *above* the target, so a token of probability 0 is never drawn.
    tokens_R1 = torch.searchsorted(cumulative_RV, target_R1, right=True).clamp_(max=logits_RV.shape[-1] - 1)
    return tokens_R1.squeeze(-1), logprobs_RV.gather(-1, tokens_R1).squeeze(-1)


def _mix(bits: np.ndarray) -> np.ndarray:
    """SplitMix64's output function, uint64."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))

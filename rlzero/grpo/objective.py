"""What a token contributes to the policy loss, by `loss_type`.

One signature: `(policy_logprobs, old_logprobs, sequences, advantages, bounds)`. Log-probabilities float[R, T] (or [T]
packed); `sequences` says which tokens count and belong together; advantages broadcast against the tokens
(`sequences.spread` of one per answer, or one per token). Returns the loss of each token, 0 outside the mask, and two
sums over tokens: `clip_low` and `clip_high`, how many have their gradient cut at the lower and the upper bound.

w_t = π(o_t) / π_old(o_t) is the ratio of a token, A the advantage, sg[·] stops the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlzero.grpo.sequences import Sequences, masked_difference, mean_of

Objective = Callable[[Tensor, Tensor, Sequences, Tensor, "Bounds"], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Bounds:
    """How far the policy may move from the one that sampled; names and defaults as TRL's.

    epsilon, epsilon_high: the ratio's clip is [1 − epsilon, 1 + epsilon_high]; for cispo epsilon_high is the largest
    weight itself. delta: dual clip, above 1 + epsilon_high; None is off. sapo_temperature_pos, _neg: steepness of the
    gate for A > 0 and A ≤ 0.
    """

    epsilon: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05


def clip(
    policy_logprobs: Tensor, old_logprobs: Tensor, sequences: Sequences, advantages: Tensor, bounds: Bounds
) -> tuple[Tensor, dict[str, Tensor]]:
    """−min(w A, clip(w, 1 − ε, 1 + ε_high) A): PPO (1707.06347), eq. 7, with DAPO's upper bound (2503.14476, eq. 10).

    With delta, for A < 0: −max(that min, δ A), the dual clip of 1912.09729 ("Dual-clip PPO"), δ > 1 + ε_high.
    """
    return _clipped(token_ratio(policy_logprobs, old_logprobs, sequences.mask), sequences.mask, advantages, bounds)


def gspo(
    policy_logprobs: Tensor, old_logprobs: Tensor, sequences: Sequences, advantages: Tensor, bounds: Bounds
) -> tuple[Tensor, dict[str, Tensor]]:
    """−min(s A, clip(s, 1 − ε, 1 + ε_high) A), s = exp(mean_t log w_t): GSPO (2507.18071), eq. 5 and 7.

    Every token carries its sequence's loss: with the token weights of `grpo` their sum is the paper's mean over
    answers.
    """
    ratio = sequence_ratio(policy_logprobs, old_logprobs, sequences)
    return _clipped(ratio, sequences.mask, advantages, bounds)


def gspo_token(
    policy_logprobs: Tensor, old_logprobs: Tensor, sequences: Sequences, advantages: Tensor, bounds: Bounds
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same with s_t = sg[s] · π(o_t) / sg[π(o_t)]: GSPO-token (2507.18071), eq. 13 and 14.

    Value and gradient are GSPO's where all tokens of an answer share one advantage; it allows one per token.
    """
    own = masked_difference(policy_logprobs, policy_logprobs.detach(), sequences.mask)
    ratio = sequence_ratio(policy_logprobs, old_logprobs, sequences).detach() * torch.exp(own)
    return _clipped(ratio, sequences.mask, advantages, bounds)


def cispo(
    policy_logprobs: Tensor, old_logprobs: Tensor, sequences: Sequences, advantages: Tensor, bounds: Bounds
) -> tuple[Tensor, dict[str, Tensor]]:
    """−sg[min(w, ε_high)] A log π(o_t): CISPO (2506.13585), eq. 4 and 5; no token loses its gradient.

    epsilon_high is the cap itself, as in TRL and ScaleRL (2510.13786), which takes 5: the paper's 1 + ε_high^IS. It
    has no lower bound in the paper either (ε_low^IS "large").
    """
    mask = sequences.mask
    ratio = token_ratio(policy_logprobs, old_logprobs, mask).detach()
    loss = -ratio.clamp(max=bounds.epsilon_high) * advantages * policy_logprobs
    return _within(mask, loss), _counts(mask, torch.zeros_like(mask), (ratio > bounds.epsilon_high) & (advantages != 0))


def sapo(
    policy_logprobs: Tensor, old_logprobs: Tensor, sequences: Sequences, advantages: Tensor, bounds: Bounds
) -> tuple[Tensor, dict[str, Tensor]]:
    """−f(w) A, f(w) = (4 / τ) σ(τ (w − 1)), τ = τ_pos where A > 0, else τ_neg: SAPO (2511.20347), eq. 5 and 6.

    The gate's slope 4 σ (1 − σ) weighs the gradient: 1 at w = 1, and falling to either side. Counted as clipped:
    tokens that it weighs below one half.
    """
    mask = sequences.mask
    ratio = token_ratio(policy_logprobs, old_logprobs, mask)
    steep, gentle = (ratio.new_tensor(t) for t in (bounds.sapo_temperature_neg, bounds.sapo_temperature_pos))
    temperature = torch.where(advantages > 0, gentle, steep)
    gate = torch.sigmoid(temperature * (ratio - 1))
    faint = 4 * gate * (1 - gate) < 0.5
    loss = -4 / temperature * gate * advantages
    return _within(mask, loss), _counts(mask, faint & (ratio < 1), faint & (ratio > 1))


# loss_type -> objective; the name also chooses the weights of tokens (`loss.TOKEN_WEIGHTS`).
OBJECTIVES: dict[str, Objective] = {
    "dapo": clip,
    "grpo": clip,
    "bnpo": clip,
    "dr_grpo": clip,
    "gspo": gspo,
    "gspo_token": gspo_token,
    "cispo": cispo,
    "sapo": sapo,
}


def token_ratio(policy_logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """w_t = π(o_t) / π_old(o_t); 1 outside the mask."""
    return torch.exp(masked_difference(policy_logprobs, old_logprobs, mask))


def sequence_ratio(policy_logprobs: Tensor, old_logprobs: Tensor, sequences: Sequences) -> Tensor:
    """s = (π(o) / π_old(o))^(1 / |o|), spread over the tokens: 2507.18071, eq. 7."""
    return torch.exp(mean_of(sequences, masked_difference(policy_logprobs, old_logprobs, sequences.mask)))


def _clipped(ratio: Tensor, mask: Tensor, advantages: Tensor, bounds: Bounds) -> tuple[Tensor, dict[str, Tensor]]:
    lowest, highest = 1 - bounds.epsilon, 1 + bounds.epsilon_high
    gain = torch.minimum(ratio * advantages, ratio.clamp(lowest, highest) * advantages)
    low, high = (ratio < lowest) & (advantages < 0), (ratio > highest) & (advantages > 0)
    if bounds.delta is not None:
        # For A ≥ 0 the gain is never negative and the bound does nothing.
        gain = torch.where(advantages < 0, torch.maximum(gain, bounds.delta * advantages), gain)
        high = high | ((ratio > bounds.delta) & (advantages < 0))
    return _within(mask, -gain), _counts(mask, low, high)


def _within(mask: Tensor, loss: Tensor) -> Tensor:
    """The loss in the shape of the tokens, 0 outside the mask."""
    return torch.where(mask, loss, torch.zeros_like(loss))


def _counts(mask: Tensor, low: Tensor, high: Tensor) -> dict[str, Tensor]:
    return {"clip_low": (low & mask).sum(), "clip_high": (high & mask).sum()}

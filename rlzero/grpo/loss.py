"""How the losses of tokens are averaged (`rlzero.grpo.objective` has the losses themselves).

A loss is a weighted *sum* over tokens. The weights are fixed from counts over the whole optimizer step and all
processes before the first microbatch runs, so the gradient does not depend on how the step was cut up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepCounts:
    """Of one optimizer step, over all processes, groups without signal included (they are skipped, not forgotten).

    tokens: those that count in the loss. processes, local_tokens: how many processes there are, and the tokens of
    this one; None where it has them all.
    """

    sequences: int
    tokens: int
    max_completion_length: int
    processes: int = 1
    local_tokens: int | None = None


def dapo(lengths_R: torch.Tensor, counts: StepCounts) -> torch.Tensor:
    """Every token of the step weighs the same: DAPO (2503.14476), eq. 12.

    The equation has one group; over several, the paper's code (verl) and TRL average the tokens of all, as here.
    """
    return torch.full_like(lengths_R, 1.0 / max(counts.tokens, 1))


def bnpo(lengths_R: torch.Tensor, counts: StepCounts) -> torch.Tensor:
    """Every token of a process weighs the same, then every process: TRL's bnpo, Σ over the local batch / its tokens.

    TRL's local batch is a microbatch; here it is what one process has in the optimizer step, so that the gradient does
    not depend on how that is cut. With one process it is `dapo`.
    """
    local = counts.tokens if counts.local_tokens is None else counts.local_tokens
    return torch.full_like(lengths_R, 1.0 / (counts.processes * max(local, 1)))


def grpo(lengths_R: torch.Tensor, counts: StepCounts) -> torch.Tensor:
    """Mean over the tokens of an answer, then over answers: DeepSeekMath (2402.03300), eq. 3."""
    return 1.0 / (lengths_R.clamp(min=1) * counts.sequences)


def dr_grpo(lengths_R: torch.Tensor, counts: StepCounts) -> torch.Tensor:
    """Sum over tokens divided by a constant, the largest length: Dr. GRPO (2503.20783), §3.2 and listing 1."""
    return torch.full_like(lengths_R, 1.0 / (counts.sequences * counts.max_completion_length))


TokenWeights = Callable[[torch.Tensor, StepCounts], torch.Tensor]

# loss_type -> weight of each token of a row, float[R], from the tokens that a row has in the loss, float[R]. Each
# paper's own average: GSPO (2507.18071, eq. 5) and SAPO (2511.20347, eq. 5) as GRPO, CISPO (2506.13585, eq. 4) as DAPO.
TOKEN_WEIGHTS: dict[str, TokenWeights] = {
    "dapo": dapo,
    "grpo": grpo,
    "bnpo": bnpo,
    "dr_grpo": dr_grpo,
    "gspo": grpo,
    "gspo_token": grpo,
    "cispo": dapo,
    "sapo": grpo,
}

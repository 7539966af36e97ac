"""How far the policy is from the reference, estimated on the tokens that it sampled; in the loss or in the reward.

Schulman, "Approximating KL Divergence" (joschu.net/blog/kl-approx.html, 2020), with d = log π(o_t) − log π_ref(o_t);
names and values as there. What each is worth as a loss is another question than how well it estimates (2510.01555):

| in the loss | gradient, times ∇ log π(o_t) | what its expectation descends, for samples of π |
| --- | --- | --- |
| k1 | 1 | nothing: the expectation is 0 |
| k2 | d | KL(π ‖ π_ref) |
| k3 | 1 − e^−d | KL(π_ref ‖ π): GRPO's (2402.03300, eq. 4), equal to k2's to first order in d |
| w · k1 | w (1 + d) | KL(π ‖ π_ref), also for samples of π_old, with w = π / π_old |
| sg[w] · k2 | w d | the same |
| w · k3 | w d | the same: DeepSeek-V3.2 (2512.02556, eq. 7) |

The divergence is that of the next token's distribution; what a token does to the divergence of later ones is in
`kl_in_reward` only. Off policy, without w, the first three are biased.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlzero.grpo.sequences import Sequences, masked_difference


def k1(difference: Tensor) -> Tensor:
    """d. Unbiased, of high variance, negative for half the tokens."""
    return difference


def k2(difference: Tensor) -> Tensor:
    """d² / 2. Biased, of low variance."""
    return 0.5 * difference**2


def k3(difference: Tensor) -> Tensor:
    """e^−d − 1 + d. Unbiased and never negative."""
    return torch.expm1(-difference) + difference


# name -> estimator of KL(π ‖ π_ref) from d, per token, any shape
KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def kl_in_loss(
    name: str, policy_logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, ratio: Tensor | None = None
) -> Tensor:
    """The KL term of each token, with gradient, 0 outside the mask; the caller multiplies by β.

    ratio: π / π_old of the token, with gradient, where TRL's `use_bias_correction_kl` is on. It multiplies the
    estimate; k2 takes it without its gradient, since the gradient of w k2 is not that of any KL.
    """
    estimate = KL_ESTIMATORS[name](masked_difference(policy_logprobs, ref_logprobs, mask))
    if ratio is None:
        return estimate
    return estimate * (ratio.detach() if name == "k2" else ratio)


def kl_in_reward(name: str, old_logprobs: Tensor, ref_logprobs: Tensor, sequences: Sequences) -> Tensor:
    """The KL of each sequence, its tokens' estimates added up: float[S], without gradient.

    r' = r − β KL, before the advantages: RLOO (2402.14740), §2, and TRL's `RLOOTrainer`, both with k1.
    """
    with torch.no_grad():
        return sequences.sums(KL_ESTIMATORS[name](masked_difference(old_logprobs, ref_logprobs, sequences.mask)))

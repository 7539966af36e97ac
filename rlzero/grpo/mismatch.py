"""How far the engine that sampled and the policy that trains disagree about the same tokens."""

from __future__ import annotations

import math

import torch

# Tokens are counted as far apart where one side gives more than this many times the other's probability.
FAR = 2.0


def mismatch_sums(difference_RT: torch.Tensor, mask_RT: torch.Tensor) -> list[torch.Tensor]:
    """Over the tokens of the mask, from policy − sampler log-probability in nats: the sums of |difference|, of k3 and
    of the tokens that are far apart, and the largest |difference|.

    k3 = e^d − 1 − d is an unbiased estimate of KL(sampler ‖ policy) for tokens that the sampler drew, and never
    negative: Schulman, "Approximating KL divergence" (2020). Far apart: e^d > 2 or e^d < 1/2, as R3
    counts them (2510.11370).
    """
    difference_RT = difference_RT * mask_RT
    size_RT = difference_RT.abs()
    k3_RT = torch.expm1(difference_RT) - difference_RT
    return [size_RT.sum(), k3_RT.sum(), (size_RT > math.log(FAR)).sum(), size_RT.max()]

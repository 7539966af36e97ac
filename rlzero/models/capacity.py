"""Dropping: an expert, or a device, takes only so many assignments from a batch, and the rest are left out.

Names: T tokens, K experts of a token, A = T K assignments, E experts, G groups (devices).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig
    from rlzero.models.router import Routing


def drop(routing: Routing, config: MoEConfig, factor: float) -> Routing:
    """The routing with weight 0 where `drop_policy` leaves an assignment out.

    factor: capacity in multiples of an even share of the assignments that the T tokens have. T are the tokens of one
    forward pass on one process (GShard's local group): who is dropped depends on who else is in the batch.
    """
    assert config.drop_policy is not None
    kept_TK = DROP_POLICIES[config.drop_policy](routing, config, factor)
    # A weight of 0 gives the result of a skipped expert, and the router no gradient. It does not save the time.
    return replace(routing, weights=torch.where(kept_TK, routing.weights, 0))


def keep_by_capacity(routing: Routing, config: MoEConfig, factor: float) -> Tensor:
    """bool[T, K]: expert capacity C = T K / E · factor, rounded up. Switch (2101.03961), eq. 3; GShard (2006.16668),
    algorithm 1.

    First choices in order of the tokens, then second ones behind them. A second expert that chance has left out
    (weight 0) takes no place: the printed algorithm counts it, the authors' code (lingvo, Top2GatingOnLogits) does
    not.
    """
    tokens, choices = routing.indices.shape
    experts_KT = torch.where(routing.weights > 0, routing.indices, config.n_routed_experts).t()
    places_KT = _places(experts_KT.flatten(), config.n_routed_experts + 1).view(choices, tokens)
    return (places_KT < capacity(tokens * choices, config.n_routed_experts, factor)).t()


def keep_by_device(routing: Routing, config: MoEConfig, factor: float) -> Tensor:
    """bool[T, K]: on each device (group of experts) the assignments of highest affinity, up to its budget, T K / G ·
    factor rounded up. DeepSeek-V2 (2405.04434), §2.2.4, where factor is 1.

    The paper also keeps all tokens of about 10% of the sequences, so that inference may drop or not; not done here,
    since nothing is dropped in inference.
    """
    shape = routing.indices.shape
    devices_A = (routing.indices // (config.n_routed_experts // config.n_group)).flatten()
    order_A = routing.scores.detach().gather(1, routing.indices).flatten().argsort(descending=True, stable=True)
    places_A = torch.empty_like(order_A)
    places_A[order_A] = _places(devices_A[order_A], config.n_group)
    return (places_A < capacity(devices_A.numel(), config.n_group, factor)).view(shape)


def capacity(assignments: int, bins: int, factor: float) -> int:
    """Places in each of the bins. Rounded up, so that an even load fits at factor 1 also where it does not divide."""
    return math.ceil(assignments / bins * factor)


def _places(bins_A: Tensor, bins: int) -> Tensor:
    """int64[A]: how many assignments before this one have the same bin. Bins are int64 from 0 to `bins` - 1."""
    order_A = bins_A.argsort(stable=True)
    counts = torch.bincount(bins_A, minlength=bins)
    first = counts.cumsum(0) - counts
    places_A = torch.empty_like(order_A)
    places_A[order_A] = torch.arange(len(order_A), device=bins_A.device) - first[bins_A[order_A]]
    return places_A


DROP_POLICIES = {"capacity": keep_by_capacity, "device": keep_by_device}
"""`drop_policy` of the configuration -> its function."""

"""The loss of each token, put together: objective, masks, corrections and KL, in TRL's order."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from rlzero.grpo.correction import correction, off_policy_mask
from rlzero.grpo.entropy import high_entropy
from rlzero.grpo.kl import kl_in_loss
from rlzero.grpo.objective import OBJECTIVES, Bounds, sequence_ratio, token_ratio
from rlzero.grpo.sequences import Sequences


@dataclass(frozen=True)
class LossOptions:
    """What the loss of a token is made of; names and meanings as TRL's, defaults as this project's.

    loss_type: see `objective.OBJECTIVES`. beta: the KL term's weight, 0 without; kl_estimator: see `kl.KL_ESTIMATORS`.
    importance_sampling_mode: see `correction.CORRECTIONS`, None without. off_policy_mask_threshold: None without.
    """

    loss_type: str = "dapo"
    bounds: Bounds = field(default_factory=Bounds)
    beta: float = 0.0
    kl_estimator: str = "k3"
    use_bias_correction_kl: bool = False
    importance_sampling_mode: str | None = None
    importance_sampling_clip_min: float | None = None
    importance_sampling_clip_max: float | None = 3.0
    off_policy_mask_threshold: float | None = None


@dataclass(frozen=True)
class Logprobs:
    """Of the sampled tokens, float[R, T] or [T]: policy with gradient, old and sampler without, ref where beta > 0."""

    policy: Tensor
    old: Tensor
    sampler: Tensor
    ref: Tensor | None = None


def token_loss(
    options: LossOptions,
    logprobs: Logprobs,
    sequences: Sequences,
    advantages: Tensor,
    entropies: Tensor,
    entropy_threshold: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(objective × off-policy mask × high-entropy mask × correction) + β KL, per token, 0 outside the mask.

    advantages: broadcasting against the tokens. entropies: of the tokens, any gradient is ignored; entropy_threshold:
    −inf to learn from all tokens. Multiplied with the token weights and added up it is the loss; the entropy bonus
    has its own mean (`entropy.entropy_bonus`). Returns statistics too, which add up over microbatches except
    `ratio_max`.
    """
    loss, stats = OBJECTIVES[options.loss_type](logprobs.policy, logprobs.old, sequences, advantages, options.bounds)
    if options.off_policy_mask_threshold is not None:
        keep = off_policy_mask(
            logprobs.policy, logprobs.sampler, advantages, sequences, options.off_policy_mask_threshold
        )
        loss = loss * keep
        stats["off_policy_masked"] = (~keep & sequences.mask).sum()
    loss = loss * high_entropy(entropies, sequences.mask, entropy_threshold)
    if options.importance_sampling_mode is not None:
        weight, corrected = correction(
            options.importance_sampling_mode, logprobs.old, logprobs.sampler, sequences,
            options.importance_sampling_clip_min, options.importance_sampling_clip_max,
        )  # fmt: skip
        loss = loss * weight
        stats |= corrected
    if options.beta and logprobs.ref is not None:
        ratio = _kl_ratio(options, logprobs, sequences) if options.use_bias_correction_kl else None
        kl = kl_in_loss(options.kl_estimator, logprobs.policy, logprobs.ref, sequences.mask, ratio)
        loss = loss + options.beta * kl
        stats["kl"] = kl.detach().sum()
    return loss, stats


def _kl_ratio(options: LossOptions, logprobs: Logprobs, sequences: Sequences) -> Tensor:
    """The objective's own ratio, as in TRL: of the sequence for GSPO, else of the token."""
    if options.loss_type == "gspo":
        return sequence_ratio(logprobs.policy, logprobs.old, sequences)
    return token_ratio(logprobs.policy, logprobs.old, sequences.mask)

"""Why is my loss 0? Answered by the alarms in the step where it happens first, each answer once in a run.

The signature is that of `alarms.Rule`; the last line of metrics says it all. Figures below `ZERO` are taken for 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

ZERO = 1e-5
# Share in the line of metrics -> the rest of the sentence: of what it is a share, who did it, what to try.
_LEFT_OUT = {
    "corrected": "of the tokens have an importance weight outside vllm_importance_sampling_clip_min and _clip_max, "
    "where a mask makes it 0 (look at mismatch_kl, and widen the bounds or choose a mode that truncates)",
    "off_policy_masked": "of the tokens are in answers that the off-policy mask leaves out (raise "
    "off_policy_mask_threshold)",
    "clip_ratio": "of the tokens are clipped, since the policy has moved too far from the one that sampled (lower "
    "learning_rate, make fewer updates per rollout, or widen epsilon and epsilon_high)",
    "masked": "of the answers were cut off, and mask_truncated_completions leaves them out (raise "
    "max_completion_length, or switch that off)",
}


def by_nature(recent: Sequence[Row], peaks: Mapping[str, float]) -> str | None:
    """The loss is 0 and the gradient is not."""
    row = recent[-1]
    loss, grad_norm = row["loss"], row["grad_norm"]
    if row["skipped"] or loss is None or grad_norm is None or abs(loss) >= ZERO or grad_norm < ZERO:
        return None
    return (
        f"The loss is 0 in step {row['step']} and nothing is broken: while the policy is the one that sampled every "
        f"ratio is 1, and the advantages of a group add up to 0. The gradient does not (norm {grad_norm:.3g}). Watch "
        "reward and accuracy, not the loss."
    )


def equal_rewards(recent: Sequence[Row], peaks: Mapping[str, float]) -> str | None:
    """No answer had an advantage, and nothing else pulls."""
    row = recent[-1]
    if not _no_gradient(row) or row["groups_with_signal"]:
        return None
    return (
        f"{_what(row)} 0 in step {row['step']}: within every group all rewards were equal (mean {row['reward']:.3g}), "
        f"so no answer had an advantage{_no_pull(row)}. Such a step changes nothing; the next ones may."
    )


def left_out(recent: Sequence[Row], peaks: Mapping[str, float]) -> str | None:
    """Answers had advantages, and a mask or the clip left nothing of them."""
    row = recent[-1]
    if not _no_gradient(row) or not row["groups_with_signal"]:
        return None
    if not row["trained_tokens"]:
        return (
            f"{_what(row)} 0 in step {row['step']}: every answer that had an advantage was cut off at the length "
            "limit, and mask_truncated_completions leaves such answers out. Raise max_completion_length, or switch "
            "that off."
        )
    shares = {name: row[name] for name in _LEFT_OUT if row.get(name)}
    causes = [f"{shares[name]:.0%} {_LEFT_OUT[name]}" for name in sorted(shares, key=lambda name: -shares[name])]
    largest = row.get("ratio_max")
    if largest is not None and largest < ZERO:
        causes.append(
            f"the largest importance weight is {largest:.1g}, which leaves nothing of a loss (a token_ mode weighs "
            "each token by its own ratio alone)"
        )
    if not causes:
        causes = ["no mask and no clip explains that (see in rollouts/ whether the advantages are near 0)"]
    return f"{_what(row)} 0 in step {row['step']} although answers had advantages: {'; '.join(causes)}."


def _no_gradient(row: Row) -> bool:
    return not row["skipped"] and row["grad_norm"] is not None and row["grad_norm"] < ZERO


def _what(row: Row) -> str:
    """What is clipped has a loss and no gradient."""
    return "The gradient is" if row["loss"] is not None and abs(row["loss"]) >= ZERO else "Loss and gradient are"


def _no_pull(row: Row) -> str:
    """Why answers without an advantage, that were trained on for another term of the loss, have no gradient either."""
    if not row["trained_tokens"]:
        return ""
    if row.get("kl") is None:
        return f", and the entropy bonus pulls nowhere (entropy {row['entropy']:.2g})"
    return f", and the policy is still its reference, so that the KL is 0 too ({row['kl']:.2g}) and pulls nowhere"

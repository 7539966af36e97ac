"""What becomes of answers that ran into the length limit.

Two remedies of DAPO (2503.14476, §3.4): overlong filtering, here, and the soft punishment, which is the reward
`overlong(max_completion_length=…, cache=…)` (`rewards.overlong`, eq. 13).
"""

from __future__ import annotations

from collections.abc import Sequence

from rlzero.rollout.types import Rollout


def loss_lengths(rollouts: Sequence[Rollout], mask_truncated_completions: bool) -> list[int]:
    """How many tokens each answer has in the loss: all of them, or none where it was cut off and these are masked.

    A masked answer keeps its place in the group's statistics and among the sequences of the step, as in TRL; it has
    no token in the denominators of `dapo` and `bnpo`, and costs no forward pass.
    """
    return [
        0 if mask_truncated_completions and rollout.finish_reason == "length" else len(rollout.completion_ids)
        for rollout in rollouts
    ]

"""What a line of metrics counts as a group with signal: whatever has something to teach, however it is compared."""

from __future__ import annotations

import math

import pytest

from rlzero.grpo.record import with_signal
from rlzero.report.run_dir import read_metrics


@pytest.mark.parametrize(
    ("rewards", "advantages", "wanted"),
    [
        ([1.0, 0.0], [0.7, -0.7], True),
        ([1.0, 1.0], [0.0, 0.0], False),
        # Left out by dynamic sampling: what it had to teach was not needed.
        ([1.0, 0.0], [None, None], True),
        ([1.0, 1.0], [None, None], False),
        # Equal sums of unlike rewards, compared one by one; or equal rewards, compared with other groups'.
        ([1.0, 1.0], [0.7, -0.7], True),
        ([1.0, 1.0], [0.3, 0.3], True),
        # Equal up to the rounding of a sum.
        ([0.3, 0.1 + 0.2], [0.0, 0.0], False),
        # A reward that does not apply to an answer says nothing about the others.
        ([1.0, math.nan, 0.0], [0.7, 0.0, -0.7], True),
        ([1.0, math.nan, 1.0], [0.0, 0.0, 0.0], False),
    ],
)
def test_group_has_signal_where_its_answers_differ_or_have_advantages(rewards, advantages, wanted):
    rows = [{"reward": r, "advantage": a} for r, a in zip(rewards, advantages, strict=True)]
    assert with_signal(rows, len(rows)).tolist() == [wanted]


def test_groups_of_equal_rewards_have_signal_where_groups_are_compared_with_each_other(tiny_run, reward_file):
    """And nobody is told that nothing is learned."""
    spec = reward_file("def reward(prompts, completions, **columns):\n    return [float(len(p)) for p in prompts]\n")
    for name, wanted in (("reinforce++", 1.0), ("grpo", 0.0)):
        folder = tiny_run.output / name
        outcome = tiny_run(reward_funcs=[spec], advantage=name, prompts_per_step=16, max_steps=1, output_dir=folder)
        assert outcome.code == 0
        (row,) = read_metrics(folder / "metrics.jsonl")
        assert (row["groups_with_signal"], row["trained_tokens"] > 0) == (wanted, bool(wanted))
        assert ("Loss and gradient are 0" in outcome.out) == (not wanted)

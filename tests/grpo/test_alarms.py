"""Warnings: each for what it is about, once, again when it comes back, and none for a healthy run."""

from __future__ import annotations

import pytest

from rlzero.grpo.alarms import LASTING, RULES, Alarms
from rlzero.report.run_dir import read_metrics
from tests.grpo.test_run import SIGNAL

HEALTHY = {
    "reward": 0.4, "accuracy": 0.3, "format": 0.5, "completion_length": 60.0, "truncated": 0.05, "entropy": 0.8,
    "groups_with_signal": 0.7, "groups_without_signal": 3, "loss": -0.2, "grad_norm": 0.4, "trained_tokens": 900,
    "mismatch_kl": 1e-6, "skipped": 0,
}  # fmt: skip


def watch(*parts: tuple[int, dict]) -> list[str]:
    """What is said over so many steps of each kind."""
    alarms, step, said = Alarms(), 0, []
    for count, changes in parts:
        for _ in range(count):
            step += 1
            said += alarms.observe({**HEALTHY, "step": step, **changes})
    return said


NO_SIGNAL = {"groups_with_signal": 0.0, "groups_without_signal": 32, "accuracy": 0.0, "trained_tokens": 0, "loss": 0.0,
             "grad_norm": 0.0, "entropy": None}  # fmt: skip

# Means over ten steps, of which the first few are still those before.
CASES = {
    "no_signal": (
        NO_SIGNAL,
        ["All 32 groups had equal rewards for 10 steps", "too hard for this model (accuracy 0.00)"],
    ),
    "not_finite": (
        {"skipped": 2, "loss": None},
        ["2 of the updates up to step 31 were skipped", "batches are in skipped/"],
    ),
    "entropy_collapse": (
        {"entropy": 0.05},
        ["Entropy fell from 0.8 to 0.125 nats", "accuracy of 0.30", "epsilon_high"],
    ),
    "length_collapse": (
        {"completion_length": 9.0, "accuracy": 0.1},
        ["Answers fell from 60 to 14 tokens", "the accuracy from 0.30 to 0.12", "python -m rewards audit"],
    ),
    "format_collapse": ({"format": 0.02}, ["asked format fell from 0.50 to 0.12", "Lower learning_rate"]),
    "cut_off": ({"truncated": 0.9}, ["56% of the answers of the last 10 steps were cut off", "max_completion_length"]),
    "unfilled": (
        {"sampling/filled": 0.25, "sampling/groups": 96.0},
        [
            "could not fill any of the last 10 steps: it asked 96 problems",
            "25% of the groups wanted",
            "accuracy of 0.3",
        ],
    ),
    "mismatch": ({"mismatch_kl": 0.06}, ["a KL of 0.012 nats a token over 10 steps", "vllm_importance_sampling_corr"]),
}


def test_healthy_run_hears_nothing():
    assert watch((100, {})) == []


def test_run_that_learns_fast_hears_nothing():
    """Entropy and length may fall where the answers become right."""
    assert watch((20, {}), (40, {"entropy": 0.05, "completion_length": 9.0, "accuracy": 0.97})) == []


@pytest.mark.parametrize("name", CASES)
def test_each_alarm_says_what_was_seen_and_what_to_try_once(name):
    changes, parts = CASES[name]
    said = [m for m in watch((30, {}), (40, changes)) if "Loss and gradient" not in m]
    assert len(said) == 1, said
    assert all(part in said[0] for part in parts), said


@pytest.mark.parametrize("name", CASES)
def test_alarm_comes_back_after_it_was_over(name):
    changes, parts = CASES[name]
    said = watch((30, {}), (30, changes), (30, {}), (30, changes))
    assert sum(parts[-1] in message for message in said) == 2


def test_slow_decline_is_held_against_the_highest_and_not_the_newest_past():
    (said,) = watch((20, {}), *((20, {"entropy": entropy}) for entropy in (0.5, 0.3, 0.18)))
    assert "Entropy fell from 0.8 to" in said


def test_there_is_a_case_for_every_rule():
    assert {rule.__name__ for rule in RULES} == {*CASES, "zero_loss"}


def test_problems_that_are_too_easy_are_called_so():
    (said,) = [m for m in watch((LASTING, {**NO_SIGNAL, "accuracy": 1.0})) if m.startswith("All")]
    assert "too easy for this model (accuracy 1.00): make them harder" in said


def test_loss_of_zero_is_explained_once_where_it_happens():
    (said,) = watch((5, {}), (30, {"loss": 1e-9}))
    assert "The loss is 0 in step 6 and nothing is broken" in said
    assert "norm 0.4" in said
    (said,) = watch((3, NO_SIGNAL), (3, {}), (3, NO_SIGNAL))
    assert "Loss and gradient are 0 in step 1: within every group all rewards were equal (mean 0.4)" in said


def test_loss_of_zero_because_all_that_counts_was_cut_off_is_explained_as_that():
    (said,) = watch((2, {"trained_tokens": 0, "loss": 0.0, "grad_norm": 0.0}))
    assert "Loss and gradient are 0 in step 1: every answer that had an advantage was cut off" in said
    assert "mask_truncated_completions" in said


def test_dynamic_sampling_that_fills_now_and_then_or_finds_nothing_is_not_called_unfilled():
    half, none = {"sampling/filled": 0.5, "sampling/groups": 96.0}, {**NO_SIGNAL, "sampling/filled": 0.0}
    assert watch(*[(9, half), (1, {"sampling/filled": 1.0})] * 4) == []
    assert not any("Dynamic sampling" in message for message in watch((30, none)))


def test_resumed_run_does_not_say_again_what_it_said():
    rows = [{**HEALTHY, "step": step, "truncated": 0.8} for step in range(1, 30)]
    assert len(Alarms(rows[:5]).observe(rows[5])) == 0
    assert Alarms(rows[:15]).observe(rows[15]) == []
    whole, resumed = Alarms(rows[:20]), Alarms(rows[:20])
    for row in rows[20:]:
        assert whole.observe(row) == resumed.observe(row)


def test_alarms_reach_the_log_of_a_run(tiny_run, reward_file):
    spec = reward_file("def reward(completions, **columns):\n    return [0.5] * len(completions)\n")
    outcome = tiny_run(reward_funcs=[spec], max_steps=LASTING + 2)
    assert outcome.code == 0
    assert outcome.out.count("Loss and gradient are 0 in step 1") == 1
    assert outcome.out.count("All 2 groups had equal rewards for 10 steps") == 1
    assert [row["groups_without_signal"] for row in read_metrics(tiny_run.output)] == [2] * (LASTING + 2)


def test_loss_that_is_zero_by_nature_is_explained_in_the_log_of_a_run(tiny_run):
    outcome = tiny_run(**SIGNAL, loss_type="grpo", advantage="dr_grpo", max_steps=2)
    assert outcome.code == 0
    assert outcome.out.count("and nothing is broken") == 1

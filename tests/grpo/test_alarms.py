"""Warnings: each for what it is about, once, again when it comes back, and none for a healthy run."""

from __future__ import annotations

import pytest

from rlzero.grpo.alarms import LASTING, ONCE, RULES, Alarms
from rlzero.report.run_dir import read_metrics
from tests.grpo.pieces import make_groups, make_recipe, make_trainer, updated
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
    "mismatch": (
        {"mismatch_kl": 0.06},
        ["a KL of 0.012 nats a token over 10 steps", "leave top_p and top_k out", "vllm_importance_sampling_corr"],
    ),
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
    assert {rule.__name__ for rule in RULES if rule not in ONCE} == set(CASES)
    assert {rule.__name__ for rule in ONCE} == set(ZERO_CASES)


def test_rollouts_of_several_steps_are_not_called_steps():
    alarms, said = Alarms(), []
    for step in range(4, 4 * LASTING + 1, 4):
        said += alarms.observe({**HEALTHY, **NO_SIGNAL, "step": step, "truncated": 0.9})
    assert [message.count("10 rollouts") for message in said] == [0, 1, 1]
    assert not any("10 steps" in message for message in said)


def test_equal_rewards_where_another_term_has_a_gradient_are_not_said_to_teach_nothing_at_all():
    pulled = {**NO_SIGNAL, "trained_tokens": 900, "grad_norm": 0.01, "loss": 0.001, "kl": 0.02, "entropy": 0.8}
    (said,) = watch((LASTING, pulled))
    assert "what moves the policy is the pull to the reference or the entropy bonus alone" in said
    assert "nothing is learned" not in said


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.85])
def test_answers_that_become_short_at_the_same_accuracy_are_called_so(accuracy):
    (said,) = watch((30, {"accuracy": accuracy}), (40, {"accuracy": accuracy, "completion_length": 5.0}))
    assert "Answers fell from 60 to 10 tokens, and the accuracy did not rise with it" in said
    assert f"({accuracy:.2f} while they were long, {accuracy:.2f} now)" in said


def test_earlier_rise_of_the_accuracy_does_not_explain_a_later_loss_of_length():
    (said,) = watch((30, {}), (30, {"accuracy": 0.8}), (30, {"accuracy": 0.8, "completion_length": 5.0}))
    assert "the accuracy did not rise with it (0.80 while they were long, 0.80 now)" in said


@pytest.mark.parametrize("end", [0.5, 0.95])
def test_answers_that_shorten_while_the_accuracy_rises_are_healthy(end):
    lengths = [60, 50, 40, 30, 20, 12, 10, 10, 10]
    risen = [0.3 + (end - 0.3) * min(i / 5, 1) for i in range(len(lengths))]
    rows = zip(lengths, risen, strict=True)
    assert watch(*((10, {"completion_length": length, "accuracy": accuracy}) for length, accuracy in rows)) == []
    assert watch((30, {"accuracy": 0.95}), (40, {"accuracy": 0.95, "completion_length": 9.0})) == []


def test_answers_that_grow_as_in_the_default_recipe_are_healthy():
    rows = ((10, {"completion_length": length, "accuracy": 0.3 + length / 50}) for length in (14, 18, 24, 30, 30))
    assert watch(*rows) == []


def test_problems_that_are_too_easy_are_called_so():
    (said,) = [m for m in watch((LASTING, {**NO_SIGNAL, "accuracy": 1.0})) if m.startswith("All")]
    assert "too easy for this model (accuracy 1.00): make them harder" in said


# Once in a run, in the first step that it is true of.
ZERO_CASES = {
    "by_nature": ({"loss": 1e-9}, ["The loss is 0 in step 6 and nothing is broken", "norm 0.4"]),
    "equal_rewards": (
        NO_SIGNAL, ["Loss and gradient are 0 in step 6: within every group all rewards were equal (mean 0.4)"],
    ),
    "left_out": (
        {"trained_tokens": 0, "loss": 0.0, "grad_norm": 0.0},
        ["Loss and gradient are 0 in step 6: every answer that had an advantage was cut off", "mask_truncated_compl"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ZERO_CASES)
def test_loss_of_zero_is_explained_once_where_it_happens(name):
    changes, parts = ZERO_CASES[name]
    (said,) = watch((5, {}), (3, changes), (3, {}), (3, changes))
    assert all(part in said for part in parts), said


def test_each_reason_for_a_loss_of_zero_is_said_though_another_was_said_before():
    said = watch(*((2, changes) for changes, _ in ZERO_CASES.values()))
    assert [message.split(" in step ")[1].split()[0].rstrip(":") for message in said] == ["1", "3", "5"]


TRAINED = {"loss": 0.0, "grad_norm": 0.0, "trained_tokens": 900}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"groups_with_signal": 0.0, "kl": 0.0},
         ["all rewards were equal (mean 0.4)", "still its reference, so that the KL is 0 too (0) and pulls nowhere"]),
        ({"groups_with_signal": 0.0, "entropy": 0.0}, ["all rewards were equal", "entropy bonus pulls nowhere"]),
        ({"corrected": 1.0, "ratio_max": 1.0},
         ["although answers had advantages: 100% of the tokens", "vllm_importance_sampling_clip_min", "mismatch_kl"]),
        ({"corrected": 0.0, "ratio_max": 2e-9}, ["the largest importance weight is 2e-09", "token_ mode"]),
        ({"off_policy_masked": 0.4, "clip_ratio": 0.6},
         ["60% of the tokens are clipped", "; 40% of the tokens are in answers", "off_policy_mask_threshold"]),
        ({"masked": 0.5, "kl": 0.0}, ["50% of the answers were cut off", "mask_truncated_completions"]),
        ({}, ["no mask and no clip explains that", "advantages"]),
    ],
)  # fmt: skip
def test_gradient_of_zero_on_tokens_that_were_trained_on_is_explained_by_what_left_nothing(changes, parts):
    (said,) = watch((5, {}), (9, {**TRAINED, **changes}))
    assert said.startswith("Loss and gradient are 0 in step 6")
    assert all(part in said for part in parts), said


def test_clipped_away_gradient_is_not_called_a_loss_of_zero():
    (said,) = watch((1, {**TRAINED, "loss": -0.4, "clip_ratio": 1.0}))
    assert said.startswith("The gradient is 0 in step 1 although answers had advantages: 100% of the tokens are clip")


def test_figures_of_a_real_update_whose_answers_are_all_masked_are_explained(tiny_model_dir):
    recipe = make_recipe(
        vllm_importance_sampling_correction=True, vllm_importance_sampling_clip_min=0.9999,
        vllm_importance_sampling_clip_max=1.0,
    )  # fmt: skip
    # The sampler of these groups was another policy.
    figures = updated(make_trainer(tiny_model_dir, recipe), make_groups([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]]))
    (said,) = watch((1, figures))
    assert "Loss and gradient are 0 in step 1 although answers had advantages: 100% of the tokens have an impor" in said


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


def test_pull_to_a_reference_that_the_policy_still_is_is_explained_in_the_log_of_a_run(tiny_run, reward_file):
    spec = reward_file("def reward(completions, **columns):\n    return [0.5] * len(completions)\n")
    outcome = tiny_run(reward_funcs=[spec], beta=0.04, max_steps=3)
    assert outcome.code == 0
    rows = read_metrics(tiny_run.output)
    assert all(row["trained_tokens"] > 0 and row["grad_norm"] < 1e-5 for row in rows)
    assert " ".join(outcome.out.split()).count("the policy is still its reference, so that the KL is 0 too") == 1


def test_mismatch_of_a_rollout_ahead_is_put_down_to_the_weights_that_sampled_it():
    (said,) = watch((30, {"sampling/staleness": 2.0}), (30, {"sampling/staleness": 2.0, "mismatch_kl": 0.06}))
    assert "Engine, whose weights are 2 steps older, and trainer" in said
    assert "lower learning_rate" in said

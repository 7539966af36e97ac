"""One step off-policy: which weights sampled, which ratios follow, and that a run can be ended anywhere."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import torch

import rlzero.grpo.run as run_module
from rlzero.grpo.ahead import Ahead, Answer
from rlzero.report.run_dir import RunDirectory, read_metrics
from tests.conftest import ROOT
from tests.grpo.launching import environment, run_two
from tests.grpo.pieces import gradients, make_groups, make_recipe, make_trainer
from tests.grpo.test_checkpoint import Killed
from tests.grpo.test_resume import assert_same_run, ends, rollouts
from tests.grpo.test_run import SIGNAL, without_times

pytestmark = pytest.mark.usefixtures("no_pictures")

AHEAD = {**SIGNAL, "max_async_level": 1, "max_steps": 4, "learning_rate": 0.01, "save_steps": 1, "save_total_limit": 9}


@pytest.fixture(scope="module")
def whole(tiny_model_dir, tmp_path_factory):
    """The run that nobody stops."""
    from tests.conftest import TinyRun

    run = TinyRun(tiny_model_dir, tmp_path_factory.mktemp("ahead") / "run")
    outcome = run(**AHEAD)
    assert outcome.code == 0, outcome.err
    return run.output


def completions(folder, step):
    return [(r["prompt"], r["completion"]) for r in rollouts(folder)[f"step-{step:06d}.parquet"]]


def test_each_rollout_is_sampled_by_the_weights_of_one_update_before(whole, tiny_run):
    assert [row["sampling/staleness"] for row in read_metrics(whole)] == [0, 1, 1, 1]
    # Weights that do not move sample what those of the beginning sample.
    assert tiny_run(**{**AHEAD, "max_async_level": 0, "learning_rate": 1e-30}).code == 0
    assert [completions(whole, step) for step in (1, 2)] == [completions(tiny_run.output, step) for step in (1, 2)]
    assert completions(whole, 3) != completions(tiny_run.output, 3)
    moved = tiny_run.output.parent / "moved"
    assert tiny_run(**{**AHEAD, "max_async_level": 0}, output_dir=moved).code == 0
    assert completions(whole, 2) != completions(moved, 2)
    # The problems are those that are asked anyway.
    assert [p for p, _ in completions(whole, 4)] == [p for p, _ in completions(moved, 4)]


def test_staleness_is_counted_in_updates(tiny_run):
    assert tiny_run(**{**AHEAD, "steps_per_generation": 2, "max_steps": 7, "save_steps": 0}).code == 0
    assert [row["sampling/staleness"] for row in read_metrics(tiny_run.output)] == [0, 2, 2, 2]


def test_run_repeats_itself_and_evaluations_between_the_steps_do_not_disturb_it(whole, tiny_run):
    evaluated = {"eval_problems": 3, "eval_samples": 2, "eval_steps": 1, "eval_quick_problems": 3}
    assert tiny_run(**AHEAD, **evaluated).code == 0
    assert without_times(read_metrics(tiny_run.output)) == without_times(read_metrics(whole))
    assert rollouts(tiny_run.output) == rollouts(whole)


@pytest.mark.parametrize("calls", [1, 3])
def test_run_ended_after_any_checkpoint_and_resumed_is_the_run_that_was_not(whole, tiny_run, monkeypatch, calls):
    """The rollout in flight was sampled by weights that are gone: it is part of the checkpoint."""
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "save_checkpoint", ends(calls)(run_module.save_checkpoint))
        with pytest.raises(Killed):
            tiny_run(**AHEAD)
    outcome = tiny_run("--resume", **AHEAD)
    assert outcome.code == 0, outcome.err
    assert_same_run(tiny_run.output, whole)


def test_step_that_fails_is_done_again_with_its_own_rollout(whole, tiny_run, monkeypatch):
    def fails(function):
        calls = iter(range(1, 99))

        def update(*arguments):
            if next(calls) == 3:
                raise FloatingPointError("broken")
            return function(*arguments)

        return update

    from rlzero.grpo import trainer as trainer_module

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "FAILURES", (*run_module.FAILURES, FloatingPointError))
        patched.setattr(trainer_module.Updater, "update", fails(trainer_module.Updater.update))
        assert tiny_run(**{**AHEAD, "save_steps": 0}).code == 1
    outcome = tiny_run("--resume", **{**AHEAD, "save_steps": 0})
    assert outcome.code == 0, outcome.err
    assert without_times(read_metrics(tiny_run.output)) == without_times(read_metrics(whole))


def test_ratios_are_to_the_policy_that_sampled(tiny_model_dir):
    groups = make_groups([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0]])
    settings = {"num_generations": 3, "prompts_per_step": 2}
    found = {}
    for name, more in {
        "ahead": {"max_async_level": 1},
        "sampler": {"old_logprobs": "sampler"},
        "on-policy": {},
        "ahead, corrected": {"max_async_level": 1, "vllm_importance_sampling_correction": True},
        "corrected": {"vllm_importance_sampling_correction": True},
    }.items():
        trainer = make_trainer(tiny_model_dir, make_recipe(**settings, **more))
        found[name] = torch.cat([g.flatten() for g in gradients(trainer, groups).values()])
    assert torch.equal(found["ahead"], found["sampler"])
    assert not torch.allclose(found["ahead"], found["on-policy"])
    assert torch.equal(found["ahead, corrected"], found["corrected"])


def test_what_goes_wrong_in_the_next_rollout_is_said_in_its_own_step(tiny_run, reward_file):
    """The step that is underway is finished and recorded."""
    body = (
        "calls = []\ndef reward(completions, **columns):\n    calls.append(1)\n    if len(calls) == 4:\n"
        "        raise KeyError('gold')\n    return [float(len(set(c))) for c in completions]\n"
    )
    settings = {**AHEAD, "reward_funcs": [reward_file(body)], "overlap_rewards": False, "save_steps": 0}
    outcome = tiny_run(**settings)
    failed = len(read_metrics(tiny_run.output)) + 1
    assert outcome.code == 2
    assert f"error in step {failed}: reward 'reward' raised KeyError: 'gold'" in outcome.err


def test_checkpoint_has_no_rollout_that_failed_in_another_process(monkeypatch):
    """All processes ask each other the same: one that went its own way would wait for ever, or hear something else."""
    ahead, asked = Ahead(torch.device("cpu")), []
    ahead.start(lambda: Answer([], [], 3))

    def other_failed(own):
        asked.append(own)
        return [*own, True]

    monkeypatch.setattr("rlzero.grpo.ahead.gather_object", other_failed)
    assert ahead.state_dict() is None
    assert asked == [[False]]
    ahead.close()


def test_the_engine_rests_before_anything_else_may_use_it():
    ahead = Ahead(torch.device("cpu"))
    order = []

    def make():
        order.append("generated")
        return Answer([], [], 0)

    ahead.start(make)
    ahead.rest()
    order.append("synced")
    assert order == ["generated", "synced"]
    ahead.close()


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"dynamic_sampling": True}, ["max_async_level=1", "dynamic_sampling=True", "leave one of them out"]),
        ({"curriculum": "failures"}, ["max_async_level=1", "curriculum='failures'", "leave one of them out"]),
        ({"old_logprobs": "policy"}, ["old_logprobs='policy'", "ratio 1", "vllm_importance_sampling_correction=True"]),
        ({"max_async_level": 2}, ["max_async_level=2", "0 (on-policy) or 1"]),
        ({"vllm_enable_sleep_mode": True}, ["max_async_level=1", "vllm_enable_sleep_mode=True", "leave one of them"]),
        (
            {"vllm_enable_sleep_mode": True, "max_async_level": 0},
            ["vllm_enable_sleep_mode=True", "builtin", "leave it"],
        ),
    ],
)
def test_what_cannot_be_done_ahead_is_refused(tiny_run, settings, parts):
    outcome = tiny_run(**{"max_async_level": 1, **settings})
    assert outcome.code == 2
    assert all(part in outcome.err for part in parts), outcome.err
    assert not RunDirectory(tiny_run.output).path.exists()


@pytest.mark.slow
def test_two_processes_save_the_rollout_of_both_and_one_goes_on_with_it(tiny_run):
    settings = {**AHEAD, "prompts_per_step": 4, "max_steps": 3}
    both = tiny_run.output.parent / "both"
    done = run_two("ddp", *tiny_run.command(**settings, output_dir=both)[1:])
    assert done.returncode == 0, done.stderr[-3000:]
    assert tiny_run(**settings).code == 0
    rows, wanted = read_metrics(both), read_metrics(tiny_run.output)
    assert [row["sampling/staleness"] for row in rows] == [0, 1, 1]
    for key in ("trained_tokens", "loss", "grad_norm"):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in wanted], rel=1e-3, abs=1e-6), key
    saved = torch.load(both / "checkpoints" / "step-000002" / "training.pt", weights_only=True)["trainer"]["ahead"]
    answers = [r["completion_ids"].tolist() for group in saved["groups"] for r in group["rollouts"]]
    lengths = [r["length"] for r in rollouts(tiny_run.output)["step-000003.parquet"]]
    assert np.array_equal(sorted(map(len, answers)), sorted(lengths))


@pytest.mark.slow
def test_vllm_generates_ahead_with_the_weights_of_before_and_is_in_step_after_every_sync(tiny_run):
    pytest.importorskip("vllm", reason="vLLM is an extra, and is not installed here")
    done = subprocess.run(
        tiny_run.command(**{**AHEAD, "rollout": "vllm"}), cwd=ROOT, capture_output=True, text=True, timeout=280,
        check=False, env=environment("ddp"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read_metrics(tiny_run.output)
    assert [row["sampling/staleness"] for row in rows] == [0, 1, 1, 1]
    assert all(row["sync_diff"] < 1e-4 for row in rows)
    # The first is on-policy, and after it the sampler is one update behind.
    assert rows[0]["logprob_diff"] < 1e-4 < min(row["logprob_diff"] for row in rows[1:] if row["trained_tokens"])

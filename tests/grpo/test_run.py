"""Whole runs of the real recipe on a tiny random model: what they write, repeat, survive and refuse to go on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest

from rlzero.report.run_dir import ROLLOUT_COLUMNS, read_metrics
from tests.conftest import ROOT, TinyRun
from tests.grpo.launching import LAYOUTS, run_two, start_two

ISSUE_KEYS = [
    "step", "reward", "accuracy", "format", "completion_length", "loss", "grad_norm", "entropy", "logprob_diff",
    "time_generate", "time_reward", "time_train", "time_sync", "tokens",
]  # fmt: skip
# `coin` pays some answers and not others, so that every step has a gradient.
SIGNAL = {"reward_funcs": ["accuracy", "format", "coin"], "num_generations": 4}
EVALUATED = {"eval_problems": 6, "eval_samples": 4, "eval_steps": 2, "eval_quick_problems": 2, "eval_quick_samples": 2}


def without_times(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.startswith("time_") and k != "wall_seconds"} for row in rows]


@pytest.fixture(scope="module")
def finished(tiny_model_dir, tmp_path_factory):
    """One run of three steps with everything on."""
    run = TinyRun(tiny_model_dir, tmp_path_factory.mktemp("finished") / "run")
    outcome = run(**SIGNAL, **EVALUATED, save_steps=1, save_total_limit=2)
    assert outcome.code == 0, outcome.err
    return run, outcome


def test_metrics_have_one_line_a_step_with_every_key(finished):
    rows = read_metrics(finished[0].output)
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert list(row)[: len(ISSUE_KEYS)] == ISSUE_KEYS
        assert all(row[key] is not None for key in ISSUE_KEYS)
        assert row["grad_norm"] > 0
        assert row["logprob_diff"] < 1e-4
        assert row["tokens"] == 8 * row["completion_length"]
        assert row["reward"] == pytest.approx(sum(row[f"reward/{n}"] for n in ("accuracy", "format", "coin")))


def test_every_rollout_is_recorded_with_its_reward_per_function(finished):
    import pyarrow.parquet as pq

    for step, metrics in enumerate(read_metrics(finished[0].output), start=1):
        rows = pq.read_table(finished[0].output / "rollouts" / f"step-{step:06d}.parquet").to_pylist()
        assert set(rows[0]) == {*ROLLOUT_COLUMNS, "format", "reward/accuracy", "reward/format", "reward/coin"}
        assert len(rows) == 8
        assert np.mean([row["reward"] for row in rows]) == pytest.approx(metrics["reward"])
        assert {row["step"] for row in rows} == {step}
        assert all(row["completion"].startswith("<think>") for row in rows)
        groups = np.array([row["advantage"] for row in rows]).reshape(2, 4)
        assert np.abs(groups.sum(axis=1)).max() < 1e-3


def test_summary_compares_base_and_trained(finished):
    summary = json.loads((finished[0].output / "summary.json").read_text())
    for side in ("base", "trained"):
        figures = summary[side]
        assert {"pass@1", "pass@4", "format", "length"} <= set(figures)
        assert figures["pass@1_interval"][0] <= figures["pass@1"] <= figures["pass@1_interval"][1]
    assert summary["config"]["max_steps"] == 3
    assert summary["config"]["reward_funcs"] == SIGNAL["reward_funcs"]
    assert 0 < summary["wall_seconds"] < 600
    assert summary["steps"] == 3


def test_evaluations_are_recorded_along_the_way(finished):
    rows = read_metrics(finished[0].output / "evaluations.jsonl")
    assert [(row["step"], row["kind"]) for row in rows] == [(0, "base"), (2, "quick"), (3, "trained")]


def test_curves_are_a_picture_and_samples_are_shown(finished):
    assert (finished[0].output / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert finished[1].out.count("=?") >= 3
    assert "step 3/3" in finished[1].out


def test_trained_model_loads_as_any_other_and_differs_from_the_base(finished):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, _ = finished
    trained = AutoModelForCausalLM.from_pretrained(run.output / "model").state_dict()
    base = AutoModelForCausalLM.from_pretrained(run.model).state_dict()
    assert trained.keys() == base.keys()
    assert any(not torch.equal(trained[name], base[name]) for name in base)
    assert AutoTokenizer.from_pretrained(run.output / "model")("<think>")["input_ids"] == [258]


def test_newest_checkpoints_are_kept(finished):
    kept = sorted(p.name for p in (finished[0].output / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000003"]


def test_written_config_repeats_the_run(finished, tmp_path):
    """The YAML in the run directory is a recipe: the same seed gives the same metrics and rollouts."""
    import pyarrow.parquet as pq

    from rlzero.grpo.run import main

    run, _ = finished
    again = tmp_path / "again"
    assert main(["--config", str(run.output / "config.yaml"), "--output_dir", str(again)], ROOT / "none.yaml") == 0
    assert without_times(read_metrics(again)) == without_times(read_metrics(run.output))
    first, second = (pq.read_table(p / "rollouts" / "step-000003.parquet") for p in (run.output, again))
    assert first.equals(second)


def test_another_seed_gives_another_run(finished, tiny_run):
    assert tiny_run(**SIGNAL, seed=1).code == 0
    assert without_times(read_metrics(tiny_run.output)) != without_times(read_metrics(finished[0].output))


def test_finished_run_can_be_lengthened_and_nothing_is_recorded_twice(tiny_run):
    settings = {**SIGNAL, **EVALUATED, "save_steps": 2}
    assert tiny_run(**settings, max_steps=2).code == 0
    assert tiny_run("--resume", **settings, max_steps=4).code == 0
    assert [row["step"] for row in read_metrics(tiny_run.output)] == [1, 2, 3, 4]
    rows = read_metrics(tiny_run.output / "evaluations.jsonl")
    assert [(row["step"], row["kind"]) for row in rows] == [(0, "base"), (4, "trained")]
    walls = [row["wall_seconds"] for row in read_metrics(tiny_run.output)]
    assert walls == sorted(walls)


def test_quick_evaluations_ask_all_their_problems_where_there_is_no_other_evaluation(tiny_run):
    assert tiny_run(**SIGNAL, eval_problems=0, eval_steps=1, eval_quick_problems=5).code == 0
    rows = read_metrics(tiny_run.output / "evaluations.jsonl")
    assert {row["kind"] for row in rows} == {"quick"}
    # One problem alone would have no interval.
    assert all(None not in row["pass@1_interval"] for row in rows)


def wait_for_steps(process: subprocess.Popen, run: TinyRun, count: int) -> None:
    """Until the run has recorded so many steps, or has ended, or two minutes have passed."""
    metrics = run.output / "metrics.jsonl"
    for _ in range(1200):
        if process.poll() is not None or (metrics.exists() and len(read_metrics(metrics)) >= count):
            return
        time.sleep(0.1)


def test_ctrl_c_saves_and_resume_goes_on_to_the_end_with_no_step_twice(tiny_run):
    settings = {**SIGNAL, "max_steps": 2000}
    process = tiny_run.start(**settings)
    metrics = tiny_run.output / "metrics.jsonl"
    wait_for_steps(process, tiny_run, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Interrupted." in out
    assert "--resume" in out
    assert "Traceback" not in err
    done = len(read_metrics(metrics))
    assert [row["step"] for row in read_metrics(metrics)] == list(range(1, done + 1))
    assert (tiny_run.output / "checkpoints" / f"step-{done:06d}").is_dir()

    assert tiny_run("--resume", **{**settings, "max_steps": done + 2}).code == 0
    assert [row["step"] for row in read_metrics(metrics)] == list(range(1, done + 3))
    assert len(list((tiny_run.output / "rollouts").iterdir())) == done + 2
    assert (tiny_run.output / "model" / "config.json").is_file()


def test_ctrl_c_in_the_last_evaluation_loses_nothing(tiny_run, monkeypatch):
    import rlzero.grpo.run as module

    original = module.finish

    def pressed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "finish", pressed)
    assert tiny_run(**SIGNAL).code == 130
    monkeypatch.setattr(module, "finish", original)
    assert tiny_run("--resume", **SIGNAL).code == 0
    assert [row["step"] for row in read_metrics(tiny_run.output)] == [1, 2, 3]


def test_resumed_run_continues_the_same_stream_of_problems_and_samples(finished, tiny_run):
    """With the built-in engine the steps after a resume are those of the run that was never stopped."""
    settings = {**SIGNAL, "save_steps": 1}
    assert tiny_run(**settings, max_steps=2).code == 0
    assert tiny_run("--resume", **settings, max_steps=3).code == 0
    assert without_times(read_metrics(tiny_run.output)) == without_times(read_metrics(finished[0].output))


def test_trls_own_reward_runs_unchanged_from_yaml(tiny_run, tmp_path):
    config = tmp_path / "trl.yaml"
    config.write_text("reward_funcs: [accuracy, trl.rewards.think_format_reward]\nreward_weights: [1.0, 0.5]\n")
    assert tiny_run("--config", str(config), max_steps=1).code == 0
    (row,) = read_metrics(tiny_run.output)
    assert row["reward/think_format_reward"] == 0.0


def test_users_own_reward_file_is_paid_for(tiny_run, reward_file):
    spec = reward_file("def reward(completions, answer, **columns):\n    return [float(len(c)) for c in completions]\n")
    assert tiny_run(reward_funcs=[spec], reward_weights=["0.5"], max_steps=1).code == 0
    (row,) = read_metrics(tiny_run.output)
    assert row["reward/reward"] > 0
    assert row["reward"] == pytest.approx(row["reward/reward"] / 2)


def test_engine_whose_weights_are_not_the_trainers_stops_the_run(tiny_run, monkeypatch):
    """A real second copy of the model that a sync does not reach: the fault that other pipelines do not notice."""
    import rlzero.grpo.engine as module
    from rlzero.models.load import load_model
    from rlzero.rollout.builtin import BuiltinEngine

    class StaleEngine(BuiltinEngine):
        def sync(self, model, version):
            self.version = version

    def make_stale(kind, *, model, model_path, tokenizer, max_model_len, **options):
        return StaleEngine(load_model(model_path, "float32"), [tokenizer.eos_token_id], max_model_len=max_model_len)

    monkeypatch.setattr(module, "make_engine", make_stale)
    outcome = tiny_run(**SIGNAL, learning_rate=0.05)
    assert outcome.code == 1
    assert "error in step 1: after a weight sync the builtin engine must give the trainer's" in outcome.err
    assert "Try --rollout builtin" in outcome.err
    assert "step-000001" in outcome.out
    # The step was made, and is recorded.
    (row,) = read_metrics(tiny_run.output)
    assert row["sync_diff"] > 1e-3
    assert (tiny_run.output / "rollouts" / "step-000001.parquet").is_file()
    assert tiny_run(**SIGNAL, learning_rate=0.05, sync_check_every=0, output_dir=tiny_run.output.parent / "b").code == 0


def test_prompt_that_turns_out_too_long_underway_ends_the_run_with_a_message(tiny_run, monkeypatch):
    import rlzero.grpo.engine as module

    original = module.make_engine
    monkeypatch.setattr(
        module, "make_engine", lambda kind, **options: original(kind, **{**options, "max_model_len": 5})
    )
    outcome = tiny_run(**SIGNAL)
    assert outcome.code == 1
    assert "error in step 1: a prompt must have 1 to 4 tokens" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_train_together_as_one_would_and_only_the_main_one_writes(layout, tiny_run, reward_file):
    """Groups fall unevenly on the two, so that one must fill in microbatches; the gradient is that of one process."""
    spec = reward_file("def reward(completions, **columns):\n    return [float(len(set(c))) for c in completions]\n")
    settings = {
        **EVALUATED, "reward_funcs": [spec], "num_generations": 4, "max_steps": 2, "prompts_per_step": 6,
        "tokens_per_microbatch": 40, "save_steps": 1,
    }  # fmt: skip
    done = run_two(layout, *tiny_run.command(**settings)[1:])
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read_metrics(tiny_run.output)
    assert [row["step"] for row in rows] == [1, 2]
    assert done.stdout.count("step 2/2  reward") == 1
    assert done.stdout.count("rlzero: GRPO") == 1
    assert "2 × cpu" in done.stdout

    alone = tiny_run.output.parent / "alone"
    assert tiny_run(**settings, output_dir=alone).code == 0
    for together, single in zip(rows, read_metrics(alone), strict=True):
        for key in ("reward", "tokens", "trained_tokens", "loss", "grad_norm", "entropy", "learning_rate"):
            assert together[key] == pytest.approx(single[key], rel=1e-3, abs=1e-6), key


@pytest.mark.slow
def test_ctrl_c_stops_two_processes_after_the_same_step(tiny_run):
    process = start_two(tiny_run, **SIGNAL, max_steps=5000)
    wait_for_steps(process, tiny_run, 3)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    done = [row["step"] for row in read_metrics(tiny_run.output)]
    assert done == list(range(1, len(done) + 1))
    assert [p.name for p in (tiny_run.output / "checkpoints").iterdir()] == [f"step-{len(done):06d}"]
    assert out.count("Interrupted.") == 1

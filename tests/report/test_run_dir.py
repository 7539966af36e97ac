from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from enum import Enum
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzero.report.run_dir import ROLLOUT_COLUMNS, RunDirectory, RunDirectoryError, read_metrics


class Color(Enum):
    BLUE = "blue"


def make_row(**changes):
    row = {"prompt": "1+1=?", "answer": "2", "completion": "<think>1+1=2</think>", "finish_reason": "stop"}
    row |= {"length": 9, "reward/accuracy": 1.0, "reward/format": None, "reward": 1.0}
    return row | {"advantage": 0.5, "correct": True} | changes


def test_config_is_written_as_yaml_and_json_with_the_same_content(tmp_path):
    config = {
        "learning_rate": 1e-4,
        "model": Path("a/b"),
        "sampling": {"n": 4, "stop": ("x",)},
        "dtype": torch.bfloat16,
        "color": Color.BLUE,
    }
    run = RunDirectory.create(tmp_path / "deep" / "run", config)
    written = json.loads(run.config_json.read_text())
    assert written == yaml.safe_load(run.config_yaml.read_text())
    assert written["sampling"] == {"n": 4, "stop": ["x"]}
    assert (written["model"], written["dtype"], written["color"]) == ("a/b", "torch.bfloat16", "blue")


def test_directory_of_another_run_is_refused_with_both_ways_out(tmp_path):
    RunDirectory.create(tmp_path / "run", {})
    with pytest.raises(RunDirectoryError, match=r"already holds a run.*--resume.*another name"):
        RunDirectory.create(tmp_path / "run", {})


def test_model_folder_is_refused_as_output_directory_and_stays_untouched(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(RunDirectoryError, match=r"would overwrite \(config\.json\)"):
        RunDirectory.create(tmp_path, {})
    assert (tmp_path / "config.json").read_text() == '{"model_type": "qwen3"}'


def test_directory_with_unrelated_files_is_accepted(tmp_path):
    (tmp_path / "slurm-1.out").write_text("hello")
    assert RunDirectory.create(tmp_path, {}).metrics.exists()


@pytest.mark.parametrize("operations", range(1, 9))
def test_process_killed_while_it_begins_a_run_leaves_a_run_to_go_on_with_or_nothing_in_the_way(
    tmp_path, monkeypatch, operations
):
    left = iter(range(operations))

    def fatal(function):
        def call(*args, **kwargs):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for name in ("mkdir", "touch", "replace"):
            patched.setattr(Path, name, fatal(getattr(Path, name)))
        with suppress(KeyboardInterrupt):
            RunDirectory.create(tmp_path / "run", {"a": 1})
    run = RunDirectory(tmp_path / "run")
    begun = run.config_json.exists() and run.metrics.exists()
    again = RunDirectory.create(tmp_path / "run", {"a": 1}, resume=begun)
    assert yaml.safe_load(again.config_yaml.read_text()) == {"a": 1}
    assert all(path.exists() for path in (again.rollouts, again.checkpoints, again.evaluations))


def test_resume_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"holds none.*Leave out --resume"):
        RunDirectory.create(tmp_path / "empty", {}, resume=True)
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("place", ["file/run", "file"])
def test_unwritable_directory_is_refused_by_name(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunDirectoryError, match=r"can be written.*file.*--output_dir"):
        RunDirectory.create(tmp_path / place, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_directory_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunDirectoryError, match=r"can be written.*Permission denied"):
        RunDirectory.create(tmp_path / "run", {})


def test_resume_reports_changed_settings_and_keeps_the_earlier_config(tmp_path):
    RunDirectory.create(tmp_path / "run", {"lr": 1, "steps": 10, "resume": False})
    run = RunDirectory.create(tmp_path / "run", {"lr": 2, "steps": 10, "resume": True}, resume=True)
    assert run.config_changes == {"lr": (1, 2)}
    assert yaml.safe_load((run.path / "config.1.yaml").read_text())["lr"] == 1
    assert json.loads(run.config_json.read_text())["lr"] == 2
    again = RunDirectory.create(tmp_path / "run", {"lr": 2, "steps": 10}, resume=True)
    assert again.config_changes == {}
    assert not (run.path / "config.2.yaml").exists()


def test_metrics_lines_have_a_fixed_order_whatever_the_order_given(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {})
    metrics = {"tokens": 5, "reward/b": 1.0, "loss": 0.1, "step": 1, "a": 2, "reward": 0.5}
    run.log_metrics(metrics)
    run.log_metrics(dict(reversed(metrics.items())))
    first, second = run.metrics.read_text().splitlines()
    assert first == second
    assert list(json.loads(first)) == ["step", "reward", "loss", "tokens", "a", "reward/b"]


def test_not_finite_figures_are_written_as_null_and_scalars_as_numbers(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {})
    run.log_metrics(
        {
            "step": np.int64(1),
            "loss": float("nan"),
            "entropy": math.inf,
            "reward": np.float32(0.5),
            "accuracy": torch.tensor(0.25),
        }
    )
    line = run.metrics.read_text()
    assert line == '{"step": 1, "reward": 0.5, "accuracy": 0.25, "loss": null, "entropy": null}\n'


def test_metrics_are_on_disk_when_log_metrics_returns(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {})
    for step in range(1, 4):
        run.log_metrics({"step": step})
        assert [row["step"] for row in read_metrics(run.path)] == list(range(1, step + 1))


def test_metrics_without_a_step_are_refused(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {})
    with pytest.raises(ValueError, match="must say its step"):
        run.log_metrics({"loss": 1.0})


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(0, 6), checkpoint=st.integers(0, 7), cut=st.integers(0, 200))
def test_resume_after_a_kill_at_any_byte_leaves_a_seamless_record(steps, checkpoint, cut):
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", {})
        for step in range(1, steps + 1):
            run.log_metrics({"step": step, "reward": step / 3})
        content = run.metrics.read_bytes()
        run.metrics.write_bytes(content[: max(0, len(content) - cut)])
        whole = [row["step"] for row in read_metrics(run.metrics)]
        run = RunDirectory.create(Path(folder) / "run", {}, resume=True)
        run.truncate_after(checkpoint)
        kept = [step for step in whole if step <= checkpoint]
        run.log_metrics({"step": 99})
        assert [row["step"] for row in read_metrics(run.metrics)] == [*kept, 99]


def test_broken_line_in_the_middle_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


def test_truncate_drops_rollouts_and_evaluations_after_the_checkpoint(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {})
    for step in (1, 2, 3):
        run.write_rollouts(step, [make_row()])
        run.log_evaluation({"step": step, "pass@1": 0.5})
    run.skipped.mkdir()
    for step in (2, 3):
        (run.skipped / f"step-{step:06d}.pt").write_bytes(b"")
    # What a killed process was writing.
    (run.rollouts / ".step-000002.parquet.tmp").write_bytes(b"PAR1")
    run.truncate_after(2)
    assert sorted(file.name for file in run.rollouts.iterdir()) == [
        "step-000001.parquet",
        "step-000002.parquet",
    ]
    assert [file.name for file in run.skipped.iterdir()] == ["step-000002.pt"]
    assert [row["step"] for row in read_metrics(run.evaluations)] == [1, 2]


def test_rollouts_hold_every_reward_and_no_temporary_file_is_left(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {})
    path = run.write_rollouts(7, [make_row()])
    table = pq.read_table(path)
    assert set(ROLLOUT_COLUMNS) | {"reward/accuracy", "reward/format"} == set(table.column_names)
    assert table.to_pylist()[0] == {"step": 7, **make_row()}
    assert [file.name for file in run.rollouts.iterdir()] == [path.name]


def test_rollout_files_of_all_steps_have_one_schema_even_where_a_reward_never_applied(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {})
    none = pq.read_schema(run.write_rollouts(1, [make_row()]))
    some = pq.read_schema(run.write_rollouts(2, [make_row(**{"reward/format": 1})]))
    assert none.equals(some)
    assert pq.read_table(run.rollouts)["step"].to_pylist() == [1, 2]


def test_rollouts_that_lack_a_column_are_refused_by_name(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {})
    row = make_row()
    del row["advantage"]
    with pytest.raises(ValueError, match=r"number 1 of step 3 lacks \['advantage'\]"):
        run.write_rollouts(3, [make_row(), row])
    with pytest.raises(ValueError, match=r"number 1 differs from the first one in \['extra'\]"):
        run.write_rollouts(3, [make_row(), make_row(extra=1)])
    with pytest.raises(ValueError, match="no rollouts"):
        run.write_rollouts(3, [])


def test_summary_replaces_the_earlier_one_whole_and_is_valid_json(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {})
    run.write_summary({"base": {"pass@1": float("nan")}, "long": "x" * 10000})
    run.write_summary({"base": {"pass@1": np.float64(0.5)}, "config": {"path": Path("x")}})
    assert json.loads(run.summary.read_text()) == {"base": {"pass@1": 0.5}, "config": {"path": "x"}}


HOLDER = """
import sys
from rlzero.report.run_dir import RunDirectory
run = RunDirectory.create(sys.argv[1], {}, resume=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_directory_that_another_process_writes_is_waited_for_and_then_refused(tmp_path, monkeypatch):
    """As by the processes of a launcher that was killed alone. A process that is killed holds nothing."""
    monkeypatch.setattr("rlzero.report.run_lock.PATIENCE", 0.3)
    RunDirectory.create(tmp_path / "run", {}).close()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunDirectoryError, match="has one writer, and another process still writes"):
            RunDirectory.create(tmp_path / "run", {}, resume=True)
        monkeypatch.setattr("rlzero.report.run_lock.PATIENCE", 30.0)
        threading.Timer(0.5, other.kill).start()
        RunDirectory.create(tmp_path / "run", {}, resume=True)
    RunDirectory.create(tmp_path / "run", {}, resume=True)

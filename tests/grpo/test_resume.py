"""A run that was ended at any point and resumed is the run that was not: its record, its weights, its optimizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import rlzero.grpo.checkpoint as checkpoint_module
import rlzero.grpo.run as run_module
from rlzero.grpo.config import as_plain_config
from rlzero.grpo.resume import MAY_CHANGE, changes
from rlzero.report.run_dir import RunDirectory, read_metrics
from tests.conftest import TinyRun
from tests.grpo.pieces import make_recipe
from tests.grpo.test_checkpoint import Killed
from tests.grpo.test_run import SIGNAL, without_times

pytestmark = pytest.mark.usefixtures("no_pictures")

# Every kind of state that a run has, with two steps a rollout and a checkpoint after each.
STATEFUL = {
    **SIGNAL, "num_generations": 2, "max_steps": 6, "save_steps": 2, "save_total_limit": 3, "steps_per_generation": 2,
    "learning_rate": 0.01, "lr_scheduler_type": "linear", "beta": 0.05, "sync_ref_model": True,
    "ref_model_sync_steps": 4, "ref_model_mixup_alpha": 0.5, "dynamic_sampling": True, "curriculum": "failures",
    "curriculum_pool": 64,
    "eval_problems": 2, "eval_samples": 2, "eval_steps": 2, "eval_quick_problems": 2, "eval_quick_samples": 2,
}  # fmt: skip


def rollouts(folder: Path) -> dict[str, list[dict]]:
    import pyarrow.parquet as pq

    return {path.name: pq.read_table(path).to_pylist() for path in (folder / "rollouts").iterdir()}


def assert_same_run(found: Path, wanted: Path) -> None:
    """Bit for bit, but for times: every line, every completion, the trained model, what a longer run starts from."""
    for record in ("metrics.jsonl", "evaluations.jsonl"):
        rows, expected = (without_times(read_metrics(folder / record)) for folder in (found, wanted))
        assert [(row["step"], row.get("kind")) for row in rows] == [(row["step"], row.get("kind")) for row in expected]
        for row, other in zip(rows, expected, strict=True):
            odd = [key for key in row.keys() | other.keys() if row.get(key) != other.get(key)]
            assert odd == [], (record, {key: (row.get(key), other.get(key)) for key in ("step", *odd)})
    assert rollouts(found) == rollouts(wanted)
    summaries = [folder / "summary.json" for folder in (found, wanted)]
    assert summaries[0].is_file() == summaries[1].is_file()
    if summaries[0].is_file():
        result, expected = (json.loads(path.read_text()) for path in summaries)
        for figure in ("base", "trained", "gain", "steps"):
            assert result[figure] == expected[figure], figure
    assert (found / "model" / "model.safetensors").read_bytes() == (wanted / "model" / "model.safetensors").read_bytes()
    saved, others = (sorted((folder / "checkpoints").iterdir()) for folder in (found, wanted))
    assert [path.name for path in saved] == [path.name for path in others]
    last, other = ({path.name: path for path in folders[-1].iterdir()} for folders in (saved, others))
    assert last.keys() == other.keys() > {"model.safetensors", "optimizer.safetensors", "training.pt", "random-0.pt"}
    for name, path in last.items():
        if name.endswith(".safetensors"):
            assert path.read_bytes() == other[name].read_bytes(), name
        elif name.endswith(".pt"):
            assert_equal(torch.load(path), torch.load(other[name]), name)


def assert_equal(found: object, wanted: object, where: str) -> None:
    """Through dictionaries, lists and tensors."""
    assert type(found) is type(wanted), where
    if isinstance(found, dict):
        assert found.keys() == wanted.keys(), where
        for key, value in found.items():
            assert_equal(value, wanted[key], f"{where} {key}")
    elif isinstance(found, list | tuple):
        assert len(found) == len(wanted), where
        for index, pair in enumerate(zip(found, wanted, strict=True)):
            assert_equal(*pair, f"{where} {index}")
    else:
        assert torch.equal(found, wanted) if isinstance(found, torch.Tensor) else found == wanted, where


@pytest.fixture(scope="module")
def whole(tiny_model_dir, tmp_path_factory) -> Path:
    """The run that nobody stops."""
    run = TinyRun(tiny_model_dir, tmp_path_factory.mktemp("whole") / "run")
    assert run(**STATEFUL).code == 0
    states = load_file(run.output / "checkpoints" / "step-000006" / "optimizer.safetensors")
    assert any(float(tensor.abs().sum()) for name, tensor in states.items() if name.endswith("/exp_avg"))
    assert any(row["sampling/refills"] for row in read_metrics(run.output))
    return run.output


def ends(calls: int, before: bool = False):
    """The process ends with call number `calls` of a function: after it, or before it has any effect."""

    def wrap(function):
        made = iter(range(1, 10**6))

        def call(*args, **kwargs):
            last = next(made) == calls
            if last and before:
                raise Killed
            found = function(*args, **kwargs)
            if last:
                raise Killed
            return found

        return call

    return wrap


def half_a_line(log_metrics):
    """What is left of a line whose writing was interrupted."""

    def call(directory, metrics):
        log_metrics(directory, metrics)
        if metrics["step"] == 4:
            content = directory.metrics.read_bytes()
            directory.metrics.write_bytes(content[:-40])
            raise Killed

    return call


def half_a_file(write_rollouts):
    """What is left of a file of rollouts."""

    def call(directory, step, rows):
        if step == 4:
            (directory.rollouts / ".step-000004.parquet.tmp").write_bytes(b"PAR1")
            raise Killed
        return write_rollouts(directory, step, rows)

    return call


# where the process ends -> owner and name of a function, and what becomes of it
ENDS = {
    "in the base evaluation": (RunDirectory, "log_evaluation", ends(1, before=True)),
    "before any checkpoint": (RunDirectory, "log_metrics", ends(1)),
    "in the middle of the rollouts' file": (RunDirectory, "write_rollouts", half_a_file),
    "between the rollouts of a step and its line": (RunDirectory, "write_rollouts", ends(2)),
    "in the middle of a line": (RunDirectory, "log_metrics", half_a_line),
    "between line and evaluation": (RunDirectory, "log_metrics", ends(2)),
    "between evaluation and checkpoint": (RunDirectory, "log_evaluation", ends(3)),
    "in the middle of a checkpoint": (checkpoint_module, "write_state", ends(2)),
    "before a checkpoint is renamed": (checkpoint_module, "seal", ends(2)),
    "right after a checkpoint": (run_module, "save_checkpoint", ends(2)),
    "after the last step": (run_module, "finish", ends(1, before=True)),
    "at the very end": (RunDirectory, "write_summary", ends(1, before=True)),
}


def end(run: TinyRun, monkeypatch, owner, name: str, wrap, **settings) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, wrap(getattr(owner, name)))
        with pytest.raises(Killed):
            run(**settings)


@pytest.mark.parametrize("place", ENDS)
def test_run_ended_at_any_place_and_resumed_is_the_run_that_was_not(whole, tiny_run, monkeypatch, place):
    end(tiny_run, monkeypatch, *ENDS[place], **STATEFUL)
    outcome = tiny_run("--resume", **STATEFUL)
    assert outcome.code == 0, outcome.err
    assert ("it begins again" in outcome.out) == (place in ("in the base evaluation", "before any checkpoint"))
    assert_same_run(tiny_run.output, whole)


def test_torn_checkpoint_is_skipped_with_a_word_and_the_run_is_the_same(whole, tiny_run, monkeypatch):
    end(tiny_run, monkeypatch, *ENDS["right after a checkpoint"], **STATEFUL)
    torn = tiny_run.output / "checkpoints" / "step-000004" / "optimizer.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    outcome = tiny_run("--resume", **STATEFUL)
    assert outcome.code == 0, outcome.err
    assert "Checkpoint step-000004 is torn and left out: optimizer.safetensors has " in outcome.out
    assert_same_run(tiny_run.output, whole)


def test_run_whose_every_checkpoint_is_torn_is_refused_and_left_alone(tiny_run):
    assert tiny_run(**SIGNAL, save_steps=1).code == 0
    for path in (tiny_run.output / "checkpoints").iterdir():
        (path / "model.safetensors").unlink()
    before = sorted(p for p in tiny_run.output.rglob("*"))
    outcome = tiny_run("--resume", **SIGNAL, save_steps=1)
    assert outcome.code == 2
    assert "are torn (step-000003: model.safetensors is missing; step-000002: model" in outcome.err
    assert "Remove that folder to run from the beginning" in outcome.err
    assert sorted(p for p in tiny_run.output.rglob("*")) == before


def test_checkpoint_of_another_configuration_is_refused_with_the_differing_settings(tiny_run):
    settings = {**SIGNAL, "save_steps": 1, "max_steps": 1}
    assert tiny_run(**settings).code == 0
    before = {p: p.read_bytes() for p in tiny_run.output.rglob("*") if p.is_file()}
    outcome = tiny_run("--resume", **{**settings, "learning_rate": 0.5, "seed": 3, "reward_funcs": ["coin"]})
    assert outcome.code == 2
    for part in (
        "learning_rate was 0.001 and is 0.5", "seed was 0 and is 3",
        "reward_funcs was ['accuracy', 'format', 'coin'] and is ['coin']", str(tiny_run.output / "config.yaml"),
        "another --output_dir",
    ):  # fmt: skip
        assert part in outcome.err
    assert "max_steps" not in outcome.err
    assert {p: p.read_bytes() for p in tiny_run.output.rglob("*") if p.is_file()} == before


def test_run_without_a_checkpoint_is_also_refused_with_other_settings(tiny_run, monkeypatch):
    end(tiny_run, monkeypatch, *ENDS["before any checkpoint"], **SIGNAL)
    outcome = tiny_run("--resume", **{**SIGNAL, "num_generations": 2})
    assert outcome.code == 2
    assert "num_generations was 4 and is 2" in outcome.err


def test_settings_of_the_record_the_end_and_the_machine_may_change_and_are_told(tiny_run):
    assert tiny_run(**SIGNAL, save_steps=1, max_steps=1).code == 0
    outcome = tiny_run("--resume", **SIGNAL, save_steps=0, max_steps=2, tokens_per_microbatch=64)
    assert outcome.code == 0, outcome.err
    assert "max_steps was 1 when the run began and is 2 from here on" in outcome.out
    assert "tokens_per_microbatch was 8192 when the run began and is 64" in outcome.out
    assert [row["step"] for row in read_metrics(tiny_run.output)] == [1, 2]


def test_only_settings_that_exist_are_named_as_free_to_change():
    assert as_plain_config(make_recipe()).keys() >= MAY_CHANGE


def test_setting_that_a_run_of_an_earlier_version_did_not_have_was_at_its_default():
    now = as_plain_config(make_recipe())
    was = {name: value for name, value in now.items() if name != "weight_decay"}
    assert changes(was, now) == {}
    assert changes(was, now | {"weight_decay": 0.1}) == {"weight_decay": (0.0, 0.1)}
    assert changes(was | {"removed": 1}, now) == {}

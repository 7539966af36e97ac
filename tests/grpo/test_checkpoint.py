"""A checkpoint is whole or does not count, whatever happened to it or to the process that wrote it."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import rlzero.grpo.checkpoint as module
from data.charset import byte_tokenizer
from data.problem import Problem
from data.templates import get_template
from rlzero.grpo.checkpoint import checkpoints, forget_after, load_checkpoint, newest_whole, save_checkpoint
from rlzero.grpo.concern import ConfigError
from rlzero.grpo.curriculum import Curriculum
from rlzero.grpo.manifest import about, fault, seal
from rlzero.grpo.problems import ProblemFeed
from rlzero.grpo.trainer import GRPOTrainer
from tests.grpo.pieces import make_groups, make_recipe, make_trainer, updated

REWARDS = [[0.0, 1.0, 0.5], [1.0, 0.0, 0.0]]
SETTINGS = {
    "beta": 0.1, "learning_rate": 0.01, "weight_decay": 0.1, "lr_scheduler_type": "cosine", "max_steps": 20,
    "num_generations": 3, "prompts_per_step": 2,
}  # fmt: skip


class Numbered:
    """A source whose problems are their own positions."""

    name = "numbered"

    def train(self, seed: int, index: int) -> Problem:
        return Problem(str(index), "0")


class Told:
    """An engine that remembers which version it was told of."""

    version = None

    def sync(self, model, version: int) -> None:
        self.version = version


def make(folder: Path, **settings) -> GRPOTrainer:
    trainer = make_trainer(folder, make_recipe(**{**SETTINGS, **settings}))
    curriculum = Curriculum(50, "failures", seed=3)
    trainer.feed = ProblemFeed(Numbered(), get_template("short"), byte_tokenizer(), 0, curriculum=curriculum)
    trainer.engine = Told()
    return trainer


def advance(trainer: GRPOTrainer, steps: int) -> list[float]:
    """So many steps with groups that follow from the step's number, as in a run; the losses."""
    losses = []
    for _ in range(steps):
        figures = updated(trainer, make_groups(REWARDS, seed=trainer.done))
        losses.append(figures["loss"])
        trainer.feed.finish(trainer.done, [float(trainer.done), 1.0], 3)
        trainer.done += 1
        trainer.updater.move_reference(0.5)
    return losses


def everything(trainer: GRPOTrainer) -> dict[str, torch.Tensor]:
    """All that the next steps depend on."""
    updater = trainer.updater
    found = {f"model {name}": t for name, t in updater.model.state_dict().items()}
    found |= {f"reference {name}": t for name, t in updater.reference.state_dict().items()}
    for name, parameter in updater.model.named_parameters():
        found |= {f"{key} {name}": value for key, value in updater.optimizer.state.get(parameter, {}).items()}
    found["rate"] = torch.tensor(updater.optimizer.param_groups[0]["lr"], dtype=torch.float64)
    found["next rate"] = torch.tensor(updater.scheduler.get_last_lr()[0], dtype=torch.float64)
    found["drawn"] = torch.tensor(trainer.feed.curriculum.draw(trainer.done, 8))
    found["asked"] = torch.tensor(trainer.feed.asked)
    return {name: t.detach().clone() for name, t in found.items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.fixture(scope="module")
def trained(tiny_model_dir):
    """A trainer that three steps were made with."""
    trainer = make(tiny_model_dir)
    advance(trainer, 3)
    return trainer


def test_loaded_state_is_the_saved_one_bit_for_bit_and_the_next_steps_are_those_that_would_have_been(
    tiny_model_dir, tmp_path
):
    trainer = make(tiny_model_dir)
    advance(trainer, 3)
    trainer.updater.skipped_in_a_row = 2
    path = save_checkpoint(trainer, tmp_path, keep=2, wall_seconds=12.5)
    drawn = draws()
    at_save, losses, after = everything(trainer), advance(trainer, 2), everything(trainer)

    resumed = make(tiny_model_dir)
    assert load_checkpoint(resumed, path) == 12.5
    assert (resumed.done, resumed.engine.version, resumed.updater.skipped_in_a_row) == (3, 3, 2)
    assert_same(everything(resumed), at_save)
    assert draws() == drawn
    assert any(key.startswith("exp_avg ") for key in at_save)
    assert advance(resumed, 2) == losses
    assert_same(everything(resumed), after)


def test_optimizer_that_made_no_step_is_saved_without_a_state(tiny_model_dir, tmp_path):
    """A parameter without a gradient so far must not come back with one of zeros: its bias correction would be late."""
    trainer = make(tiny_model_dir)
    path = save_checkpoint(trainer, tmp_path, keep=1, wall_seconds=0.0)
    resumed = make(tiny_model_dir)
    load_checkpoint(resumed, path)
    assert not resumed.updater.optimizer.state
    losses = advance(trainer, 2)
    assert advance(resumed, 2) == losses
    assert_same(everything(resumed), everything(trainer))


def test_no_file_needs_code_to_be_unpickled(trained, tmp_path):
    path = save_checkpoint(trained, tmp_path, keep=1, wall_seconds=0.0)
    names = sorted(p.name for p in path.iterdir())
    assert names == [
        "checkpoint.json", "model.safetensors", "optimizer.safetensors", "random-0.pt", "reference.safetensors",
        "training.pt",
    ]  # fmt: skip
    for name in names:
        if name.endswith(".pt"):
            torch.load(path / name, weights_only=True)


def test_model_of_other_tensors_is_refused_by_name(trained, tiny_model_dir, tmp_path):
    path = save_checkpoint(trained, tmp_path, keep=1, wall_seconds=0.0)
    other = make(tiny_model_dir)
    other.updater.model.more = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match=r"1 of model\.safetensors differ \(more, …\): give model_name_or_path"):
        load_checkpoint(other, path)


def test_newest_k_are_kept_and_leftovers_of_a_killed_save_are_cleared(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "done", 1)
    (tmp_path / "step-000009.unfinished").mkdir(parents=True)
    for step in (1, 2, 3, 4):
        trained.done = step
        save_checkpoint(trained, tmp_path, keep=2, wall_seconds=float(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003", "step-000004"]
    assert [about(p)["wall_seconds"] for p in checkpoints(tmp_path)] == [3.0, 4.0]
    before = (tmp_path / "step-000004" / "checkpoint.json").read_bytes()
    save_checkpoint(trained, tmp_path, keep=2, wall_seconds=99.0)
    assert (tmp_path / "step-000004" / "checkpoint.json").read_bytes() == before


class Killed(BaseException):
    """The process is gone: nothing after it runs."""


def dying(monkeypatch, moment: int) -> None:
    """From its operation number `moment` on files, a save goes no further; a removal is then half done."""
    count = iter(range(10**6))

    def fatal(function):
        def call(*args, **kwargs):
            if next(count) >= moment:
                if function is shutil.rmtree:
                    next(Path(args[0]).iterdir()).unlink()
                raise Killed
            return function(*args, **kwargs)

        return call

    for owner, name in ((module, "write_state"), (module, "seal"), (module, "to_disk"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, fatal(getattr(owner, name)))
    monkeypatch.setattr(Path, "rename", fatal(Path.rename))


@pytest.mark.parametrize("keep", [1, 2])
def test_process_killed_at_any_operation_of_a_save_leaves_a_whole_checkpoint_and_the_next_save_clears_up(
    trained, tmp_path, monkeypatch, keep
):
    monkeypatch.setattr(trained, "done", 1)
    for moment in range(20):
        folder = tmp_path / str(moment)
        for step in range(1, 4):
            trained.done = step
            save_checkpoint(trained, folder, keep, wall_seconds=0.0)
        trained.done = 4
        with monkeypatch.context() as patched:
            dying(patched, moment)
            try:
                save_checkpoint(trained, folder, keep, wall_seconds=0.0)
                survived = True
            except Killed:
                survived = False
        newest, torn = newest_whole(folder)
        assert newest is not None
        assert newest.name in ("step-000003", "step-000004")
        assert torn == {}
        assert all(fault(path) is None for path in checkpoints(folder))
        trained.done = 5
        save_checkpoint(trained, folder, keep, wall_seconds=0.0)
        names = sorted(p.name for p in folder.iterdir())
        assert names[-1] == "step-000005"
        assert len(names) == keep
        shutil.rmtree(folder)
        if survived:
            assert moment > 4
            return
    pytest.fail("a save has fewer operations than this")


def tear_nothing(path: Path) -> None:
    (path / "unknown.txt").write_text("what nobody sealed does no harm")


def cut(path: Path) -> None:
    content = (path / "b.bin").read_bytes()
    (path / "b.bin").write_bytes(content[:-1])


def flip(path: Path) -> None:
    content = bytearray((path / "b.bin").read_bytes())
    content[3] ^= 1
    (path / "b.bin").write_bytes(content)


def cut_manifest(path: Path) -> None:
    content = (path / "checkpoint.json").read_bytes()
    (path / "checkpoint.json").write_bytes(content[: len(content) // 2])


TEARS = {
    "nothing": (tear_nothing, None),
    "a file is missing": (lambda path: (path / "a.bin").unlink(), "a.bin is missing"),
    "a file is cut off": (cut, "b.bin has 999 of 1000 bytes"),
    "a file is empty": (lambda path: (path / "b.bin").write_bytes(b""), "b.bin has 0 of 1000 bytes"),
    "a block was not written": (flip, "b.bin does not hold what was written"),
    "the manifest is missing": (lambda path: (path / "checkpoint.json").unlink(), "it has no checkpoint.json"),
    "the manifest is cut off": (cut_manifest, "its checkpoint.json is cut off"),
    "the manifest is empty": (lambda p: (p / "checkpoint.json").write_text(""), "its checkpoint.json is cut off"),
    "the manifest is another file": (lambda p: (p / "checkpoint.json").write_text("[]"), "checkpoint.json is cut off"),
}


@pytest.mark.parametrize("tear", TEARS)
def test_torn_checkpoint_is_recognised_in_every_way_it_can_be_torn_and_the_one_before_it_counts(tmp_path, tear):
    for step in (7, 12):
        path = tmp_path / f"step-{step:06d}"
        path.mkdir()
        (path / "a.bin").write_bytes(b"a" * 10)
        (path / "b.bin").write_bytes(bytes(range(250)) * 4)
        seal(path, {"step": step})
    spoil, wanted = TEARS[tear]
    spoil(tmp_path / "step-000012")
    newest, torn = newest_whole(tmp_path)
    if wanted is None:
        assert (newest, torn) == (tmp_path / "step-000012", {})
        return
    assert newest == tmp_path / "step-000007"
    assert torn.keys() == {"step-000012"}
    assert wanted in torn["step-000012"]
    assert about(newest)["step"] == 7
    (tmp_path / "step-000009.unfinished").mkdir()
    forget_after(tmp_path, 7)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000007"]


def test_folder_without_checkpoints_has_none(tmp_path):
    (tmp_path / "step-000003.unfinished").mkdir()
    (tmp_path / "notes").mkdir()
    assert newest_whole(tmp_path) == (None, {})
    assert newest_whole(tmp_path / "missing") == (None, {})
    assert checkpoints(tmp_path) == []


def test_manifest_keeps_what_it_is_told_about_the_folder(tmp_path):
    seal(tmp_path, {"step": np.int64(3), "config": {"path": Path("x"), "rate": 1e-4}})
    assert about(tmp_path) == {"step": 3, "config": {"path": "x", "rate": 1e-4}, "files": {}}
    assert json.loads((tmp_path / "checkpoint.json").read_text()) == about(tmp_path)

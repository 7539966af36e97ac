"""Checkpoints of a run: written whole or not at all, the newest K kept, a torn one known as such.

A checkpoint is written under another name, put on disk with a manifest of sizes and checksums, and renamed: a process
that is killed at any moment leaves the older ones as they were. A file that a power failure or a full disk cut off
later does not match the manifest. What is in a checkpoint: `rlzero.grpo.training_state`.

It lies between two rollouts, never within the updates of one. A rollout that was underway when the run ended is
sampled anew: its problems, seeds and limits are functions of the state that was saved, so that with the built-in
engine it is the same one, token for token, and so are its refills. One that was sampled ahead, by weights that are
gone, is part of the state (`rlzero.grpo.ahead`).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from accelerate.utils import broadcast_object_list

from rlzero.grpo.config import as_plain_config
from rlzero.grpo.manifest import about, fault, seal
from rlzero.grpo.trainer import GRPOTrainer
from rlzero.grpo.training_state import read_state, write_state
from rlzero.report.records import to_disk

_NAME = re.compile(r"step-(\d+)")
# Being written. One that is being removed is torn as soon as a file is gone.
_UNFINISHED = ".unfinished"


def save_checkpoint(trainer: GRPOTrainer, folder: Path, keep: int, wall_seconds: float) -> Path:
    """Write what the run goes on from under `folder`; drop all but the newest `keep`. Every process must call it.

    The state after a step is the same whenever it is saved: one that is there already is left as it is.
    """
    accelerator = trainer.accelerator
    path = folder / f"step-{trainer.done:06d}"
    unfinished = path.with_name(path.name + _UNFINISHED)
    present = [fault(path, contents=False) is None] if accelerator.is_main_process else [False]
    if broadcast_object_list(present)[0]:
        return path
    if accelerator.is_main_process:
        _clear(folder)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()
    write_state(trainer, unfinished)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        config = as_plain_config(trainer.recipe)
        seal(unfinished, {"step": trainer.done, "wall_seconds": wall_seconds, "config": config})
        if path.exists():
            shutil.rmtree(path)
        unfinished.rename(path)
        to_disk(folder)
        kept = checkpoints(folder)[-keep:]
        for old in _steps(folder):
            if old not in kept:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder` whose files have their sizes, oldest first."""
    return [path for path in _steps(folder) if fault(path, contents=False) is None]


def newest_whole(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """The newest checkpoint that is as it was written, or None; and by name what is wrong with those after it."""
    torn: dict[str, str] = {}
    for path in reversed(_steps(folder)):
        found = fault(path)
        if found is None:
            return path, torn
        torn[path.name] = found
    return None, torn


def load_checkpoint(trainer: GRPOTrainer, path: Path) -> float:
    """Go on from a whole checkpoint. Returns the wall seconds that the run had then. Every process must call it.

    Raises ConfigError where the model is not the one that was saved.
    """
    read_state(trainer, path)
    saved = about(path)
    trainer.done = saved["step"]
    trainer.engine.sync(trainer.accelerator.unwrap_model(trainer.model), trainer.done)
    return saved["wall_seconds"]


def forget_after(folder: Path, step: int) -> None:
    """Remove the checkpoints after `step`, the torn ones that a resume did not start from, and unfinished ones."""
    _clear(folder)
    for path in _steps(folder):
        if _step(path) > step:
            shutil.rmtree(path)


def _steps(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _clear(folder: Path) -> None:
    """What a killed process was writing."""
    for left in folder.glob(f"step-*{_UNFINISHED}"):
        shutil.rmtree(left)

"""Checkpoints of a run: written whole or not at all, the newest K kept."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from rlzero.grpo.trainer import GRPOTrainer

_NAME = re.compile(r"step-(\d+)")
# Written last: a folder without it is torn and does not count.
_STATE = "trainer_state.json"


def save_checkpoint(trainer: GRPOTrainer, folder: Path, keep: int, wall_seconds: float) -> Path:
    """Write model, optimizer, schedule, random states and position under `folder`; drop all but `keep`."""
    accelerator = trainer.accelerator
    path = folder / f"step-{trainer.done:06d}"
    unfinished = folder / f"{path.name}.unfinished"
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state = {"step": trainer.done, "wall_seconds": wall_seconds}
        (unfinished / _STATE).write_text(json.dumps(state))
        shutil.rmtree(path, ignore_errors=True)
        unfinished.rename(path)
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    found = [p for p in folder.glob("step-*") if _NAME.fullmatch(p.name) and (p / _STATE).is_file()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def load_checkpoint(trainer: GRPOTrainer, folder: Path) -> float:
    """Go on from the newest whole checkpoint. Returns the wall seconds that the run had then."""
    found = checkpoints(folder)
    trainer.accelerator.load_state(str(found[-1]))
    state = json.loads((found[-1] / _STATE).read_text())
    trainer.done = state["step"]
    trainer.engine.sync(trainer.accelerator.unwrap_model(trainer.model), trainer.done)
    return state["wall_seconds"]

"""The run directory: everything a run leaves behind, readable while it runs and seamless after a resume.

    config.yaml, config.json   what was asked for (config.1.yaml …: before a resume changed it)
    metrics.jsonl              one JSON object per step
    evaluations.jsonl          one JSON object per held-out evaluation along the way
    rollouts/step-000001.parquet …   every completion with its reward per function
    checkpoints/               what a resume starts from
    skipped/step-000012.pt     batches whose loss or gradient was not finite, for `torch.load`
    model/                     the trained model, as `from_pretrained` and vLLM load it
    summary.json, curves.png   the result

In a run of several processes only the main one creates and writes it; the others may hold
`RunDirectory(path)` for the paths.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlzero.report.records import (
    append_record,
    as_json,
    as_plain,
    as_yaml,
    read_metrics,
    rewrite_records,
    to_disk,
    write_atomically,
)
from rlzero.report.run_lock import RunLock

__all__ = ["ROLLOUT_COLUMNS", "RunDirectory", "RunDirectoryError", "read_metrics"]

# Columns that every rollout file has, beside one `reward/<name>` per reward function.
ROLLOUT_COLUMNS = (
    "step",
    "prompt",
    "answer",
    "completion",
    "finish_reason",
    "length",
    "reward",
    "advantage",
    "correct",
)
_OWN_NAMES = (
    "config.yaml",
    "config.json",
    "metrics.jsonl",
    "evaluations.jsonl",
    "summary.json",
    "curves.png",
    "rollouts",
    "checkpoints",
    "model",
)
# Settings that may differ between a run and its resumption without the run being another one.
_SESSION_KEYS = ("resume", "output_dir")
_STEP_FILE = re.compile(r"step-(\d+)\.(?:parquet|pt)")


class RunDirectoryError(ValueError):
    """The output directory cannot be used as asked."""


class RunDirectory:
    """Paths and writers of one run. The constructor touches nothing: use `create` to begin or to go on."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_yaml = self.path / "config.yaml"
        self.config_json = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.evaluations = self.path / "evaluations.jsonl"
        self.rollouts = self.path / "rollouts"
        self.checkpoints = self.path / "checkpoints"
        self.skipped = self.path / "skipped"
        self.model = self.path / "model"
        self.summary = self.path / "summary.json"
        self.curves = self.path / "curves.png"
        # Filled by `create` on a resume: {key: (then, now)} for settings that are no longer the same.
        self.config_changes: dict[str, tuple[Any, Any]] = {}
        self._lock: RunLock | None = None

    @classmethod
    def create(cls, output_dir: str | Path, config: Mapping[str, Any], resume: bool = False) -> RunDirectory:
        """Begin a run in `output_dir`, or go on with the one there.

        config: nested plain data; values JSON does not know (paths, dtypes) are written as their text.
        Raises RunDirectoryError when the directory cannot be written, holds another run (without `resume`),
        or holds no run (with it), and while another process writes it.
        """
        run = cls(output_dir)
        run.check_usable(resume)
        run._take()
        plain = as_plain(config)
        for folder in (run.rollouts, run.checkpoints):
            folder.mkdir(exist_ok=True)
        for record in (run.metrics, run.evaluations):
            record.touch()
            # A process killed while writing leaves half a line, which the next append would spoil for good.
            rewrite_records(record, keep=lambda row: True)
        if resume:
            run._keep_old_config(plain)
        # With the JSON there is a run to go on with; before, nothing that a new one would overwrite.
        write_atomically(run.config_json, as_json(plain).encode())
        write_atomically(run.config_yaml, as_yaml(plain).encode())
        return run

    def check_usable(self, resume: bool) -> None:
        """Raise the RunDirectoryError that `create` would. It makes the folder and writes nothing into it."""
        try:
            self._check_holds_what_is_expected(resume)
            self.path.mkdir(parents=True, exist_ok=True)
            # Asking for permission bits is not enough (read-only mounts, root): try it.
            with tempfile.NamedTemporaryFile(dir=self.path, prefix=".probe-"):
                pass
        except OSError as error:
            raise RunDirectoryError(
                f"the output directory must be a folder that can be written, and {str(self.path)!r} cannot: "
                f"{error.strerror or error}. Give another one with --output_dir."
            ) from error

    def log_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl, on disk when this returns. Scalars only; `step` is required.

        JSON has no NaN and no infinity: they are written as null, which readers and plots take as a gap.
        """
        append_record(self.metrics, metrics)

    def log_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Append one held-out evaluation (`step`, `wall_seconds`, `pass@1`, …) to evaluations.jsonl."""
        append_record(self.evaluations, evaluation)

    def write_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write the completions of one step as Parquet, atomically, and return the file.

        rows: one dict per completion with `ROLLOUT_COLUMNS` (`step` may be left out) and the same
        `reward/<name>` columns in each; length in tokens; a reward may be None (the function did not apply);
        `completion` is the text that the rewards saw. Further columns are written as they are.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{**row, "step": step} for row in rows]
        names = _rollout_columns(step, rows)
        types = {"step": pa.int64(), "length": pa.int32(), "correct": pa.bool_()}
        types |= dict.fromkeys(("prompt", "answer", "completion", "finish_reason"), pa.string())
        types |= dict.fromkeys((n for n in names if n.startswith("reward/")), pa.float32())
        types |= {"reward": pa.float32(), "advantage": pa.float32()}
        columns = {name: pa.array([row[name] for row in rows], type=types.get(name)) for name in names}
        path = self.rollouts / f"step-{step:06d}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd")
        write_atomically(path, sink.getvalue())
        return path

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, atomically; NaN becomes null."""
        write_atomically(self.summary, as_json(as_plain(summary)).encode())

    def truncate_after(self, step: int, measured_again: Collection[str] = ()) -> None:
        """Forget what was recorded after `step`, the checkpoint that a resume starts from.

        Those steps will be run again: without this the record would hold them twice. What a killed process left half
        written goes too. measured_again: the kinds of evaluation that will be made again, whatever their step.
        """
        rewrite_records(self.metrics, keep=lambda row: row["step"] <= step)
        rewrite_records(
            self.evaluations, keep=lambda row: row["step"] <= step and row.get("kind") not in measured_again
        )
        for file in [*self.rollouts.iterdir(), *self.skipped.glob("*")]:
            match = _STEP_FILE.fullmatch(file.name)
            if file.suffix == ".tmp" or (match and int(match[1]) > step):
                file.unlink()

    def close(self) -> None:
        """Another process may write it now."""
        if self._lock is not None:
            self._lock.release()

    def to_disk(self) -> None:
        """The records outlive a power failure when this returns: before a checkpoint that a resume goes on from."""
        for path in (self.metrics, self.evaluations, self.rollouts, self.path):
            to_disk(path)

    def _check_holds_what_is_expected(self, resume: bool) -> None:
        found = [name for name in _OWN_NAMES if (self.path / name).exists()]
        holds_run = "metrics.jsonl" in found and "config.json" in found
        if resume and not holds_run:
            raise RunDirectoryError(
                f"--resume needs a run to go on with, and {str(self.path)!r} holds none. "
                "Leave out --resume to begin one there, or give --output_dir the folder of a run."
            )
        if not resume and holds_run:
            raise RunDirectoryError(
                f"the output directory {str(self.path)!r} already holds a run "
                f"({', '.join(found)}). Add --resume to go on with it, or give --output_dir another name."
            )
        # A process killed while it began a run leaves empty records.
        filled = [name for name in found if not _is_empty(self.path / name)]
        if not resume and filled:
            raise RunDirectoryError(
                f"the output directory {str(self.path)!r} holds files that a run would overwrite "
                f"({', '.join(filled)}). Give another name with --output_dir."
            )

    def _take(self) -> None:
        try:
            self._lock = RunLock(self.path / ".lock")
        except TimeoutError:
            raise RunDirectoryError(
                f"a run directory has one writer, and another process still writes {str(self.path)!r}: wait until it "
                "has ended, end it, or give another folder with --output_dir."
            ) from None

    def _keep_old_config(self, new: Mapping[str, Any]) -> None:
        """Note what differs from the config on disk, and keep that one beside the new."""
        old = json.loads(self.config_json.read_text())
        keys = [key for key in {**old, **new} if key not in _SESSION_KEYS]
        self.config_changes = {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}
        if self.config_changes:
            earlier = len(list(self.path.glob("config.[0-9]*.yaml")))
            write_atomically(self.path / f"config.{earlier + 1}.yaml", as_yaml(old).encode())


def _is_empty(path: Path) -> bool:
    return not (any(path.iterdir()) if path.is_dir() else path.stat().st_size)


def _rollout_columns(step: int, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns in the order they are written: the known ones, then the rest by name."""
    if not rows:
        raise ValueError(f"step {step} has no rollouts to write: pass at least one row.")
    present = set(rows[0])
    for index, row in enumerate(rows):
        if missing := [name for name in ROLLOUT_COLUMNS if name not in row]:
            raise ValueError(
                f"a rollout needs the columns {', '.join(ROLLOUT_COLUMNS)}, and number {index} of "
                f"step {step} lacks {missing}. Write None where a value is unknown."
            )
        if set(row) != present:
            odd = sorted(set(row) ^ present)
            raise ValueError(
                f"all rollouts of step {step} must have the same columns, and number {index} differs from "
                f"the first one in {odd}. Write None where a value is unknown."
            )
    rewards = sorted(name for name in present if name.startswith("reward/"))
    known = [*ROLLOUT_COLUMNS[:6], *rewards, *ROLLOUT_COLUMNS[6:]]
    return known + sorted(present - set(known))

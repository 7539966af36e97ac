"""Plain records on disk: JSON lines that survive a killed process, and files that are never half written."""

from __future__ import annotations

import enum
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# The order in which a metrics line shows its figures; all others follow, sorted by name.
METRIC_ORDER = (
    "step",
    "reward",
    "accuracy",
    "format",
    "completion_length",
    "loss",
    "grad_norm",
    "entropy",
    "logprob_diff",
    "time_generate",
    "time_reward",
    "time_train",
    "time_sync",
    "tokens",
)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl (or evaluations.jsonl), or of the one in a run directory.

    A last line cut off by a killed process is left out; a broken line anywhere else raises ValueError.
    A figure that was not finite is None.
    """
    path = Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            # Each line is written together with its newline: only the last, unfinished one may be torn.
            if number == len(lines):
                break
            raise ValueError(
                f"{path}: every line must be one JSON object, and line {number} is not ({error}): "
                f"{line[:80]!r}. Repair or delete that line."
            ) from error
    return rows


def seconds_to_reach(goal: float, evaluations: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds from the start of training, which the evaluation of the base precedes, to the first pass@1 of `goal`."""
    began = next((row["wall_seconds"] for row in evaluations if row["kind"] == "base"), 0.0)
    return next((row["wall_seconds"] - began for row in evaluations if row["pass@1"] >= goal), None)


def rewrite_records(path: Path, keep: Callable[[Mapping[str, Any]], bool]) -> None:
    """Leave only the records to keep, and no torn last line; the file stays as it is when nothing changes."""
    rows = [row for row in read_metrics(path) if keep(row)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if text.encode() != path.read_bytes():
        write_atomically(path, text.encode())


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line with the keys in `METRIC_ORDER`; `step` is required, NaN becomes null."""
    if "step" not in record:
        raise ValueError(f"a record in {path.name} must say its step, and this one has {sorted(record)}. Add 'step'.")
    ordered = [key for key in METRIC_ORDER if key in record]
    ordered += sorted(key for key in record if key not in METRIC_ORDER)
    line = json.dumps({key: as_plain(record[key]) for key in ordered}, allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def as_plain(value: Any) -> Any:
    """JSON's own types: numpy and torch scalars become numbers, NaN and infinity None, the rest text."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return as_plain(value.value)
    if isinstance(value, str | bool | int | None):
        return value
    if hasattr(value, "item"):
        return as_plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def as_json(data: Any) -> str:
    return json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def as_yaml(data: Any) -> str:
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never half of it, even after a crash."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
    to_disk(temporary)
    temporary.replace(path)


def to_disk(path: Path) -> None:
    """What was written to the file, or the names made in the folder, outlive a power failure when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

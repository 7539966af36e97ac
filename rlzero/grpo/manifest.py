"""A folder that can tell whether it is whole: size and checksum of every file, written last."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlzero.report.records import as_json, as_plain, to_disk, write_atomically

_MANIFEST = "checkpoint.json"
_CHUNK = 1 << 24  # bytes read at a time


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest, with what is to be known about the folder. All of it is on disk when this returns."""
    files = sorted(path for path in folder.iterdir() if path.name != _MANIFEST)
    for path in files:
        to_disk(path)
    sizes = {path.name: {"bytes": path.stat().st_size, "crc32": _crc32(path)} for path in files}
    write_atomically(folder / _MANIFEST, as_json({**as_plain(facts), "files": sizes}).encode())
    to_disk(folder)


def about(folder: Path) -> dict[str, Any]:
    """What the manifest of a whole folder says about it."""
    return json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))


def fault(folder: Path, *, contents: bool = True) -> str | None:
    """Why the folder is not as it was sealed, or None. Without `contents` sizes alone are compared, which is quick."""
    try:
        files = about(folder)["files"]
    except OSError:
        return f"it has no {_MANIFEST}"
    except (ValueError, KeyError, TypeError):
        return f"its {_MANIFEST} is cut off"
    for name, sealed in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != sealed["bytes"]:
            return f"{name} has {size} of {sealed['bytes']} bytes"
        if contents and _crc32(path) != sealed["crc32"]:
            return f"{name} does not hold what was written"
    return None


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum

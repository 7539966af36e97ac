"""Safetensors files as bytes: where each tensor lies, and new files put together from pieces of others.

A conversion only moves and cuts tensors, so no value is ever decoded: what comes out is what went in, bit for bit,
in any dtype, and memory holds one buffer however large the model is. The format (a length, a JSON header, the bytes)
is documented at https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from rlzero.models.load import ModelError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_BUFFER = 4 << 20
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "B": 1, "": 1}


class CheckpointError(ModelError):
    """A checkpoint whose files cannot be used: the message says which, why, and what to do."""


@dataclass(frozen=True)
class Span:
    """`size` bytes of a file from `start`."""

    path: Path
    start: int
    size: int


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, or one to be written: its bytes are those of the spans, one after the other.

    dtype: as safetensors writes it ("F32", "BF16", …).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    spans: tuple[Span, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(span.size for span in self.spans)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.size // max(1, math.prod(self.shape))


def read_checkpoint(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint in a folder, by name, in the order of its files. Reads headers only.

    Raises CheckpointError where there is no safetensors checkpoint and for one that is torn.
    """
    tensors: dict[str, Stored] = {}
    for path in _files(folder):
        for tensor in _read_header(path):
            if tensor.name in tensors:
                raise CheckpointError(
                    f"a checkpoint holds each tensor once, and {tensor.name!r} is in {path.name} and in "
                    f"{tensors[tensor.name].spans[0].path.name}. Remove the file that does not belong to it."
                )
            tensors[tensor.name] = tensor
    return tensors


def write_checkpoint(folder: Path, tensors: Sequence[Stored], max_shard_size: int) -> list[Path]:
    """Write the tensors into files of at most `max_shard_size` bytes (a larger tensor has its own), with an index
    where there are several."""
    shards = _shards(tensors, max_shard_size)
    count = len(shards)
    names = [SINGLE] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard)
    if count > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.size for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in names]


def same_bytes(one: Stored, other: Stored) -> bool:
    """Whether two tensors are equal bit for bit."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    pairs = zip(_read(one.spans), _read(other.spans), strict=True)
    return all(a == b for a, b in pairs)


def parse_size(text: str | int) -> int:
    """Bytes, from a number or from words such as "4GB" (10^9) and "500MiB" (2^20)."""
    number = str(text).strip().upper()
    unit = number.lstrip("0123456789.")
    try:
        size = int(float(number[: len(number) - len(unit)]) * _UNITS[unit.strip()])
    except (ValueError, KeyError):
        size = 0
    if size <= 0:
        raise CheckpointError(f"max_shard_size must be a positive size such as 4GB or 500MB, got {text!r}.")
    return size


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        try:
            weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            files = [folder / name for name in sorted(set(weight_map.values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / INDEX} is no index of a checkpoint: {error!r}. Fetch it anew.") from error
    else:
        files = [folder / SINGLE] if (folder / SINGLE).is_file() else []
    if missing := [path.name for path in files if not path.is_file()]:
        raise CheckpointError(
            f"the index of {str(folder)!r} names files that are not there: {', '.join(missing)}. Fetch them anew."
        )
    if files:
        return files
    if pickled := sorted(path.name for path in folder.glob("*.bin")):
        raise CheckpointError(
            f"only safetensors are read, and {str(folder)!r} holds {pickled[0]}. Load the model with transformers and "
            "save it with save_pretrained, which writes safetensors."
        )
    raise CheckpointError(f"{str(folder)!r} holds neither {SINGLE} nor {INDEX}. Name the folder of a checkpoint.")


def _read_header(path: Path) -> Iterator[Stored]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            # A torn or foreign file claims any length; json would be asked to hold it.
            header = json.loads(file.read(length)) if length < size else {}
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        found = [
            Stored(name, entry["dtype"], tuple(entry["shape"]), (Span(path, 8 + length + start, end - start),))
            for name, entry in entries.items()
            for start, end in [entry["data_offsets"]]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no safetensors file: {error!r}. Fetch or save it anew.") from error
    if not found or max(tensor.spans[0].start + tensor.spans[0].size for tensor in found) != size:
        raise CheckpointError(f"{path} is torn: its header does not describe its {size:,} bytes. Fetch it anew.")
    yield from found


def _shards(tensors: Iterable[Stored], limit: int) -> list[list[Stored]]:
    shards: list[list[Stored]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size
    # Widest elements first, as safetensors itself does: then every tensor is aligned to its elements.
    return [sorted(shard, key=lambda tensor: -tensor.itemsize) for shard in shards]


def _write_file(path: Path, tensors: Sequence[Stored]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.size
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for chunk in _read([span for tensor in tensors for span in tensor.spans]):
            file.write(chunk)


def _read(spans: Iterable[Span]) -> Iterator[memoryview]:
    """The bytes of the spans, at most a buffer at a time; each chunk is valid until the next."""
    buffer = memoryview(bytearray(_BUFFER))
    with ExitStack() as stack:
        opened: dict[Path, BufferedReader] = {}
        for span in spans:
            file = opened.get(span.path)
            if file is None:
                file = opened[span.path] = stack.enter_context(span.path.open("rb"))
            file.seek(span.start)
            left = span.size
            while left:
                count = file.readinto(buffer[: min(left, len(buffer))])
                if not count:
                    raise CheckpointError(f"{span.path} ended before its last tensor. It changed while it was read.")
                yield buffer[:count]
                left -= count

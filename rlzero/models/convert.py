"""Native checkpoints to ours and back, without loss: tensors bit for bit, configurations field for field.

    rlzero convert models/mixtral models/mixtral-ours --to ours
    rlzero convert runs/x/model models/x-native --to native        # for vLLM's own classes, or transformers'

Tensors are streamed from file to file (rlzero/models/shards.py), so a checkpoint of any size needs some megabytes
of memory. Which class an own configuration becomes: rlzero/models/native.py.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from rlzero.models.config import MoEConfig
from rlzero.models.layout import Copy, Place, Shape, copies, layout
from rlzero.models.load import ModelError
from rlzero.models.native import KEPT_OURS, ConversionError, from_native_config, native_of, to_native_config
from rlzero.models.native_table import BY_MODEL_TYPE
from rlzero.models.shards import Span, Stored, parse_size, read_checkpoint, same_bytes, write_checkpoint

TARGETS = ("ours", "native")
# What belongs to a model beside its weights and its configuration.
_BESIDE = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.tiktoken",
    "chat_template*", "generation_config.json", "prompt_template.json", "*.py", "LICENSE*", "README.md",
)  # fmt: skip
# Old checkpoints hold the frequencies of the rotary embedding, which follow from the configuration.
_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
_SHOWN = 5


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did. bytes: of the tensors written. memory: bytes by which the process's peak grew.

    notes: what a reader of the new checkpoint should know, a sentence each.
    """

    source: Path
    destination: Path
    model_type: str
    to: str
    tensors_read: int
    tensors_written: int
    files: int
    bytes: int
    seconds: float
    memory: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.source} ({self.model_type if self.to == 'ours' else 'ours'}) is now {self.destination} "
            f"({self.model_type if self.to == 'native' else 'ours'})",
            f"{self.tensors_read} tensors read, {self.tensors_written} written in {self.files} files: "
            f"{self.bytes / 1e9:.3f} GB in {self.seconds:.1f} s, peak memory grew by {self.memory / 1e6:.0f} MB",
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def convert(source: Path, destination: Path, to: str, max_shard_size: str | int = "4GB") -> ConversionReport:
    """Write the checkpoint in `source` to the new folder `destination`, in our format or in a native one.

    The folder appears when it is whole. Raises ConversionError or CheckpointError, before anything is written, for
    a model that has no counterpart and for a checkpoint that lacks tensors, has unknown ones or wrong shapes.
    """
    started, memory = time.perf_counter(), _peak_memory()
    if to not in TARGETS:
        raise ConversionError(f"to must be one of {', '.join(TARGETS)}, got {to!r}.")
    limit = parse_size(max_shard_size)
    _check_destination(destination)
    config = _read_config(source, to)
    stored = read_checkpoint(source)
    new_config, tensors, notes = _to_ours(config, stored) if to == "ours" else _to_native(config, stored)
    total = sum(tensor.size for tensor in tensors)
    _check_space(destination, total)
    unfinished = destination.with_name(f"{destination.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        files = write_checkpoint(unfinished, tensors, limit)
        new_config.save_pretrained(unfinished)
        for path in sorted({path for pattern in _BESIDE for path in source.glob(pattern) if path.is_file()}):
            shutil.copy2(path, unfinished / path.name)
        unfinished.rename(destination)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return ConversionReport(
        source,
        destination,
        (config if to == "ours" else new_config).model_type,
        to,
        tensors_read=len(stored),
        tensors_written=len(tensors),
        files=len(files),
        bytes=total,
        seconds=time.perf_counter() - started,
        memory=_peak_memory() - memory,
        notes=tuple(notes),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `rlzero convert`."""
    parser.add_argument("source", type=Path, help="folder of the checkpoint: config.json and safetensors files")
    parser.add_argument("destination", type=Path, help="folder to write, which must not exist or be empty")
    parser.add_argument("--to", choices=TARGETS, required=True, help="the format to write")
    parser.add_argument("--max_shard_size", default="4GB", help="largest file (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """`rlzero convert`: 0, or 2 with the reason on stderr."""
    try:
        print(convert(arguments.source, arguments.destination, arguments.to, arguments.max_shard_size))
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _to_ours(config: PreTrainedConfig, stored: dict[str, Stored]) -> tuple[MoEConfig, list[Stored], list[str]]:
    native = native_of(config)
    ours = from_native_config(config)
    notes = []
    mtp = f"model.layers.{ours.num_hidden_layers}."
    if ours.num_nextn_predict_layers and not any(name.startswith(mtp) for name in stored):
        notes.append(
            f"the configuration has num_nextn_predict_layers {ours.num_nextn_predict_layers} and the checkpoint no "
            "such layers: 0 in ours"
        )
        ours.native["num_nextn_predict_layers"] = ours.num_nextn_predict_layers
        ours.num_nextn_predict_layers = 0
    if derived := [name for name in stored if _DERIVED.fullmatch(name)]:
        notes.append(f"{len(derived)} rotary frequencies left out: they follow from the configuration")
    places, repeated = layout(native, ours), copies(ours)
    used = {name: tensor for name, tensor in stored.items() if name not in derived}
    _check_names({piece.name: piece.shape for place in places for piece in place.pieces}, used, repeated)
    return ours, [_joined(place, stored) for place in places], notes


def _to_native(config: MoEConfig, stored: dict[str, Stored]) -> tuple[PreTrainedConfig, list[Stored], list[str]]:
    theirs = to_native_config(config)
    places = layout(native_of(theirs), config)
    _check_names({place.name: place.shape for place in places}, stored, [])
    cut = {tensor.name: tensor for place in places for tensor in _cut(place, stored[place.name])}
    repeated = [copy for copy in copies(config) if copy.written]
    cut |= {copy.name: replace(cut[copy.original], name=copy.name) for copy in repeated}
    kept = getattr(theirs, KEPT_OURS, {})
    notes = [f"{', '.join(kept)}: only for the way back, under {KEPT_OURS!r} in config.json"] if kept else []
    return theirs, list(cut.values()), notes


def _joined(place: Place, stored: Mapping[str, Stored]) -> Stored:
    """Our tensor out of the native ones."""
    parts = [stored[piece.name] for piece in place.pieces]
    dtypes = sorted({part.dtype for part in parts})
    if len(dtypes) > 1:
        raise ConversionError(
            f"{place.name} is one tensor of ours, and its {len(parts)} parts have the dtypes {', '.join(dtypes)}. "
            "Save the model in one dtype."
        )
    return Stored(place.name, dtypes[0], place.shape, tuple(span for part in parts for span in part.spans))


def _cut(place: Place, tensor: Stored) -> list[Stored]:
    """The native tensors out of ours."""
    (whole,) = tensor.spans
    ends = [*(piece.start for piece in place.pieces[1:]), whole.size // max(1, tensor.itemsize)]
    return [
        Stored(
            piece.name,
            tensor.dtype,
            piece.shape,
            (Span(whole.path, whole.start + piece.start * tensor.itemsize, (end - piece.start) * tensor.itemsize),),
        )
        for piece, end in zip(place.pieces, ends, strict=True)
    ]


def _check_names(wanted: Mapping[str, Shape], stored: Mapping[str, Stored], repeated: Sequence[Copy]) -> None:
    """Refuse a checkpoint that is not exactly the model; repeats may be there, if they do repeat."""
    problems = []
    if missing := [name for name in wanted if name not in stored]:
        problems.append(f"{len(missing)} of the model's {len(wanted)} tensors are missing: {_some(missing)}")
    known = {*wanted, *(copy.name for copy in repeated)}
    if extra := [name for name in stored if name not in known]:
        problems.append(f"{len(extra)} tensors are none of the model's: {_some(extra)}")
    shapes = [
        f"{name} is {list(stored[name].shape)} and must be {list(shape)}"
        for name, shape in wanted.items()
        if name in stored and stored[name].shape != shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} tensors have another shape than config.json says: {_some(shapes)}")
    if quantized := [name for name, tensor in stored.items() if tensor.dtype.startswith("F8") or "scale_inv" in name]:
        problems = [f"{len(quantized)} tensors are quantized: {_some(quantized)}"]
    present = [copy for copy in repeated if copy.name in stored] if not problems else []
    if differing := [copy.name for copy in present if not same_bytes(stored[copy.name], stored[copy.original])]:
        problems.append(f"these should repeat the embedding or the head, and differ from it: {_some(differing)}")
    if problems:
        raise ConversionError(
            f"this checkpoint cannot be converted without loss. {'; '.join(problems)}. A whole one in bfloat16 or "
            "float32 is needed, with the config.json that belongs to it."
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _read_config(source: Path, to: str) -> PreTrainedConfig:
    path = source / "config.json"
    if not path.is_file():
        raise ConversionError(f"{str(source)!r} holds no model: there is no config.json in it. Name a model's folder.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        model_type = raw.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ConversionError(f"{path} is no configuration: {error!r}. Fetch or save it anew.") from error
    allowed = tuple(BY_MODEL_TYPE) if to == "ours" else (MoEConfig.model_type,)
    if model_type not in allowed:
        raise ConversionError(
            f"to convert to {to}, the model_type in {path} must be one of {', '.join(allowed)}, got {model_type!r}."
        )
    if raw.get("quantization_config"):
        raise ConversionError(
            f"{path} has a quantization_config ({raw['quantization_config'].get('quant_method')!r}), and only plain "
            "weights convert without loss. Make them bfloat16 first: for DeepSeek-V3 by inference/fp8_cast_bf16.py of "
            "its repository, and take the key out of config.json."
        )
    try:
        return MoEConfig.from_pretrained(source) if to == "native" else AutoConfig.from_pretrained(source)
    except (ValueError, StrictDataclassError) as error:
        raise ConversionError(f"the configuration in {path} is refused: {error}") from error


def _check_destination(destination: Path) -> None:
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConversionError(
            f"the destination must not exist or be an empty folder, and {str(destination)!r} is not. "
            "Remove it or name another."
        )


def _check_space(destination: Path, size: int) -> None:
    place = destination.absolute().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size:
        raise ConversionError(
            f"{size / 1e9:.1f} GB are to be written and {free / 1e9:.1f} GB are free at {str(place)!r}. Make room, or "
            "name another destination."
        )


def _peak_memory() -> int:
    """Bytes: the most that this process has held. Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

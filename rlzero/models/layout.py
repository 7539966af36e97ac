"""Where the tensors of a native checkpoint lie within ours: a layer's experts are fused here, one matrix each there."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig
    from rlzero.models.native_table import Native

Shape = tuple[int, ...]

_EXPERTS = re.compile(r"(.*)\.experts\.(gate_up_proj|down_proj)")
_MTP = re.compile(r"mtp\.(\d+)\.(.*)")


@dataclass(frozen=True)
class Piece:
    """A native tensor as a stretch of one of ours. start: its first element there, in row-major order."""

    name: str
    shape: Shape
    start: int


@dataclass(frozen=True)
class Place:
    """A tensor of ours and the native ones that it consists of, in order and without gaps."""

    name: str
    shape: Shape
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Copy:
    """A native tensor that repeats another one. written: native checkpoints always have it."""

    name: str
    original: str
    written: bool


def layout(native: Native, config: MoEConfig) -> list[Place]:
    """Every tensor of our checkpoint, as the native class spells it."""
    return [
        Place(name, shape, tuple(_pieces(native, config.num_hidden_layers, name, shape)))
        for name, shape in our_tensors(config).items()
    ]


def our_tensors(config: MoEConfig) -> dict[str, Shape]:
    """Names and shapes of what our checkpoint holds: the model's own, built without weights; a tied one once."""
    import torch

    from rlzero.models.decoder import MoEForCausalLM

    with torch.device("meta"):
        model = MoEForCausalLM(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def copies(config: MoEConfig) -> list[Copy]:
    """Tensors of a native checkpoint that say twice what our model has once."""
    embedding = "model.embed_tokens.weight"
    head = embedding if config.tie_word_embeddings else "lm_head.weight"
    tied = [Copy("lm_head.weight", embedding, written=False)] if config.tie_word_embeddings else []
    # A prediction depth shares embedding and head with the model (2412.19437, §2.2); V3's files repeat both.
    layers = [f"model.layers.{config.num_hidden_layers + depth}" for depth in range(config.num_nextn_predict_layers)]
    embeddings = [Copy(f"{layer}.embed_tokens.weight", embedding, written=True) for layer in layers]
    heads = [Copy(f"{layer}.shared_head.head.weight", head, written=True) for layer in layers]
    return tied + embeddings + heads


def _pieces(native: Native, layers: int, name: str, shape: Shape) -> list[Piece]:
    block, gate, up, down = native.experts
    fused = _EXPERTS.fullmatch(name)
    native_name = _native_name(name, layers).replace(".mlp.", f".{block}.")
    if fused is None:
        return [Piece(native_name, shape, 0)]
    parts = (gate, up) if fused[2] == "gate_up_proj" else (down,)
    experts, rows, columns = shape
    part_shape = (rows // len(parts), columns)
    prefix = native_name[: -len(fused[2]) - 1]
    matrices = [f"{prefix}.{expert}.{part}.weight" for expert in range(experts) for part in parts]
    return [Piece(matrix, part_shape, i * math.prod(part_shape)) for i, matrix in enumerate(matrices)]


def _native_name(name: str, layers: int) -> str:
    """V3 counts prediction depths on as layers, and calls the norm before the head a part of the head."""
    depth = _MTP.fullmatch(name)
    if depth is None:
        return name
    rest = depth[2].removeprefix("mtp_block.").replace("post_norm.", "shared_head.norm.")
    return f"model.layers.{layers + int(depth[1])}.{rest}"

"""The memory of one process, by part, in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlzero.grpo.explain.constants import CPU_HEAP, CUDA_BYTES, LOGIT_BUFFERS, VLLM_CPU_BYTES, VLLM_CPU_COPIES
from rlzero.models.token_head import chunk_rows
from rlzero.report.text import as_count

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from rlzero.grpo.config import Recipe
    from rlzero.grpo.explain.architecture import Architecture
    from rlzero.grpo.explain.lengths import Lengths
    from rlzero.grpo.explain.place import Place

ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Part:
    """bytes: of one process. how: from what they follow, in words."""

    name: str
    bytes: float
    how: str


@dataclass(frozen=True)
class Memory:
    """resident: there all the time. training, generation: while a step trains, and while it samples. The two do not
    meet: the larger of them counts."""

    resident: list[Part]
    training: list[Part]
    generation: list[Part]

    @property
    def parts(self) -> list[Part]:
        """Those that make up the peak."""
        return self.resident + max(self.training, self.generation, key=_sum)

    @property
    def peak(self) -> float:
        return _sum(self.parts)


@dataclass(frozen=True)
class Precision:
    """Bytes of a number as it is stored (weights, residual stream), and as matrix products take and give it."""

    stored: int
    computed: int

    @property
    def mixed(self) -> bool:
        return self.stored != self.computed


def precision(recipe: Recipe, architecture: Architecture, place: Place) -> Precision:
    """bf16: as the recipe says, and where it says nothing, as the device can."""
    stored = ITEMSIZES[architecture.dtype if recipe.model.dtype == "auto" else recipe.model.dtype]
    says = recipe.model.bf16
    return Precision(stored, 2 if (place.device == "cuda" if says is None else says) else stored)


def activation_bytes(architecture: Architecture, tokens: float, kind: Precision, recomputes: bool) -> float:
    """What the backward pass of `tokens` tokens needs of the forward pass: counted on the packed one.

    In each layer, in the stored precision, the residual stream: before both norms, normalised, weighed, and what
    attention and the networks add to it. In the computed one the numbers of `_computed_numbers`. At the end the last
    norm. recomputes: gradient checkpointing keeps each layer's input, and the rest of one layer at a time.
    """
    stored = 6 * architecture.hidden * kind.stored
    # Mixed precision makes a copy of what a norm gives to the matrices after it.
    copied = 2 * architecture.hidden * kind.computed if kind.mixed else 0
    layer = stored + copied + _computed_numbers(architecture) * kind.computed
    last = 3 * architecture.hidden * kind.stored
    if not recomputes:
        return tokens * (layer * architecture.layers + last)
    return tokens * (layer + architecture.hidden * kind.stored * architecture.layers + last)


def _computed_numbers(architecture: Architecture) -> int:
    """Of one token in one layer. Queries, keys and values as attention takes them; those that are normed also before
    and after; attention's output in its own order and in the row's. A network's halves, its activation and their
    product; of an expert also its input and its output."""
    attention = (3 if architecture.normed else 1) * (architecture.query_width + architecture.key_width)
    attention += architecture.value_width + 2 * architecture.output_width
    networks = (4 if architecture.gated else 2) * architecture.mlp_width
    if architecture.experts:
        networks += 2 * architecture.mlp_inputs * architecture.hidden
    return attention + networks


def logits_bytes(architecture: Architecture, predictions: float, device: str) -> float:
    """Of the chunk of logits that is there at a time, in float32, whatever the number of predictions."""
    rows = min(predictions, chunk_rows(architecture.vocabulary, device))
    return LOGIT_BUFFERS * rows * architecture.vocabulary * 4


def estimate_memory(
    recipe: Recipe, architecture: Architecture, config: PretrainedConfig, place: Place, lengths: Lengths,
    largest: int, engine: str, libraries: float,
) -> Memory:  # fmt: skip
    """largest: tokens of the largest microbatch. libraries: bytes resident in this process, which holds no model."""
    kind = precision(recipe, architecture, place)
    total = architecture.parameters.total + architecture.parameters.mtp
    itemsize = kind.stored / (place.processes if place.sharded else 1)
    adapters = 0 if architecture.trained == total else architecture.trained
    share, moved = (total + adapters) * itemsize, architecture.trained * itemsize
    each = f"{as_count(total)} parameters of {kind.stored} bytes"
    each += f", cut between {place.processes} processes" if place.sharded else ""
    on_cpu = place.device == "cpu"
    resident = [
        Part("libraries", libraries, "Python, torch and transformers, as in this process")
        if on_cpu
        else Part("CUDA", CUDA_BYTES, "its context and workspaces"),
        Part("weights", share, each),
        Part("gradients", moved, f"of {as_count(architecture.trained)} parameters"),
        Part("optimizer", 2 * moved, "AdamW: two numbers for each of them"),
    ]
    if recipe.reference.beta and not adapters:
        resident.append(Part("reference", share, "a frozen copy of the weights"))
    if place.processes > 1 and not place.sharded:
        resident.append(Part("gradient buckets", moved, "DDP's, which it sends"))
    generation: list[Part] = []
    room = lengths.room
    if recipe.rollout.rollout_device is not None:
        if on_cpu:
            words = "for the engine, whose own memory is that of another process"
            resident.append(Part("shared weights", (total + adapters) * kind.stored, words))
    elif engine == "vllm":
        asleep = place.device == "cuda" and recipe.rollout.vllm_enable_sleep_mode
        (generation if asleep else resident).extend(_vllm(recipe, config, place, room, total, kind))
    else:
        rows = min(recipe.rollout.max_num_seqs, recipe.grpo.prompts_per_rollout * recipe.rollout.num_generations)
        if place.sharded or recipe.grpo.max_async_level:
            resident.append(Part("engine's weights", total * kind.computed, "a whole copy for the built-in engine"))
        # Its buffers grow by half, and are copied when they do.
        cache = 2 * rows * room * architecture.cached * kind.computed
        generation.append(Part("cache", cache, f"the built-in engine's, {rows} sequences of at most {room} tokens"))
    heap = CPU_HEAP if on_cpu else 1.0
    words = f"{largest:,} tokens of the largest microbatch"
    words += ", each layer's input and one layer whole" if recipe.model.gradient_checkpointing else ""
    kept = activation_bytes(architecture, largest, kind, recipe.model.gradient_checkpointing) * heap
    training = [
        Part("activations", kept, words + (f"; × {heap:g} for what the heap holds beside" if on_cpu else "")),
        Part("logits", logits_bytes(architecture, largest, place.device), "a chunk at a time"),
    ]
    if kind.mixed:
        # FSDP has those of one layer, and gathers the next.
        there = min(1.0, 2 / architecture.layers) if place.sharded else 1.0
        words = (
            f"{kind.computed} bytes a parameter for matrix products{', two layers of them' if place.sharded else ''}"
        )
        training.append(Part("computed weights", there * total * kind.computed, words))
    return Memory(resident, training, generation)


def _vllm(recipe: Recipe, config: PretrainedConfig, place: Place, room: int, total: int, kind: Precision) -> list[Part]:
    if place.device != "cpu":
        share = recipe.rollout.vllm_gpu_memory_utilization
        weights, own = total * kind.computed / 2**30, share * place.memory / 2**30
        words = f"vllm_gpu_memory_utilization={share:g} of {place.name}: {weights:.1f} GiB of weights"
        words += ", the rest cache" if weights < own else ", which do not fit: raise it, or take larger GPUs"
        return [Part("engine", share * place.memory, words)]
    from rlzero.rollout.vllm_cpu_options import cpu_options

    dtype = "float32" if kind.computed == 4 else "bfloat16"
    length = recipe.rollout.vllm_max_model_length or room
    cache = cpu_options(config, dtype, length, recipe.rollout.max_num_seqs)["kv_cache_memory_bytes"]
    return [
        Part("vLLM", VLLM_CPU_BYTES, "its modules and buffers"),
        Part("engine's weights", VLLM_CPU_COPIES * total * kind.computed, "its own, and packed for its kernels"),
        Part("engine's cache", cache, f"keys and values of {recipe.rollout.max_num_seqs} sequences"),
    ]


def _sum(parts: list[Part]) -> float:
    return sum(part.bytes for part in parts)

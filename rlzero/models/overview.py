"""The MoE line as one table of plain data: what `rlzero models` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rlzero.models.count import (
    Parameters,
    cache_bytes,
    cached_values,
    cached_values_per_token,
    count_parameters,
    flops_per_token,
)
from rlzero.models.presets import ALIASES, PRESETS, preset
from rlzero.models.published import CONTEXT, Comparison, compare

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig


@dataclass(frozen=True)
class Overview:
    """One preset in numbers.

    router: how experts are chosen, None for a dense model. chosen, routed, shared: its experts.
    context: positions that a token attends to in `flops`, which is the forward pass of one token.
    cache_per_token, cache_per_sequence: bytes in bfloat16; the second is what no longer sequence exceeds, None where
        the cache grows without bound.
    native: class of transformers or vLLM that carries the same model, None where there is none.
    rollout: who generates: "vLLM, native" (that class, after conversion), "vLLM, ours" (only our own class in it) or
        "built-in" (this package's engine alone).
    published: the figures of the literature beside ours.
    """

    name: str
    aliases: list[str]
    attention: str
    router: str | None
    chosen: int
    routed: int
    shared: int
    parameters: Parameters
    context: int
    flops: int
    cache_per_token: int
    cache_per_sequence: int | None
    native: str | None
    rollout: str
    published: list[Comparison]


@dataclass(frozen=True)
class CacheSaving:
    """How much less DeepSeek-V2 caches than another model, as a share of that. claim: the published figure."""

    what: str
    saved: float
    claim: float | None


def overview(name: str, tiny: bool = False) -> Overview:
    """What one preset costs. The tiny variants have no published figures."""
    config = preset(name, tiny)
    native = _native(config)
    parameters = count_parameters(config)
    context = min(CONTEXT, config.max_position_embeddings)
    return Overview(
        name=name,
        aliases=[alias for alias, meant in ALIASES.items() if meant == name],
        attention=_attention(config),
        router=config.topk_method if config.n_routed_experts else None,
        chosen=config.num_experts_per_tok if config.n_routed_experts else 0,
        routed=config.n_routed_experts,
        shared=config.n_shared_experts,
        parameters=parameters,
        context=context,
        flops=flops_per_token(config, parameters, context),
        cache_per_token=cache_bytes(cached_values_per_token(config)),
        cache_per_sequence=_bound(config),
        native=native,
        rollout=_rollout(config, native),
        published=[] if tiny else compare(name, parameters, flops_per_token(config, parameters, CONTEXT)),
    )


def overviews(tiny: bool = False) -> list[Overview]:
    return [overview(name, tiny) for name in PRESETS]


def cache_savings() -> list[CacheSaving]:
    """DeepSeek-V2's cache against others, a token's bytes of each (2405.04434, abstract and §3.2.3).

    The published 93.3% holds for a cache quantised to 6 bits a number against DeepSeek 67B in 16.
    """
    latent, grouped = preset("deepseek-v2"), preset("deepseek-llm-67b")
    heads = preset("deepseek-v2", attention_kind="gqa", head_dim=latent.v_head_dim)
    return [
        CacheSaving("DeepSeek 67B (GQA), both in bfloat16: what the architecture saves", _saved(latent, grouped), None),
        CacheSaving("DeepSeek 67B (GQA) in bfloat16, V2 in its deployed 6 bits", _saved(latent, grouped, 6), 0.933),
        CacheSaving("attention with all of V2's own heads (MHA), both in bfloat16", _saved(latent, heads), None),
    ]


def as_data(tiny: bool = False) -> dict[str, Any]:
    """Everything as plain dicts and lists, for JSON."""
    return {
        "presets": [{**asdict(one), "published": list(map(_plain, one.published))} for one in overviews(tiny)],
        "deepseek_v2_cache": [asdict(saving) for saving in cache_savings()],
    }


def _plain(compared: Comparison) -> dict[str, Any]:
    figure = compared.figure
    return {
        "quantity": figure.quantity,
        "published": figure.value,
        "ours": compared.ours,
        "deviation": compared.deviation,
        "within_tolerance": compared.close,
        "rounds_to_published": compared.rounds,
        "source": figure.source,
        "remark": compared.remark,
    }


def _attention(config: MoEConfig) -> str:
    if config.attention_kind != "gqa":
        return config.attention_kind.upper()
    name = "MHA" if config.num_key_value_heads == config.num_attention_heads else "GQA"
    return name if config.sliding_window is None else f"{name}, window {config.sliding_window}"


def _native(config: MoEConfig) -> str | None:
    from rlzero.models.native import ConversionError, to_native_config

    try:
        return to_native_config(config).architectures[0]
    except ConversionError:
        return None


def _rollout(config: MoEConfig, native: str | None) -> str:
    if config.attention_kind == "lstm":
        return "built-in"
    return "vLLM, native" if native else "vLLM, ours"


def _bound(config: MoEConfig) -> int | None:
    """Bytes of the cache of a sequence of any length, None where there is no bound."""
    if config.attention_kind == "lstm":
        return cache_bytes(cached_values(config, 1))
    return None if config.sliding_window is None else cache_bytes(cached_values(config, config.sliding_window))


def _saved(less: MoEConfig, more: MoEConfig, bits: int = 16) -> float:
    return 1 - cached_values_per_token(less) * bits / (cached_values_per_token(more) * 16)

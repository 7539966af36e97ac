"""A configuration of ours as one of a native class, and back: exact, or refused with the field that differs."""

from __future__ import annotations

import dataclasses
import textwrap
from copy import deepcopy
from dataclasses import MISSING
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from rlzero.models.config import MoEConfig
from rlzero.models.load import ModelError
from rlzero.models.native_table import BY_MODEL_TYPE, NATIVES, Fields, Native

# What one side knows and the other does not travels under these names, so that converting back loses nothing.
KEPT_OURS, KEPT_NATIVE = "rlzero", "native"

_ALWAYS = (
    "attention_kind", "vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings", "rms_norm_eps",
    "tie_word_embeddings", "hidden_act", "gated_mlp", "mlp_layer_types",
)  # fmt: skip
_ATTENTION = (
    "num_attention_heads", "num_key_value_heads", "attention_bias", "use_qk_norm", "sliding_window", "rope_parameters",
)  # fmt: skip
_MLA = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rope_interleave")
_SPARSE = (
    "n_routed_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size", "topk_method",
    "scoring_func", "norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group",
)  # fmt: skip
# Nothing in a rollout depends on these, and native classes have most of them.
_TRAINING = (
    "initializer_range", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "dtype", "attention_dropout",
    "output_router_logits", "num_nextn_predict_layers",
)  # fmt: skip
_GROUPED = ("group_limited_greedy", "noaux_tc")
# Differ in every file and mean nothing.
_BOOKKEEPING = ("model_type", "architectures", "transformers_version", "_name_or_path", KEPT_OURS, KEPT_NATIVE)
# As they are written, before one follows from another.
_DEFAULTS = {
    field.name: field.default if field.default_factory is MISSING else field.default_factory()
    for field in dataclasses.fields(MoEConfig)
}


class ConversionError(ModelError):
    """What cannot be converted without loss: the message names it and what is allowed."""


def from_native_config(config: PreTrainedConfig) -> MoEConfig:
    """Our configuration of a native model. Raises ConversionError for a class or a value that we do not compute.

    Fields that we have no place for are kept under `native`, with the model_type that `to_native_config` then
    prefers.
    """
    native = BY_MODEL_TYPE.get(config.model_type)
    if native is None:
        raise ConversionError(
            f"a native model has one of the model types {', '.join(BY_MODEL_TYPE)}, and this is a "
            f"{config.model_type!r}. Any other causal model trains as it is, without conversion."
        )
    fields = config.to_dict()
    if unmet := "; ".join(_unmet(native, fields)):
        raise ConversionError(f"this {native.model_type} model computes what our decoder does not: {unmet}.")
    ours = _ours(native, fields)
    kept = fields.get(KEPT_OURS) or {}
    _refuse_contradiction(ours, {**ours, **kept}, KEPT_OURS, native)
    ours |= deepcopy(kept)
    # What the way back would not restore by itself.
    back = native.config_class(**_native(native, ours)).to_dict()
    ours[KEPT_NATIVE] = {"model_type": native.model_type, **_difference(fields, back)}
    try:
        return MoEConfig(**ours)
    except (ValueError, StrictDataclassError) as error:
        raise ConversionError(f"this {native.model_type} model has a configuration that we refuse: {error}") from error


def to_native_config(config: MoEConfig) -> PreTrainedConfig:
    """The configuration of a native class that computes the same. Raises ConversionError where there is none.

    Where several would do, it is the one that the model was converted from, and else the first of NATIVES: dense
    models are Llama's without a window and Mistral's with one, gates that sum to one over gated experts in every
    layer are Mixtral's, and what is left (Switch's and Jacobs' gates, shared experts, dense layers) is "deepseek".
    Fields without a place there, above all those of training, are kept under `rlzero`.
    """
    fields = config.to_dict()
    kept = fields.get(KEPT_NATIVE) or {}
    preferred = kept.get("model_type")
    obstacles = {}
    for native in sorted(NATIVES, key=lambda native: native.model_type != preferred):
        obstacles[native.model_type] = found = _obstacles(native, fields)
        if not found:
            break
    else:
        lines = "\n".join(f"  {model_type}: {'; '.join(found)}" for model_type, found in obstacles.items())
        raise ConversionError(
            f"no native class computes what this configuration does. What stands in the way, by model type:\n{lines}\n"
            "Change these fields, or run the model as it is: the engines load our own format too."
        )
    values = _native(native, fields)
    if native.model_type == preferred:
        # A prediction depth that the native files did not have may have been trained since.
        stale = {"model_type", "num_nextn_predict_layers" if fields["num_nextn_predict_layers"] else ""}
        restored = {**values, **deepcopy({name: kept[name] for name in kept if name not in stale})}
        _refuse_contradiction(fields, _ours(native, native.config_class(**restored).to_dict()), KEPT_NATIVE, native)
        values = restored
    back = MoEConfig(**_ours(native, native.config_class(**values).to_dict())).to_dict()
    if lost := _difference(fields, back):
        values[KEPT_OURS] = lost
    return native.config_class(**values, architectures=[native.architecture])


def native_of(config: PreTrainedConfig) -> Native:
    """The row of the table for a native configuration."""
    return BY_MODEL_TYPE[config.model_type]


def inference_form(fields: Fields) -> dict[str, Any]:
    """The fields of a MoEConfig that a rollout depends on, with gates that are the same function written the same.

    Jacobs' dense gate is the best k of k experts, Switch's the best one as it is, GShard's two and Mixtral's k are
    the best, divided by their sum; a choice from all groups is a choice without groups.
    """
    names = list(_ALWAYS)
    if fields["attention_kind"] == "gqa":
        names += [*_ATTENTION, "head_dim"]
    elif fields["attention_kind"] == "mla":
        names += [*_ATTENTION, *_MLA]
    if "dense" in fields["mlp_layer_types"]:
        names.append("intermediate_size")
    form = {name: fields[name] for name in names}
    if "sparse" in fields["mlp_layer_types"]:
        form |= _gate({name: fields[name] for name in _SPARSE})
    return form


def _gate(form: dict[str, Any]) -> dict[str, Any]:
    method = form["topk_method"]
    as_greedy = {
        "dense": {"num_experts_per_tok": form["n_routed_experts"], "norm_topk_prob": False},
        "switch": {"num_experts_per_tok": 1, "norm_topk_prob": False},
        "top2_random": {"num_experts_per_tok": 2, "norm_topk_prob": True},
        "topk_softmax": {"norm_topk_prob": True},
        "greedy": {},
    }
    if method not in _GROUPED or form["n_group"] == form["topk_group"]:
        form |= {"n_group": 1, "topk_group": 1}
        method = "greedy" if method == "group_limited_greedy" else method
    if method in as_greedy:
        form |= {"topk_method": "greedy", **as_greedy[method]}
    return form


def _native(native: Native, ours: Fields) -> dict[str, Any]:
    """The native fields of a configuration that fits; where it does not, of the nearest that does."""
    known = {**{name: ours[name] for name in _TRAINING}, **inference_form(ours)}
    values = {name: known[name] for name in native.shared if name in known}
    values |= {theirs: known[name] for name, theirs in native.renamed.items() if name in known}
    return {**deepcopy(values), **native.writes, **native.to_native(ours)}


def _ours(native: Native, fields: Fields) -> dict[str, Any]:
    """All fields of ours for a native configuration."""
    values = {name: _value(name, fields.get(name)) for name in native.shared}
    values |= {name: _value(name, fields.get(theirs)) for name, theirs in native.renamed.items()}
    ours: dict[str, Any] = {name: value for name, value in _DEFAULTS.items() if name not in _BOOKKEEPING}
    ours |= {"scoring_func": "softmax", **deepcopy(values), **native.means, **native.to_ours(fields)}
    if ours["moe_intermediate_size"] is None:
        ours["moe_intermediate_size"] = ours["intermediate_size"]
    if ours["head_dim"] is None:
        rotated = ours["qk_rope_head_dim"] if ours["attention_kind"] == "mla" else None
        ours["head_dim"] = rotated or ours["hidden_size"] // ours["num_attention_heads"]
    return ours


def _value(name: str, value: Any) -> Any:
    """A native value in our type: some native classes allow None for "no" or "one", and whole numbers for real."""
    default = _DEFAULTS[name]
    if value is None and isinstance(default, bool):
        return False
    if value is None:
        return default
    return float(value) if isinstance(default, float) else value


def _obstacles(native: Native, ours: Fields) -> list[str]:
    """The fields of ours that keep the class from computing the same, each with its value and what is allowed."""
    kind = native.means["attention_kind"]
    if ours["attention_kind"] != kind:
        return [f"attention_kind is {ours['attention_kind']!r} and must be {kind!r}"]
    try:
        theirs = native.config_class(**_native(native, ours)).to_dict()
    except (ValueError, StrictDataclassError) as error:
        return [str(error).strip()]
    wanted, got = inference_form(ours), inference_form(_ours(native, theirs))
    differing = [
        f"{name} is {_brief(value)} and must be {_brief(got[name])}"
        for name, value in wanted.items()
        if name in got and got[name] != value
    ]
    mtp = ours["num_nextn_predict_layers"]
    if mtp and "num_nextn_predict_layers" not in native.shared:
        differing.append(f"num_nextn_predict_layers is {mtp} and must be 0")
    return differing + _unmet(native, theirs)


def _unmet(native: Native, fields: Fields) -> list[str]:
    return [
        f"{name} is {fields[name]!r} and must be {demand.words}"
        for name, demand in native.demands.items()
        if name in fields and not demand.holds(fields[name])
    ]


def _brief(value: Any) -> str:
    return textwrap.shorten(repr(value), 90, placeholder=" …]")


def _difference(fields: Fields, back: Fields) -> dict[str, Any]:
    """What a round trip does not bring back."""
    missing = object()
    return {
        name: value for name, value in fields.items() if name not in _BOOKKEEPING and back.get(name, missing) != value
    }


def _refuse_contradiction(one: Fields, other: Fields, key: str, native: Native) -> None:
    """Kept fields complete a configuration; they must not say something else than it does."""
    first, second = inference_form(one), inference_form(other)
    names = sorted(name for name in first | second if first.get(name) != second.get(name))
    if names:
        raise ConversionError(
            f"what config.json keeps under {key!r} contradicts its own fields as a {native.model_type} model in "
            f"{', '.join(names)}. One of the two was edited after a conversion: remove the key {key!r}."
        )

"""What a MoEConfig may say. Each refusal names the field, its value, and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from transformers.activations import ACT2FN

from rlzero.models.balance import BALANCE
from rlzero.models.capacity import DROP_POLICIES
from rlzero.models.router import ROUTERS

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig

ATTENTION_KINDS = ("gqa", "mla", "lstm")
MLP_KINDS = ("dense", "sparse", "none")

_GROUP_LIMITED = ("group_limited_greedy", "noaux_tc")
_MLA_SIZES = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_POSITIVE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings", "rms_norm_eps", "num_attention_heads",
    "num_key_value_heads", "intermediate_size", "moe_intermediate_size", "moe_layer_freq", "num_experts_per_tok",
    "n_group", "topk_group", "routed_scaling_factor",
)  # fmt: skip
_NOT_NEGATIVE = (
    "initializer_range", "first_k_dense_replace", "n_routed_experts", "n_shared_experts", "bias_update_speed",
    "num_nextn_predict_layers", "mtp_loss_weight",
)  # fmt: skip
_BELOW_ONE = ("attention_dropout", "router_jitter_noise")
_POSITIVE_OR_NONE = ("sliding_window", "q_lora_rank", "capacity_factor_train", "capacity_factor_eval")


def check(config: MoEConfig) -> None:
    """Raise ValueError for a configuration that cannot be built, or that would quietly do something else."""
    _check_names(config)
    _check_numbers(config)
    _check_layers(config)
    _MIXER_CHECKS[config.attention_kind](config)
    if config.n_routed_experts > 0:
        _check_experts(config)
        _check_groups(config)
    _check_training(config)


def _refuse(config: MoEConfig, field: str, allowed: str, remedy: str = "") -> NoReturn:
    raise ValueError(f"{field} {allowed}, got {getattr(config, field)!r}{f': {remedy}' if remedy else ''}.")


def _check_names(config: MoEConfig) -> None:
    one_of: dict[str, Any] = {
        "attention_kind": ATTENTION_KINDS,
        "topk_method": ROUTERS,
        "scoring_func": ("softmax", "sigmoid"),
        "hidden_act": ACT2FN,
    }
    if config.drop_policy is not None:
        one_of["drop_policy"] = DROP_POLICIES
    for field, names in one_of.items():
        if getattr(config, field) not in names:
            _refuse(config, field, f"must be one of {', '.join(names)}")
    if unknown := [name for name in config.balance if name not in BALANCE]:
        _refuse(config, "balance", f"must name losses of {', '.join(BALANCE)}", f"{unknown[0]!r} is none")
    for name, weight in config.balance.items():
        if not isinstance(weight, float | int) or not 0 <= weight < math.inf:
            _refuse(config, "balance", "must give each loss a finite weight of at least 0", f"{name} has {weight!r}")


def _check_numbers(config: MoEConfig) -> None:
    bounds: list[tuple[tuple[str, ...], Callable[[float], bool], str]] = [
        (_POSITIVE, lambda value: 0 < value < math.inf, "must be above 0 and finite"),
        (_NOT_NEGATIVE, lambda value: 0 <= value < math.inf, "must be at least 0 and finite"),
        (_BELOW_ONE, lambda value: 0 <= value < 1, "must be at least 0 and below 1"),
        (_POSITIVE_OR_NONE, lambda value: value is None or 0 < value < math.inf, "must be above 0, or None"),
    ]
    for fields, holds, allowed in bounds:
        for field in fields:
            if not holds(getattr(config, field)):
                _refuse(config, field, allowed)


def _check_layers(config: MoEConfig) -> None:
    kinds = config.mlp_layer_types
    if len(kinds) != config.num_hidden_layers or not set(kinds) <= set(MLP_KINDS):
        _refuse(
            config,
            "mlp_layer_types",
            f"must hold one of {', '.join(MLP_KINDS)} for each of the {config.num_hidden_layers} layers",
            "leave it out to follow first_k_dense_replace and moe_layer_freq",
        )
    if ("sparse" in kinds) != (config.n_routed_experts > 0):
        _refuse(
            config,
            "n_routed_experts",
            f"must be above 0 where a layer is sparse and 0 where none is (mlp_layer_types {kinds})",
            "change one of the two, or first_k_dense_replace and moe_layer_freq",
        )


def _check_gqa(config: MoEConfig) -> None:
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    if heads % shared:
        _refuse(config, "num_key_value_heads", f"must divide num_attention_heads, {heads}")
    if config.head_dim is None:
        _refuse(
            config,
            "head_dim",
            f"must be given where num_attention_heads, {heads}, does not divide hidden_size, {config.hidden_size}",
        )
    if config.head_dim <= 0 or config.head_dim % 2:
        _refuse(config, "head_dim", "must be above 0 and even", "rotary embedding turns pairs")


def _check_mla(config: MoEConfig) -> None:
    for field in _MLA_SIZES:
        if not (getattr(config, field) or 0) > 0:
            _refuse(config, field, "must be above 0 for attention_kind 'mla'")
    if config.head_dim != config.qk_rope_head_dim:
        _refuse(config, "head_dim", f"must be qk_rope_head_dim, {config.qk_rope_head_dim}, for MLA", "leave it out")
    if config.head_dim % 2:
        _refuse(config, "qk_rope_head_dim", "must be even", "rotary embedding turns pairs")
    if config.num_key_value_heads != config.num_attention_heads:
        allowed = f"must be num_attention_heads, {config.num_attention_heads}, for MLA"
        _refuse(config, "num_key_value_heads", allowed, "its heads share one latent already")
    _refuse_gqa_options(config)


def _refuse_gqa_options(config: MoEConfig) -> None:
    if config.sliding_window is not None:
        _refuse(config, "sliding_window", f"must be None for attention_kind {config.attention_kind!r}")
    if config.use_qk_norm:
        _refuse(config, "use_qk_norm", f"must be False for attention_kind {config.attention_kind!r}")


_MIXER_CHECKS: dict[str, Callable[[MoEConfig], None]] = {
    "gqa": _check_gqa,
    "mla": _check_mla,
    "lstm": _refuse_gqa_options,
}


def _check_experts(config: MoEConfig) -> None:
    method, experts = config.topk_method, config.n_routed_experts
    if config.num_experts_per_tok > experts:
        _refuse(config, "num_experts_per_tok", f"must be at most n_routed_experts, {experts}")
    if (fixed := {"dense": experts, "top2_random": 2, "switch": 1}.get(method)) not in (
        None,
        config.num_experts_per_tok,
    ):
        _refuse(config, "num_experts_per_tok", f"must be {fixed} for topk_method {method!r}")
    wanted = "sigmoid" if method == "noaux_tc" else "softmax"
    if config.scoring_func != wanted:
        _refuse(config, "scoring_func", f"must be {wanted!r} for topk_method {method!r}", "leave it out")
    if method == "switch" and config.norm_topk_prob:
        _refuse(
            config, "norm_topk_prob", "must be False for topk_method 'switch'", "a gate divided by itself is always 1"
        )


def _check_groups(config: MoEConfig) -> None:
    experts, groups, reached = config.n_routed_experts, config.n_group, config.topk_group
    if experts % groups:
        _refuse(config, "n_group", f"must divide n_routed_experts, {experts}")
    if reached > groups:
        _refuse(config, "topk_group", f"must be at most n_group, {groups}")
    size = experts // groups
    if config.topk_method in _GROUP_LIMITED and config.num_experts_per_tok > reached * size:
        allowed = f"must be at most {reached * size}, the experts in topk_group {reached} groups of {size}"
        _refuse(config, "num_experts_per_tok", allowed)
    if config.topk_method == "noaux_tc" and reached < groups and size < 2:
        _refuse(
            config, "n_group", f"must leave 2 experts in a group, of {experts}", "a group's score sums its two best"
        )


def _check_training(config: MoEConfig) -> None:
    if config.bias_update_speed > 0 and (config.n_routed_experts == 0 or config.topk_method != "noaux_tc"):
        _refuse(
            config, "bias_update_speed", "must be 0 where topk_method is not 'noaux_tc'", "no other router has a bias"
        )
    if config.balance:
        _check_balance(config)
    factors = (config.capacity_factor_train, config.capacity_factor_eval)
    if config.drop_policy is None:
        if factors != (None, None):
            allowed = f"must be one of {', '.join(DROP_POLICIES)} where a capacity factor is set"
            _refuse(config, "drop_policy", allowed, f"capacity_factor_train and _eval are {factors}")
    elif factors == (None, None):
        _refuse(config, "capacity_factor_train", f"must be set for drop_policy {config.drop_policy!r} to drop anything")
    elif config.n_routed_experts == 0 or config.topk_method == "dense":
        _refuse(config, "drop_policy", "must be None where no expert is chosen")
    elif config.drop_policy == "device" and config.n_group == 1:
        _refuse(config, "n_group", "must be above 1 for drop_policy 'device'", "its groups are the devices")


def _check_balance(config: MoEConfig) -> None:
    method = config.topk_method
    if config.n_routed_experts == 0:
        _refuse(config, "balance", "must be empty without routed experts")
    for name in config.balance:
        if method == "dense" and name not in ("importance", "z"):
            _refuse(config, "balance", "may hold importance and z for topk_method 'dense'", f"{name} counts choices")
        if name == "load" and (method != "noisy_topk" or config.num_experts_per_tok == config.n_routed_experts):
            needs = "may hold load for topk_method 'noisy_topk' with num_experts_per_tok below n_routed_experts"
            _refuse(config, "balance", needs, "it is the chance that noise chooses an expert")
        if name in ("device", "communication") and config.n_group == 1:
            _refuse(config, "n_group", f"must be above 1 for the balance loss {name!r}", "its groups are the devices")
        if name == "communication" and method not in _GROUP_LIMITED:
            _refuse(config, "balance", f"may hold communication for topk_method {' and '.join(_GROUP_LIMITED)}")

"""A configuration that cannot work is refused when it is made, with the field, its value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError

from rlzero.models.config import MoEConfig

MOE = {"n_routed_experts": 8}
MLA = {"attention_kind": "mla", "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
LIMITED = MOE | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}
NOAUX = MOE | {"topk_method": "noaux_tc"}

# Options, then words of the message: field, value, what is allowed.
REFUSED = {
    "unknown router": (MOE | {"topk_method": "best"}, ["topk_method", "'best'", "dense, noisy_topk, top2_random"]),
    "unknown mixer": ({"attention_kind": "mamba"}, ["attention_kind", "'mamba'", "gqa, mla, lstm"]),
    "unknown scores": (MOE | {"scoring_func": "relu"}, ["scoring_func", "'relu'", "softmax, sigmoid"]),
    "unknown activation": ({"hidden_act": "step"}, ["hidden_act", "'step'", "silu"]),
    "unknown layer": ({"mlp_layer_types": ["dense", "moe"] * 2}, ["mlp_layer_types", "'moe'", "dense, sparse, none"]),
    "unknown drop": (
        MOE | {"drop_policy": "random", "capacity_factor_train": 1.0},
        ["drop_policy", "'random'", "capacity, device"],
    ),
    "unknown loss": (
        MOE | {"balance": {"even": 0.1}}, ["balance", "{'even': 0.1}", "importance, load, gshard", "'even'"],
    ),
    "negative loss weight": (MOE | {"balance": {"z": -0.1}}, ["balance", "-0.1", "at least 0"]),
    "loss weight that is no number": (MOE | {"balance": {"z": "1e-3"}}, ["balance", "z has '1e-3'", "at least 0"]),
    "endless loss weight": (MOE | {"balance": {"z": float("inf")}}, ["balance", "inf", "finite"]),
    "too few layer kinds": ({"mlp_layer_types": ["dense"]}, ["mlp_layer_types", "['dense']", "4 layers"]),
    "sparse without experts": ({"mlp_layer_types": ["sparse"] * 4}, ["n_routed_experts", "got 0", "above 0"]),
    "experts without a layer": (MOE | {"first_k_dense_replace": 4}, ["n_routed_experts", "got 8", "first_k_dense"]),
    "top-k above the experts": (MOE | {"num_experts_per_tok": 9}, ["num_experts_per_tok", "got 9", "at most", "8"]),
    "top-k above the reachable": (LIMITED | {"num_experts_per_tok": 5}, ["num_experts_per_tok", "got 5", "at most 4"]),
    "top-k of dense": (MOE | {"topk_method": "dense"}, ["num_experts_per_tok", "got 2", "must be 8"]),
    "top-k of Switch": (MOE | {"topk_method": "switch"}, ["num_experts_per_tok", "got 2", "must be 1"]),
    "top-k of GShard": (
        MOE | {"topk_method": "top2_random", "num_experts_per_tok": 3},
        ["num_experts_per_tok", "got 3", "must be 2"],
    ),
    "groups that do not divide": (MOE | {"n_group": 3}, ["n_group", "got 3", "divide n_routed_experts, 8"]),
    "more groups reached": (LIMITED | {"topk_group": 5}, ["topk_group", "got 5", "at most n_group, 4"]),
    "groups of one": (
        NOAUX | {"n_group": 8, "topk_group": 4}, ["n_group", "got 8", "2 experts in a group", "two best"],
    ),
    "sigmoid elsewhere": (MOE | {"scoring_func": "sigmoid"}, ["scoring_func", "'sigmoid'", "'softmax'", "'greedy'"]),
    "softmax with bias": (NOAUX | {"scoring_func": "softmax"}, ["scoring_func", "'softmax'", "'sigmoid'", "noaux_tc"]),
    "Switch renormalised": (
        MOE | {"topk_method": "switch", "num_experts_per_tok": 1, "norm_topk_prob": True},
        ["norm_topk_prob", "got True", "False"],
    ),
    "jitter of one": (MOE | {"router_jitter_noise": 1.0}, ["router_jitter_noise", "got 1.0", "below 1"]),
    "scaling of zero": (MOE | {"routed_scaling_factor": 0.0}, ["routed_scaling_factor", "got 0.0", "above 0"]),
    "bias speed without bias": (MOE | {"bias_update_speed": 0.1}, ["bias_update_speed", "got 0.1", "noaux_tc"]),
    "negative bias speed": (NOAUX | {"bias_update_speed": -0.1}, ["bias_update_speed", "got -0.1", "at least 0"]),
    "losses without experts": ({"balance": {"z": 0.1}}, ["balance", "{'z': 0.1}", "without routed experts"]),
    "load without noise": (MOE | {"balance": {"load": 0.1}}, ["balance", "noisy_topk"]),
    "load of all experts": (
        MOE | {"topk_method": "noisy_topk", "num_experts_per_tok": 8, "balance": {"load": 0.1}},
        ["balance", "below n_routed_experts"],
    ),
    "counts of dense": (
        MOE | {"topk_method": "dense", "num_experts_per_tok": 8, "balance": {"expert": 0.1}},
        ["balance", "importance and z", "expert"],
    ),
    "devices without groups": (MOE | {"balance": {"device": 0.1}}, ["n_group", "got 1", "above 1", "device"]),
    "communication without limit": (
        MOE | {"n_group": 4, "balance": {"communication": 0.1}},
        ["balance", "group_limited_greedy and noaux_tc"],
    ),
    "capacity without policy": (MOE | {"capacity_factor_train": 1.0}, ["drop_policy", "got None", "capacity, device"]),
    "policy without capacity": (
        MOE | {"drop_policy": "capacity"}, ["capacity_factor_train", "got None", "must be set"],
    ),
    "no capacity at all": (
        MOE | {"drop_policy": "capacity", "capacity_factor_train": 0.0},
        ["capacity_factor_train", "got 0.0", "above 0"],
    ),
    "dropping without a choice": (
        MOE | {"topk_method": "dense", "num_experts_per_tok": 8, "drop_policy": "device", "capacity_factor_eval": 1.0},
        ["drop_policy", "'device'", "must be None"],
    ),
    "dropping by no device": (
        MOE | {"drop_policy": "device", "capacity_factor_train": 1.0},
        ["n_group", "got 1", "above 1"],
    ),
    "heads that do not divide": (
        {"hidden_size": 48, "num_attention_heads": 9},
        ["head_dim", "got None", "9", "divide hidden_size, 48"],
    ),
    "odd heads": ({"head_dim": 7}, ["head_dim", "got 7", "even"]),
    "key heads that do not divide": ({"num_key_value_heads": 3}, ["num_key_value_heads", "got 3", "divide", "4"]),
    "no heads": ({"num_attention_heads": 0}, ["num_attention_heads", "got 0", "above 0"]),
    "MLA without its rank": (MLA | {"kv_lora_rank": None}, ["kv_lora_rank", "got None", "above 0", "'mla'"]),
    "MLA without its value size": (MLA | {"v_head_dim": None}, ["v_head_dim", "got None", "above 0", "'mla'"]),
    "MLA with an odd rotation": (MLA | {"qk_rope_head_dim": 7}, ["qk_rope_head_dim", "got 7", "even"]),
    "MLA with another head size": (MLA | {"head_dim": 16}, ["head_dim", "got 16", "qk_rope_head_dim, 8"]),
    "MLA with a query rank of zero": (MLA | {"q_lora_rank": 0}, ["q_lora_rank", "got 0", "above 0, or None"]),
    "MLA with shared heads": (MLA | {"num_key_value_heads": 2}, ["num_key_value_heads", "got 2", "4", "latent"]),
    "MLA with a window": (MLA | {"sliding_window": 8}, ["sliding_window", "got 8", "None", "'mla'"]),
    "LSTM with a window": ({"attention_kind": "lstm", "sliding_window": 8}, ["sliding_window", "got 8", "'lstm'"]),
    "LSTM with normed queries": ({"attention_kind": "lstm", "use_qk_norm": True}, ["use_qk_norm", "got True", "False"]),
    "window of zero": ({"sliding_window": 0}, ["sliding_window", "got 0", "above 0, or None"]),
    "no layers": ({"num_hidden_layers": 0}, ["num_hidden_layers", "got 0", "above 0"]),
    "frequency of zero": (MOE | {"moe_layer_freq": 0}, ["moe_layer_freq", "got 0", "above 0"]),
    "size that is no number": ({"rms_norm_eps": float("nan")}, ["rms_norm_eps", "got nan", "above 0"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_value_is_refused_with_field_value_and_what_is_allowed(name: str) -> None:
    options, words = REFUSED[name]
    with pytest.raises(ValueError) as refusal:
        MoEConfig(**options)
    message = str(refusal.value)
    assert message.startswith(words[0])
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"topk_method": 3}, ["topk_method", "expected str", "got int", "3"]),
        ({"n_routed_experts": 8.0}, ["n_routed_experts", "expected int", "got float", "8.0"]),
        ({"num_experts_per_tok": True}, ["num_experts_per_tok", "expected int", "got bool"]),
    ],
)
def test_a_value_of_another_type_is_refused_with_field_and_value(options: dict, words: list[str]) -> None:
    with pytest.raises(StrictDataclassError) as refusal:
        MoEConfig(**(MOE | options))
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_a_value_made_wrong_later_is_refused_when_saved(tmp_path: Path) -> None:
    config = MoEConfig(**MOE)
    config.num_experts_per_tok = 9
    with pytest.raises(StrictDataclassError, match="num_experts_per_tok must be at most n_routed_experts, 8, got 9"):
        config.save_pretrained(tmp_path)


ACCEPTED = {
    "dense": {},
    "experts": MOE | {"balance": {"switch": 1}, "routed_scaling_factor": 16},
    "given head size": {"hidden_size": 48, "num_attention_heads": 9, "head_dim": 64, "num_key_value_heads": 3},
    "class default of another size": {"hidden_size": 512, "head_dim": 64, "intermediate_size": 512},
    "mla": MLA | {"q_lora_rank": 24},
    "lstm": {"attention_kind": "lstm", "mlp_layer_types": ["none", "dense", "none", "dense"]},
    "limited": LIMITED | {"balance": {"expert": 0.003, "device": 0.05, "communication": 0.02}},
    "noaux": NOAUX | {"bias_update_speed": 0.001, "balance": {"sequence": 0.0001}, "num_nextn_predict_layers": 1},
    "dropping": MOE | {"drop_policy": "device", "n_group": 4, "capacity_factor_train": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_saved_configuration_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    config = MoEConfig(**ACCEPTED[name])
    config.save_pretrained(tmp_path)
    read = MoEConfig.from_pretrained(tmp_path)
    assert read.to_dict() == config.to_dict()


def test_layer_kinds_follow_dense_prefix_and_frequency() -> None:
    kinds = MoEConfig(**MOE, num_hidden_layers=6, first_k_dense_replace=1, moe_layer_freq=2).mlp_layer_types
    assert kinds == ["dense", "dense", "sparse", "dense", "sparse", "dense"]
    assert MoEConfig(num_hidden_layers=2).mlp_layer_types == ["dense", "dense"]
    assert MoEConfig(**MOE, mlp_layer_types=["none", "sparse"] * 2).mlp_layer_types == ["none", "sparse"] * 2


def test_experts_may_be_given_by_the_names_that_others_use() -> None:
    for name in ("num_experts", "num_local_experts"):
        config = MoEConfig(**{name: 8})
        assert config.n_routed_experts == getattr(config, name) == 8
        assert config.mlp_layer_types == ["sparse"] * 4


def test_sizes_left_out_follow_from_others() -> None:
    config = MoEConfig(hidden_size=96, num_attention_heads=6, intermediate_size=100)
    assert (config.head_dim, config.num_key_value_heads, config.moe_intermediate_size) == (16, 6, 100)
    assert MoEConfig(**MLA, hidden_size=96).head_dim == 8
    assert MoEConfig(**NOAUX).scoring_func == "sigmoid"
    assert MoEConfig(**MOE).scoring_func == "softmax"

"""Tiny decoders of every mixer, with weights and routing that let a fault show."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlzero.models.config import MoEConfig
from rlzero.models.decoder import MoEForCausalLM

VOCAB = 61
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    # Not the usual values: a default in the place of one of these shows.
    "rms_norm_eps": 1e-4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 20, "first_k_dense_replace": 1}
MLA = {
    "attention_kind": "mla",
    "num_key_value_heads": 4,
    "head_dim": None,
    "q_lora_rank": 16,
    "kv_lora_rank": 18,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 6,
    "v_head_dim": 12,
}
V3_ROUTER = {
    "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": 2.5,
    "n_group": 4, "topk_group": 2, "n_shared_experts": 1,
}  # fmt: skip
MIXERS = {
    "gqa": {},
    "window": {"sliding_window": 5},
    "mla": {**MLA, **V3_ROUTER},
    "lstm": {"attention_kind": "lstm", "mlp_layer_types": ["sparse", "sparse", "none"]},
}


def make_config(kind: str = "gqa", **changes) -> MoEConfig:
    return MoEConfig(**{**SHAPE, **EXPERTS, **MIXERS[kind], **changes})


def make_decoder(kind: str = "gqa", **changes) -> MoEForCausalLM:
    """A random decoder in evaluation mode; the same every time."""
    return scramble(MoEForCausalLM(make_config(kind, **changes)).eval())


def scramble(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every weight anew: norms around 1, the routers' bias too, so that none is a neutral element."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in name:
                weight.normal_(1, 0.1, generator=generator)
            elif "inv_freq" not in name:
                weight.normal_(0, 0.16, generator=generator)
    return model


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    """int64[rows, length], no special tokens."""
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))

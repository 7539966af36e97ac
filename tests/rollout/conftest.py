"""Tiny random models of several architectures, and prompts of several lengths."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen3MoeConfig,
)

from data.problem import Problem

EOS = 2
VOCAB = 91
_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
    # Large, so that the logits differ enough for a fault to show.
    "initializer_range": 0.12,
    "tie_word_embeddings": False,
}
# vLLM's CPU attention knows no smaller heads.
_HEADS = {"head_dim": 32}
_MLA = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}
CONFIGS = {
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **_SHAPE, **_HEADS, moe_intermediate_size=64, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True
    ),
    "llama": lambda: LlamaConfig(**_SHAPE, **_HEADS),
    "llama_tied": lambda: LlamaConfig(**{**_SHAPE, **_HEADS, "tie_word_embeddings": True}),
    "mixtral": lambda: MixtralConfig(**_SHAPE, **_HEADS, num_local_experts=8, num_experts_per_tok=2),
    "mistral_window": lambda: MistralConfig(**_SHAPE, **_HEADS, sliding_window=8),
    "deepseek_v3": lambda: DeepseekV3Config(**{**_SHAPE, **_MLA}),
}


def make_model(kind):
    """A random model in float32; the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()
        for name, buffer in model.named_buffers():
            if "e_score_correction_bias" in name:
                buffer.copy_(torch.randn_like(buffer) * 0.1)
    return model


def save_model(model, folder):
    """A checkpoint that vLLM loads."""
    model.save_pretrained(folder)
    if model.config.model_type == "deepseek_v3":
        # transformers' config does not carry these two, and vLLM cannot load the router's bias without them.
        path = folder / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "topk_method": "noaux_tc", "scoring_func": "sigmoid"}))
    return str(folder)


def change_weights(model, seed):
    """As an optimizer step would, only larger."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="session")
def prompts():
    """Seven prompts of 1 to 14 tokens, two of the same length."""
    rng = np.random.default_rng(0)
    return [rng.integers(3, VOCAB, size=length).tolist() for length in (5, 1, 14, 9, 5, 2, 11)]


@pytest.fixture(scope="session")
def problems(prompts):
    return [Problem(f"problem {i}", "42") for i in range(len(prompts))]


@pytest.fixture(scope="session")
def tokenizer():
    return SimpleNamespace(eos_token_id=EOS, all_special_ids=[0, 1, EOS])


@pytest.fixture(scope="session")
def tiny():
    """The module's helpers, for tests that make models of their own."""
    return SimpleNamespace(
        kinds=tuple(CONFIGS), make_model=make_model, save_model=save_model, change_weights=change_weights, eos=EOS
    )

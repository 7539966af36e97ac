"""vLLM's settings on a CPU."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import PretrainedConfig

BLOCK_TOKENS = 128  # in a block of vLLM's key-value cache on CPU
MOST_BYTES = 1 << 30
# Widths of a head that vLLM's CPU attention knows (CPUAttentionBackend.get_supported_head_sizes). FlashAttention
# knows them as well, up to 256.
HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def cpu_options(config: PretrainedConfig, dtype: str, max_model_len: int, max_num_seqs: int) -> dict[str, Any]:
    """Options for `vllm.LLM`: no compilation, a key-value cache no larger than the sequences need, and what MLA needs.

    dtype: `float32`, `bfloat16`, `float16`, or `auto` (the checkpoint's). Sets VLLM_MLA_DISABLE, which vLLM reads
    when the engine starts. A sliding window may need less than it is given here: vLLM frees what has left it.
    """
    config = config.get_text_config()
    options: dict[str, Any] = {
        "enforce_eager": True,
        # On CPU this version dies when a seeded request's prompt is computed in chunks (it cannot rewind the
        # request's generator).
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(4096, max_model_len, max_num_seqs),
    }
    rank, rope = getattr(config, "kv_lora_rank", None), getattr(config, "qk_rope_head_dim", 0)
    heads = config.num_attention_heads
    if config.model_type == "rlzero_moe":
        kv_heads, head_size = attention_shape(config)
        width = 2 * kv_heads * head_size
    elif rank:
        # This version's CPU rotary embedding is wrong for MLA's three-dimensional queries.
        options["compilation_config"] = {"custom_ops": ["none"]}
        # The decode kernel knows few sizes; others run as plain attention.
        known = (rank, rope) == (512, 64) or (torch.cpu._is_amx_tile_supported() and rank + rope == 320)
        os.environ["VLLM_MLA_DISABLE"] = "0" if known else "1"
        width = rank + rope if known else heads * 2 * max(config.qk_nope_head_dim + rope, config.v_head_dim)
    else:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        width = 2 * head_dim * (getattr(config, "num_key_value_heads", None) or heads)
    itemsize = 4 if dtype == "float32" or (dtype == "auto" and config.dtype == torch.float32) else 2
    block_bytes = config.num_hidden_layers * width * itemsize * BLOCK_TOKENS
    blocks_a_sequence = -(-max_model_len // BLOCK_TOKENS)
    wanted = block_bytes * blocks_a_sequence * max_num_seqs
    # vLLM waits with sequences that do not fit, but one must; two blocks are its own.
    least = block_bytes * (blocks_a_sequence + 2)
    options["kv_cache_memory_bytes"] = max(min(wanted, MOST_BYTES), least)
    return options


def attention_shape(config: PretrainedConfig) -> tuple[int, int]:
    """Key-value heads and their width in the cache, for our own decoder (`rlzero_moe`).

    Narrower heads are padded with zeros to the next width that vLLM knows, which changes no result. MLA keeps the
    keys and values that its latent stands for, one set a head: as the trainer computes them, for every size, and on
    every processor. (vLLM's own latent cache on a CPU knows the sizes 512 + 64 alone, or others with AMX; the
    native class after conversion has it.) ValueError for an LSTM and for heads wider than vLLM knows.
    """
    if config.attention_kind == "lstm":
        raise ValueError(
            "vLLM runs attention over a cache of keys and values, and this model has attention_kind='lstm' "
            "(Shazeer et al., 2017). Use --rollout builtin; --rollout auto chooses it."
        )
    if config.attention_kind == "mla":
        heads = config.num_attention_heads
        width = max(config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim)
    else:
        heads, width = config.num_key_value_heads, config.head_dim
    wide_enough = [size for size in HEAD_SIZES if size >= width]
    if not wide_enough:
        raise ValueError(
            f"vLLM's attention has heads of at most {HEAD_SIZES[-1]} numbers, and this model's have {width} "
            f"(attention_kind={config.attention_kind!r}). Use --rollout builtin; --rollout auto chooses it."
        )
    return heads, wide_enough[0]

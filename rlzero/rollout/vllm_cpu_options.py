"""vLLM's settings on a CPU."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import PretrainedConfig

BLOCK_TOKENS = 128  # in a block of vLLM's key-value cache on CPU
MOST_BYTES = 1 << 30


def cpu_options(config: PretrainedConfig, dtype: str, max_model_len: int, max_num_seqs: int) -> dict[str, Any]:
    """Options for `vllm.LLM`: a key-value cache no larger than the sequences need, and what MLA needs.

    dtype: `float32`, `bfloat16`, `float16`, or `auto` (the checkpoint's). Sets VLLM_MLA_DISABLE, which vLLM reads
    when the engine starts.
    """
    config = config.get_text_config()
    options: dict[str, Any] = {
        # On CPU this version dies when a seeded request's prompt is computed in chunks (it cannot rewind the
        # request's generator).
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(4096, max_model_len, max_num_seqs),
    }
    rank, rope = getattr(config, "kv_lora_rank", None), getattr(config, "qk_rope_head_dim", 0)
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    if rank:
        # This version's CPU rotary embedding is wrong for MLA's three-dimensional queries.
        options["compilation_config"] = {"custom_ops": ["none"]}
        # The decode kernel knows few sizes; others run as plain attention.
        known = (rank, rope) == (512, 64) or (torch.cpu._is_amx_tile_supported() and rank + rope == 320)
        os.environ["VLLM_MLA_DISABLE"] = "0" if known else "1"
        width = rank + rope if known else heads * 2 * max(config.qk_nope_head_dim + rope, config.v_head_dim)
    else:
        width = 2 * head_dim * (getattr(config, "num_key_value_heads", None) or heads)
    itemsize = 4 if dtype == "float32" or (dtype == "auto" and config.dtype == torch.float32) else 2
    block_bytes = config.num_hidden_layers * width * itemsize * BLOCK_TOKENS
    blocks_a_sequence = -(-max_model_len // BLOCK_TOKENS)
    wanted = block_bytes * blocks_a_sequence * max_num_seqs
    # vLLM waits with sequences that do not fit, but one must; two blocks are its own.
    least = block_bytes * (blocks_a_sequence + 2)
    options["kv_cache_memory_bytes"] = max(min(wanted, MOST_BYTES), least)
    return options

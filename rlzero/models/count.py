"""What a configuration costs: parameters, cache and arithmetic, without a weight in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rlzero.models.config import MoEConfig


@dataclass(frozen=True)
class Parameters:
    """How many weights a model has. Buffers, as the bias of V3's router, are not counted.

    total: all, with input embedding and output head, without the multi-token prediction modules.
    active: of these, what one token uses: everything but the experts not chosen for it.
    embedding: the input table; 0 where it is the output head as well. head: the output head.
    mtp: the multi-token prediction modules, which help in training and do not generate.
    """

    total: int
    active: int
    embedding: int
    head: int
    mtp: int


def count_parameters(config: MoEConfig) -> Parameters:
    """Counted on the model itself, which is built on the meta device."""
    import torch

    from rlzero.models.decoder import MoEForCausalLM

    with torch.device("meta"):
        model = MoEForCausalLM(config)
    return parameters_of(model, config.n_routed_experts, config.num_experts_per_tok)


def parameters_of(model: PreTrainedModel, experts: int, chosen: int) -> Parameters:
    """Of a model on any device, ours or a class of transformers, whose tokens run `chosen` of the `experts` of a layer
    (0 of 0 in a dense model)."""
    total = idle = mtp = 0
    for name, weight in model.named_parameters():
        if name.startswith("mtp."):
            mtp += weight.numel()
            continue
        total += weight.numel()
        if ".experts." in name:
            idle += weight.numel() // experts * (experts - chosen)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return Parameters(
        total=total,
        active=total - idle,
        embedding=0 if table is head else table.numel(),
        head=head.numel(),
        mtp=mtp,
    )


def cached_values(config: MoEConfig, tokens: int) -> int:
    """Numbers that the cache of one sequence of so many tokens holds, all layers together.

    Attention keeps a key and a value per head of them (2310.06825, §2, for the window's bound), MLA one latent and
    one rotated key (2405.04434, table 1), an LSTM the two vectors of its state, however long the sequence.
    """
    if config.attention_kind == "lstm":
        return 2 * config.hidden_size * config.num_hidden_layers if tokens else 0
    kept = tokens if config.sliding_window is None else min(tokens, config.sliding_window)
    return kept * cached_values_per_token(config)


def cached_values_per_token(config: MoEConfig) -> int:
    """Numbers that each further token adds to the cache of its sequence, all layers together; 0 for an LSTM."""
    if config.attention_kind == "lstm":
        return 0
    if config.attention_kind == "mla":
        return config.num_hidden_layers * (_size(config.kv_lora_rank) + _size(config.qk_rope_head_dim))
    return config.num_hidden_layers * 2 * _size(config.num_key_value_heads) * _size(config.head_dim)


def cache_bytes(values: int, bits: int = 16) -> int:
    """Bytes of so many cached numbers of that width (16: bfloat16), the last byte rounded up."""
    return -(-values * bits // 8)


def flops_per_token(config: MoEConfig, parameters: Parameters, context: int) -> int:
    """Floating-point operations of the forward pass of one token that attends to `context` positions.

    Two for each active weight but the input table, of which a row is read (a norm's weight counts as one of a
    matrix), and two for each product of a query with a key and of an attention weight with a value. MLA counts as
    written, with keys and values expanded (2405.04434, eqs. 9 to 19); absorbing the expansion changes the sum.
    """
    products = 0
    if config.attention_kind != "lstm":
        span = context if config.sliding_window is None else min(context, config.sliding_window)
        products = config.num_hidden_layers * config.num_attention_heads * span * sum(_attention_dims(config))
    return 2 * (parameters.active - parameters.embedding + products)


def _attention_dims(config: MoEConfig) -> tuple[int, int]:
    """Per head, the sizes of a query and of a value."""
    if config.attention_kind == "mla":
        return _size(config.qk_nope_head_dim) + _size(config.qk_rope_head_dim), _size(config.v_head_dim)
    return _size(config.head_dim), _size(config.head_dim)


def _size(value: int | None) -> int:
    """A field that is None only where the mixer has no use for it."""
    assert value is not None
    return value

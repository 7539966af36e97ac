"""Attention over packed sequences, through transformers' attention interface: no padding outside of attention itself.

`enable_packing` gives a model an attention implementation of its own name, registered with transformers. Called with
`packed_layout=` the model reads one row of many sequences as the layout says; called without, it is what it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, use_gqa_in_sdpa
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlzero.models.logprobs import accepted_options
from rlzero.models.packed_layout import PackedLayout, Span, make_layout

_PREFIX = "rlzero_packed_"
# What some models ask of attention beyond queries, keys and values; SDPA knows none of it.
_FOREIGN = ("softcap", "s_aux", "position_bias")


def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """float[1, N, H, d] from query [1, H, N, d], key and value [1, G, N, d]; H is a multiple of G."""
    groups = query.shape[1] // key.shape[1]
    queries, keys, values = (
        states[0].transpose(0, 1).contiguous().index_select(0, index)
        for states, index in ((query, layout.queries), (key, layout.keys), (value, layout.keys))
    )
    by_query, by_key = ([b.rows * n for b, n in sizes] for sizes in _sizes(layout))
    outputs = []
    for bucket, q, k, v in zip(
        layout.buckets, queries.split(by_query), keys.split(by_key), values.split(by_key), strict=True
    ):
        q, k, v = (s.view(bucket.rows, -1, *s.shape[1:]).transpose(1, 2) for s in (q, k, v))
        mask = layout.mask(bucket, sliding_window)
        shared = groups > 1 and (q.device.type == "cpu" or use_gqa_in_sdpa(mask, k, v))
        if groups > 1 and not shared:
            k, v = repeat_kv(k, groups), repeat_kv(v, groups)
        output = nn.functional.scaled_dot_product_attention(
            q, k, v, mask, dropout_p=dropout, is_causal=mask is None, scale=scaling, enable_gqa=shared
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, layout.back)[None]


def enable_packing(model: PreTrainedModel) -> bool:
    """Let the model take `packed_layout=` where all of its layers can; where not, it is left as it was.

    Decided by what the model says of itself, and by a tiny forward pass: every layer must ask the attention interface
    once, hand the layout on, and want nothing but causal attention, over the window that its configuration names.
    """
    base = model.config._attn_implementation
    if is_packing(model):
        return True
    if (
        not model._supports_attention_backend
        # There are other mixers than attention: Mamba, linear attention. Ours says so by its kind.
        or model._is_stateful
        or getattr(model.config, "attention_kind", None) == "lstm"
        # "eager" is another function in every model, with what is peculiar to it.
        or base not in ALL_ATTENTION_FUNCTIONS
        or _asked(model) != _expected(model)
    ):
        return False
    name = _PREFIX + base
    ALL_ATTENTION_FUNCTIONS.register(name, _implementation(base))
    if base in ALL_MASK_ATTENTION_FUNCTIONS:
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    model.config._attn_implementation = name
    return True


def is_packing(model: PreTrainedModel) -> bool:
    return str(model.config._attn_implementation).startswith(_PREFIX)


def packed_inputs(input_ids_N: Tensor, position_ids_N: Tensor, layout: PackedLayout) -> dict[str, Any]:
    """What a model with packing is called with."""
    return {
        "input_ids": input_ids_N[None],
        "position_ids": position_ids_N[None],
        # transformers hands a mask of four dimensions on as it is, and so does not build one of N × N.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids_N.device),
        "packed_layout": layout,
    }


def _sizes(layout: PackedLayout) -> tuple[list, list]:
    return [(b, b.queries) for b in layout.buckets], [(b, b.keys) for b in layout.buckets]


def _implementation(base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Attention that does what `base` does where there is no layout."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        packed_layout: PackedLayout | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if packed_layout is None:
            return ALL_ATTENTION_FUNCTIONS[base](module, query, key, value, attention_mask, **kwargs)
        known = {name: kwargs[name] for name in ("dropout", "scaling", "sliding_window") if name in kwargs}
        return attend_packed(module, query, key, value, packed_layout, **known), None

    return attention


def _expected(model: PreTrainedModel) -> list[tuple[bool, int | None]] | None:
    """What `_asked` must find: for each layer, causal attention and its window; None for other kinds of layers."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    every = "full_attention" if window is None else "sliding_attention"
    kinds = getattr(config, "layer_types", None) or [every] * config.num_hidden_layers
    if not {*kinds} <= {"full_attention", "sliding_attention"}:
        return None
    return [(True, window if kind == "sliding_attention" else None) for kind in kinds]


@torch.no_grad()
def _asked(model: PreTrainedModel) -> list[tuple[bool, int | None]]:
    """For each call of attention in a forward pass: whether it knew the layout and was plain and causal; its window."""
    calls = []

    def note(module, query, key, value, attention_mask, packed_layout=None, sliding_window=None, **kwargs):
        plain = all(kwargs.get(name) is None for name in _FOREIGN) and kwargs.get("is_causal") is not False
        # A model that adds something of its own to the mask makes another one of it.
        plain = plain and (attention_mask is None or attention_mask.shape == (1, 1, 1, 1))
        calls.append((packed_layout is not None and plain, sliding_window))
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None

    name = _PREFIX + "probe"
    ALL_ATTENTION_FUNCTIONS.register(name, note)
    base, was_training = model.config._attn_implementation, model.training
    model.config._attn_implementation = name
    two = torch.zeros(2, dtype=torch.int64, device=model.device)
    inputs = packed_inputs(two, two, make_layout([Span(0, 1), Span(1, 2)], model.device))
    try:
        model.eval()(**inputs, use_cache=False, **accepted_options(model))
    finally:
        model.config._attn_implementation = base
        model.train(was_training)
    return calls

"""The sizes of a model, read from its configuration: it is built without weights, on the meta device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rlzero.models.adapter import add_adapters
from rlzero.models.count import Parameters, cached_values_per_token, parameters_of
from rlzero.models.load import context_length, model_skeleton

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from rlzero.grpo.config import ModelConfig


@dataclass(frozen=True)
class Architecture:
    """What cost depends on. Widths in numbers, of one token and one layer.

    key_width, value_width: of all key-value heads together; query_width, output_width: of all query heads, what
    attention compares and what it returns; normed: whether queries and keys are. mlp_width: of the feed-forward
    networks that a token runs, its experts and the shared ones; mlp_inputs: how many of them there are. cached:
    numbers a token, all layers. context: tokens that the model was made for, None where it does not say. dtype: of the
    checkpoint. trained: parameters that the optimizer moves, of adapters alone where there are some. experts, chosen:
    routed experts of a layer, and of a token; 0 in a dense model.
    """

    parameters: Parameters
    layers: int
    hidden: int
    heads: int
    query_width: int
    key_width: int
    value_width: int
    output_width: int
    normed: bool
    mlp_width: int
    mlp_inputs: int
    gated: bool
    vocabulary: int
    cached: int
    context: int | None
    dtype: str
    trained: int
    experts: int
    chosen: int

    def flops(self, context: float) -> float:
        """Of the forward pass of one token that attends to `context` positions, without the output head: two for each
        active weight, and two for each product in attention (`rlzero.models.count.flops_per_token`)."""
        body = self.parameters.active - self.parameters.embedding - self.parameters.head
        return 2 * (body + self.layers * context * (self.query_width + self.output_width))

    @property
    def head_flops(self) -> int:
        """Of one token's logits."""
        return 2 * self.parameters.head


def read_architecture(settings: ModelConfig) -> tuple[Architecture, PretrainedConfig]:
    """And the configuration itself. Raises ModelError (`rlzero.models.load`) where there is none of a causal language
    model, and ValueError for adapters that it has no layers for."""
    skeleton = model_skeleton(settings.model_name_or_path, settings.trust_remote_code, settings.model_revision)
    found = measure(skeleton)
    if settings.lora_r is not None:
        add_adapters(skeleton, settings.lora_r, settings.lora_alpha, settings.lora_target_modules)
        found = replace(found, trained=sum(p.numel() for p in skeleton.parameters() if p.requires_grad))
    return found, skeleton.config


def measure(model: PreTrainedModel) -> Architecture:
    """model: with or without weights."""
    config = model.config.get_text_config()
    experts, chosen = _experts(config)
    heads = config.num_attention_heads
    query, key, value, output = _attention(config)
    mlp_width, mlp_inputs = _mlp(config, experts, chosen)
    parameters = parameters_of(model, experts, chosen)
    return Architecture(
        parameters=parameters,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        query_width=query,
        key_width=key,
        value_width=value,
        output_width=output,
        normed=any(name.endswith("q_norm") for name, _ in model.named_modules()),
        mlp_width=mlp_width,
        mlp_inputs=mlp_inputs,
        gated=getattr(config, "gated_mlp", True),
        vocabulary=config.vocab_size,
        cached=_cached(config, key + value),
        context=context_length(config),
        dtype=str(config.dtype or "float32").removeprefix("torch."),
        trained=parameters.total + parameters.mtp,
        experts=experts,
        chosen=chosen,
    )


def _attention(config: Any) -> tuple[int, int, int, int]:
    """Widths of queries, keys, values and what attention returns, all heads together, as the trainer computes them."""
    heads = config.num_attention_heads
    if getattr(config, "kv_lora_rank", None):
        key = heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
        return key, key, heads * config.v_head_dim, heads * config.v_head_dim
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = (getattr(config, "num_key_value_heads", None) or heads) * width
    return heads * width, shared, shared, heads * width


def _experts(config: Any) -> tuple[int, int]:
    """Routed experts of a layer, and how many of them a token runs; 0, 0 for a dense model."""
    for name in ("n_routed_experts", "num_experts", "num_local_experts"):
        count = getattr(config, name, None)
        if count:
            return count, config.num_experts_per_tok
    return 0, 0


def _mlp(config: Any, experts: int, chosen: int) -> tuple[int, int]:
    """Width of a layer's networks that one token runs, and their number; dense layers among sparse ones count as
    sparse."""
    if not experts:
        return config.intermediate_size, 1
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    used = chosen + (getattr(config, "n_shared_experts", None) or 0)
    return used * width, used


def _cached(config: Any, keys_and_values: int) -> int:
    if config.model_type == "rlzero_moe":
        return cached_values_per_token(config)
    if getattr(config, "kv_lora_rank", None):
        return config.num_hidden_layers * (config.kv_lora_rank + config.qk_rope_head_dim)
    return config.num_hidden_layers * keys_and_values

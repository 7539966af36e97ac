"""The decoder of the MoE line: one transformers model whose mixers, routers and experts the configuration names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRMSNorm as RMSNorm
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding as RotaryEmbedding
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from rlzero.models.balance import balance_loss
from rlzero.models.config import MoEConfig
from rlzero.models.experts import GatedExperts, PlainExperts
from rlzero.models.layer import MIXERS, DecoderLayer, recorded_routing
from rlzero.models.layer_cache import make_cache
from rlzero.models.mtp import MTPModule, mtp_loss
from rlzero.models.router import Router, Routing


class MoEPreTrainedModel(PreTrainedModel):
    config: MoEConfig
    config_class = MoEConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": DecoderLayer}
    # It moves by less than bfloat16 resolves.
    _keep_in_fp32_modules_strict = ["e_score_correction_bias"]

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for its decorator in the text of the model's own file; it stands in experts.py.
        return True

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        # On a CPU our loop over experts is as fast as one grouped kernel (benchmarks/moe_layer.py), and takes any
        # width: in bfloat16 the kernel wants multiples of eight.
        hardware = "grouped_mm" if torch.cuda.is_available() else "eager"
        return super().get_correct_experts_implementation(requested_experts or hardware)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Router | GatedExperts | PlainExperts):
            module.initialize(self.config.initializer_range)


class MoEModel(MoEPreTrainedModel):
    """Embedding, layers, final norm."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        assert config.mlp_layer_types is not None
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer_idx, kind) for layer_idx, kind in enumerate(config.mlp_layer_types)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        # An LSTM knows the order by itself.
        self.rotary_emb = None if config.attention_kind == "lstm" else RotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        """float[B, T, D] as `last_hidden_state`; arguments as in MoEForCausalLM.

        `routing` of the layers is that of this pass in training mode and where output_router_logits asks for it.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                "the decoder reads either input_ids or inputs_embeds, got "
                f"{'neither' if input_ids is None else 'both'}. Give one of them."
            )
        hidden_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        # Training looks at whole sequences.
        if use_cache and past_key_values is None and not self.training:
            past_key_values = make_cache(self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(past, past + hidden_BTD.shape[1], device=hidden_BTD.device)[None]
        mixing = self.mixing(hidden_BTD, attention_mask, position_ids, past_key_values)
        asked = self.config.output_router_logits if output_router_logits is None else output_router_logits
        with recorded_routing(self.layers, self.training or asked):
            for layer in self.layers:
                hidden_BTD = layer(hidden_BTD, past_key_values=past_key_values, **mixing, **kwargs)
        return MoeModelOutputWithPast(last_hidden_state=self.norm(hidden_BTD), past_key_values=past_key_values)

    def mixing(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        past_key_values: Cache | None = None,
    ) -> dict[str, Any]:
        """What all layers' mixers are given: positions, their rotations, and the mask in the mixer's own form."""
        make_mask = MIXERS[self.config.attention_kind].make_mask
        return {
            "position_ids": position_ids,
            "position_embeddings": None if self.rotary_emb is None else self.rotary_emb(inputs_embeds, position_ids),
            "attention_mask": make_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids),
        }


class MoEForCausalLM(MoEPreTrainedModel, GenerationMixin):
    """The decoder with its output head and, where the configuration has them, modules for multi-token prediction."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.model = MoEModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.mtp = nn.ModuleList(MTPModule(config, k + 1) for k in range(config.num_nextn_predict_layers))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_router_logits: bool | None = None,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """Logits float[B, T, V], of the last `logits_to_keep` positions where that is not 0.

        input_ids: int64[B, T] or inputs_embeds: float[B, T, D]. attention_mask: [B, past + T], 0 for padding on
        either side. position_ids: int64[1 or B, T], by default counted on from the past; where they restart at 0
        and there is neither mask nor past, the row holds several sequences that do not see each other.

        labels: int64[B, T], equal to input_ids, or -100 where nothing is to be predicted; `loss` is the mean
        negative log-likelihood and, in training mode, also the weighted balance losses (config.balance) and λ times
        that of multi-token prediction. num_items_in_batch: divides instead of the number of targets, where a batch
        is one of several that are accumulated; the balance losses are then weighted by the share of the targets.

        output_router_logits: return `router_logits`, float32[B * T, E] for each layer of experts, and `aux_loss`, the
        weighted balance losses. Without labels they are left to the caller.
        """
        asked = self.config.output_router_logits if output_router_logits is None else output_router_logits
        learns = labels is not None and self.training
        if learns and len(self.mtp) > 0 and inputs_embeds is None:
            # Multi-token prediction reads the embeddings too.
            input_ids, inputs_embeds = None, self.model.embed_tokens(input_ids)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_router_logits=asked,
            **kwargs,
        )
        hidden_BTD = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_BTD[:, kept])
        if position_ids is None:
            position_ids = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)[None]
        positions_BT = position_ids.expand(hidden_BTD.shape[:2])

        loss = aux_loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
            own_targets = (labels[:, 1:] != -100).sum().clamp(min=1)
            targets = own_targets if kwargs.get("num_items_in_batch") is None else kwargs["num_items_in_batch"]
        with recorded_routing([module.mtp_block for module in self.mtp], learns):
            if learns and len(self.mtp) > 0:
                ahead = mtp_loss(
                    self.mtp, self.lm_head, hidden_BTD, inputs_embeds, labels, positions_BT, attention_mask,
                    self.model.mixing, targets,
                )  # fmt: skip
                loss = loss + self.config.mtp_loss_weight * ahead
        if asked or learns:
            aux_loss = self._balance_loss(positions_BT, attention_mask)
        if learns and aux_loss is not None:
            loss = loss + aux_loss * (own_targets / targets)
        routings = [layer.routing for layer in self.model.layers if layer.routing is not None]
        return MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            router_logits=tuple(routing.logits for routing in routings) if asked else None,
        )

    def _balance_loss(self, positions_BT: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        """The weighted balance losses of the newest pass, summed over layers; None where there are none."""
        losses = []
        # Depth k of multi-token prediction ran without the last k tokens.
        for ahead, layers in enumerate([self.model.layers, *([module.mtp_block] for module in self.mtp)]):
            routings = [layer.routing for layer in layers if layer.routing is not None]
            if routings and self.config.balance:
                _check_gradient(routings, self.training and self.is_gradient_checkpointing)
                tokens = positions_BT.shape[1] - ahead
                # The mask of a pass with a past is longer than the pass.
                mask = None if attention_mask is None else attention_mask[:, -positions_BT.shape[1] :][:, :tokens]
                sequences_T = _sequences(positions_BT[:, :tokens], mask)
                mask_T = None if mask is None else mask.flatten().bool()
                losses.append(balance_loss(routings, self.config, mask_T, sequences_T))
        return torch.stack(losses).sum() if losses else None

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict, *args: Any) -> None:
        """`generate` starts from our own cache: transformers' has no layer for a rolling buffer or an LSTM."""
        if generation_config.use_cache and model_kwargs.get("past_key_values") is None:
            if generation_config.cache_implementation not in (None, "dynamic"):
                raise ValueError(
                    f"this model generates with its own cache, got cache_implementation="
                    f"{generation_config.cache_implementation!r}. Leave it out."
                )
            model_kwargs["past_key_values"] = make_cache(self.config)
        else:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)


def _sequences(positions_BT: Tensor, mask: Tensor | None) -> Tensor:
    """int64[B * T]: the number of each token's sequence. A row with a mask is one sequence."""
    starts_BT = torch.ones_like(positions_BT, dtype=torch.bool)
    starts_BT[:, 1:] = False if mask is not None else positions_BT.diff(dim=-1) != 1
    return starts_BT.flatten().cumsum(dim=0) - 1


def _check_gradient(routings: Iterable[Routing], checkpointing: bool) -> None:
    if checkpointing and torch.is_grad_enabled() and not all(routing.scores.requires_grad for routing in routings):
        raise ValueError(
            "a balance loss needs the routers' gradient, and reentrant gradient checkpointing hides it. Enable it with "
            "gradient_checkpointing_kwargs={'use_reentrant': False}."
        )


AutoConfig.register(MoEConfig.model_type, MoEConfig, exist_ok=True)
AutoModel.register(MoEConfig, MoEModel, exist_ok=True)
AutoModelForCausalLM.register(MoEConfig, MoEForCausalLM, exist_ok=True)

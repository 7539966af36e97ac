"""Our decoder in vLLM: the trainer's own modules, with vLLM's paged attention in the place of torch's.

Registered by vllm_plugin.py and by vllm_engine.py; with these two and vllm_transfer.py the only files that import
vllm. Nothing of a layer is written a second time: transformers' attention interface is where the two meet.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.initialization import no_init_weights
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.model_executor.models.utils import maybe_prefix

from rlzero.models.decoder import MoEModel
from rlzero.models.sharded import named_tensors
from rlzero.rollout.vllm_cpu_options import attention_shape

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from rlzero.models.config import MoEConfig

_INTERFACE = "rlzero_vllm"
# vLLM's own state in a layer, and heads that are for training alone: no weights of the checkpoint go there.
_VLLM_STATE, _TRAINING_ONLY = ".self_attn.attn.", "mtp."


class MoEForCausalLM(nn.Module):
    """What vLLM loads for a checkpoint of `rlzero_moe`; parameters are called as there.

    Every router, kind of expert and attention of the trainer's decoder, in evaluation mode: no noise, nothing
    dropped. MLA computes and caches the keys and values that its latent stands for (`attention_shape` says why).
    Each process holds the whole model, so no tensor or pipeline parallelism: ValueError.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        parallel = vllm_config.parallel_config
        if parallel.tensor_parallel_size * parallel.pipeline_parallel_size > 1:
            raise ValueError(
                "our decoder is whole in each vLLM process, got tensor_parallel_size="
                f"{parallel.tensor_parallel_size} and pipeline_parallel_size={parallel.pipeline_parallel_size}. Use 1 "
                "and 1, or convert the checkpoint to its native class (rlzero convert) for vLLM's own."
            )
        # A copy: vLLM reads its own by transformers' names, among them the attention's.
        config: MoEConfig = copy.deepcopy(vllm_config.model_config.hf_config)
        kv_heads, head_size = attention_shape(config)
        config._attn_implementation = _INTERFACE
        with no_init_weights():
            self.model = MoEModel(config)
            tied = config.tie_word_embeddings
            self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for number, layer in enumerate(self.model.layers):
            layer.self_attn.attn = Attention(
                config.num_attention_heads,
                head_size,
                layer.self_attn.scaling,
                num_kv_heads=kv_heads,
                cache_config=vllm_config.cache_config,
                per_layer_sliding_window=config.sliding_window,
                prefix=maybe_prefix(prefix, f"model.layers.{number}.self_attn.attn"),
            )

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """float[T, D] of int[T]."""
        return self.model.embed_tokens(input_ids)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """float[T, D]: hidden states after the last norm, of the tokens of all running requests in one row.

        input_ids: int[T]. positions: int64[T], each within its own request. inputs_embeds: float[T, D] or None.
        """
        output = self.model(
            input_ids=None if inputs_embeds is not None else input_ids[None],
            inputs_embeds=None if inputs_embeds is None else inputs_embeds[None],
            position_ids=positions[None],
            use_cache=False,
        )
        return output.last_hidden_state[0]

    def compute_logits(self, hidden_TD: Tensor) -> Tensor:
        """float[T, V]."""
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return functional.linear(hidden_TD, head.weight)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Copy a checkpoint's tensors in; returns their names. ValueError unless they are the model's, all of them."""
        saved = {name for name in self.state_dict() if _VLLM_STATE not in name}
        tensors = {name: tensor for name, tensor in named_tensors(self) if name in saved}
        loaded: set[str] = set()
        for name, weight in weights:
            if name.startswith(_TRAINING_ONLY):
                continue
            if name not in tensors or tensors[name].shape != weight.shape:
                expected = f"is {list(tensors[name].shape)} there" if name in tensors else "does not exist there"
                raise ValueError(
                    f"a checkpoint's tensors must be those of the model that its config.json describes: {name} "
                    f"{list(weight.shape)} {expected}. Save weights and configuration together with save_pretrained."
                )
            # While weights are updated, vLLM has put its own loaders in place.
            getattr(tensors[name], "weight_loader", default_weight_loader)(tensors[name], weight)
            loaded.add(name)
        missing = sorted(tensors.keys() - loaded)
        if missing:
            raise ValueError(
                f"a checkpoint must hold all {len(tensors)} tensors of the model that its config.json describes, and "
                f"{len(missing)} are missing: {', '.join(missing[:3])}. Save the whole model with save_pretrained."
            )
        return loaded


def _attend(
    module: nn.Module, query_BHTd: Tensor, key_BGTd: Tensor, value_BGTv: Tensor, mask: None, **kwargs: Any
) -> tuple[Tensor, None]:
    """float[1, T, H, v], as transformers' attention interface has it, from the paged cache that vLLM keeps.

    B is 1. Which tokens see each other is vLLM's to know; the scale and window went to `Attention` when it was made.
    """
    padded = [_padded(states[0], module.attn.head_size) for states in (query_BHTd, key_BGTd, value_BGTv)]
    output_TF = module.attn(*padded)
    heads, width = query_BHTd.shape[1], value_BGTv.shape[-1]
    return output_TF.unflatten(-1, (heads, -1))[None, ..., :width], None


def _padded(states_HTd: Tensor, width: int) -> Tensor:
    """float[T, H * width]: zeros behind each head's numbers change neither dot products nor what is summed."""
    return functional.pad(states_HTd.transpose(0, 1), (0, width - states_HTd.shape[-1])).flatten(1)


AttentionInterface.register(_INTERFACE, _attend)

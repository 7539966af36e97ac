"""One layer of the decoder: a mixer, then a feed-forward network or experts, each behind a norm and a residual."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaRMSNorm as RMSNorm

from rlzero.models.attention import GroupedQueryAttention
from rlzero.models.experts import make_mlp
from rlzero.models.lstm import LSTMMixer
from rlzero.models.mla import LatentAttention
from rlzero.models.moe import MoELayer
from rlzero.models.router import Routing

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig

# A mixer is the only part in which a token sees others. `make_mask` says what it may see, from the same arguments
# for all kinds; `forward` takes what `MoEModel.mixing` returns.
MIXERS: dict[str, Any] = {"gqa": GroupedQueryAttention, "mla": LatentAttention, "lstm": LSTMMixer}


class DecoderLayer(GradientCheckpointingLayer):
    """h ← h + mixer(norm(h)), then h ← h + mlp(norm(h)) unless the layer's mlp_layer_types entry is "none"."""

    def __init__(self, config: MoEConfig, layer_idx: int, mlp_kind: str) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = MIXERS[config.attention_kind](config, layer_idx)
        self.mlp: nn.Module | None = None
        if mlp_kind != "none":
            self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.mlp = MoELayer(config) if mlp_kind == "sparse" else make_mlp(config, config.intermediate_size)

    def forward(self, hidden_BTD: Tensor, **mixing: Any) -> Tensor:
        """float[B, T, D]."""
        hidden_BTD = hidden_BTD + self.self_attn(self.input_layernorm(hidden_BTD), **mixing)
        if self.mlp is None:
            return hidden_BTD
        return hidden_BTD + self.mlp(self.post_attention_layernorm(hidden_BTD))

    @property
    def routing(self) -> Routing | None:
        """What the experts' router decided in the newest pass within `recorded_routing`."""
        return self.mlp.last if isinstance(self.mlp, MoELayer) else None


@contextmanager
def recorded_routing(layers: Iterable[DecoderLayer], recording: bool) -> Iterator[None]:
    """Forget what these layers routed before and, where `recording`, note what they route in here."""
    experts = [layer.mlp for layer in layers if isinstance(layer.mlp, MoELayer)]
    for mlp in experts:
        mlp.recording, mlp.last = recording, None
    try:
        yield
    finally:
        for mlp in experts:
            mlp.recording = False

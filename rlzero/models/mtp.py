"""Multi-token prediction: training the decoder to predict more than the next token (DeepSeek-V3, 2412.19437, §2.2).

Module k sees the state of depth k - 1 at a token and the embedding of the k-th token after it, and predicts the one
after that. Used in training alone; embedding and output head are the decoder's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm as RMSNorm

from rlzero.models.layer import DecoderLayer

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig

_IGNORED = -100


class MTPModule(nn.Module):
    """h^k_i = TRM_k(M_k [norm(h^{k-1}_i); norm(Emb(t_{i+k}))]): eq. 21 and 22.

    Names are those of transformers' MTP layers, and M_k has the columns of the embedding first, as the released
    checkpoints have it. `post_norm` stands before the shared head.
    """

    def __init__(self, config: MoEConfig, depth: int) -> None:
        """depth: k, from 1."""
        super().__init__()
        assert config.mlp_layer_types is not None
        self.enorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.mtp_block = DecoderLayer(config, config.num_hidden_layers + depth - 1, config.mlp_layer_types[-1])
        self.post_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_BTD: Tensor, embeds_BTD: Tensor, **mixing: Any) -> Tensor:
        """float[B, T, D]. hidden: of depth k - 1 at each token; embeds: of the k-th token after it."""
        joined = torch.cat([self.enorm(embeds_BTD), self.hnorm(hidden_BTD)], dim=-1)
        return self.mtp_block(self.eh_proj(joined), **mixing)


def mtp_loss(
    modules: Sequence[MTPModule],
    head: Callable[[Tensor], Tensor],
    hidden_BTD: Tensor,
    embeds_BTD: Tensor,
    labels_BT: Tensor,
    positions_BT: Tensor,
    attention_mask: Tensor | None,
    mixing: Callable[[Tensor, Tensor | None, Tensor], dict[str, Any]],
    targets: Tensor | float,
) -> Tensor:
    """1/D Σ_k L^k with L^k = -1/T Σ_i log P^k(t_{i+k+1}): eq. 24 and 25, without λ. A scalar in float32.

    hidden: [B, T, D], h^0, the decoder's output after its final norm. labels: int64[B, T], not shifted, -100 where
    there is nothing to predict. positions: int64[B, T]; attention_mask: [B, T] or None. mixing: what the layers
    share, of (embeddings, mask, positions). targets: T of eq. 24, how many tokens the decoder itself is to
    predict; the same for each depth, though a depth more has one token less of each sequence.

    A sequence of a packed row, which ends where positions do not go on by one, is not continued in the next.
    """
    total = hidden_BTD.new_zeros((), dtype=torch.float32)
    for depth, module in enumerate(modules, start=1):
        if labels_BT.shape[1] <= depth + 1:
            break  # no token so far ahead
        embeds = embeds_BTD[:, depth:]
        mask = None if attention_mask is None else attention_mask[:, :-depth]
        hidden_BTD = module(hidden_BTD[:, :-1], embeds, **mixing(embeds, mask, positions_BT[:, :-depth]))
        logits = head(module.post_norm(hidden_BTD[:, :-1])).float()
        same = positions_BT[:, depth + 1 :] - positions_BT[:, : -depth - 1] == depth + 1
        if attention_mask is not None:
            same = same & attention_mask[:, : -depth - 1].bool() & attention_mask[:, depth + 1 :].bool()
        aims = labels_BT[:, depth + 1 :].masked_fill(~same, _IGNORED)
        total = total + F.cross_entropy(logits.flatten(0, 1), aims.flatten(), ignore_index=_IGNORED, reduction="sum")
    return total / (len(modules) * targets)

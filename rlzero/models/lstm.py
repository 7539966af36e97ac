"""An LSTM in the place of attention: the mixer of the sparsely-gated mixture of experts (1701.06538, appendix C.1)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence
from transformers.cache_utils import Cache

from rlzero.models.layer_cache import StateLayer

if TYPE_CHECKING:
    from rlzero.models.config import MoEConfig


def tokens_of_step(
    config: MoEConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    past_key_values: Cache | None,
    position_ids: Tensor,
) -> Tensor | None:
    """bool[B, T]: which of the new columns hold tokens, None for all. attention_mask: [B, past + T], 0 for padding."""
    if attention_mask is None:
        return None
    if attention_mask.ndim != 2:
        raise ValueError(
            f"an LSTM needs an attention_mask of shape [batch, tokens], 0 for padding, got {attention_mask.ndim} "
            "dimensions: it has no attention pattern. Give sequences by position_ids that restart at 0."
        )
    real_BT = attention_mask[:, -inputs_embeds.shape[1] :].bool()
    return None if real_BT.all() else real_BT


class LSTMMixer(nn.Module):
    """One LSTM layer over each sequence. Padding is skipped; a token at position 0 starts from an empty state.

    So a row gives the same outputs however it is padded, and a packed row those of its sequences one by one.
    """

    make_mask = staticmethod(tokens_of_step)

    def __init__(self, config: MoEConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.lstm = nn.LSTM(config.hidden_size, config.hidden_size, batch_first=True)

    def forward(
        self,
        hidden_BTD: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """float[B, T, D], 0 at padding. attention_mask: bool[B, T], as `tokens_of_step` gives it."""
        starts_BT = (position_ids == 0).expand(hidden_BTD.shape[:2])
        state = self._past(hidden_BTD, past_key_values)
        if attention_mask is None and not starts_BT[:, 1:].any():
            h0_c0 = tuple(part.masked_fill(starts_BT[:, :1], 0)[None] for part in state)
            output_BTD, (h, c) = self.lstm(hidden_BTD, h0_c0)
            state = (h[0], c[0])
        else:
            real_BT = torch.ones_like(starts_BT) if attention_mask is None else attention_mask
            output_BTD, state = self._ragged(hidden_BTD, real_BT, starts_BT, state)
        if past_key_values is not None:
            past_key_values.update(*state, self.layer_idx, tokens=hidden_BTD.shape[1])
        return output_BTD

    def _past(self, hidden_BTD: Tensor, cache: Cache | None) -> tuple[Tensor, Tensor]:
        """h and c after the cached tokens, float[B, D] each."""
        layer = None if cache is None else cache.layers[self.layer_idx]
        if layer is None or (isinstance(layer, StateLayer) and not layer.is_initialized):
            zeros_BD = hidden_BTD.new_zeros(len(hidden_BTD), hidden_BTD.shape[-1])
            return zeros_BD, zeros_BD
        if not isinstance(layer, StateLayer):
            raise ValueError(
                f"an LSTM caches its state, and a {type(layer).__name__} caches keys and values. Leave past_key_values "
                "out at the first call, or start from rlzero.models.layer_cache.make_cache(model.config)."
            )
        return layer.keys.to(hidden_BTD.dtype), layer.values.to(hidden_BTD.dtype)

    def _ragged(
        self, hidden_BTD: Tensor, real_BT: Tensor, starts_BT: Tensor, past: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs and the rows' last states, where rows have padding or hold several sequences.

        The S sequences are run side by side. The first real token of a row goes on from the row's past, unless it
        is a start; a row of padding alone keeps its past.
        """
        if not real_BT.any():
            return torch.zeros_like(hidden_BTD), past
        opens_BT = real_BT & (starts_BT | (real_BT.cumsum(dim=-1) == 1))
        row_S = opens_BT.nonzero()[:, 0]
        from_empty_S1 = starts_BT[opens_BT][:, None]
        bounds = [*opens_BT[real_BT].nonzero()[:, 0].tolist(), int(real_BT.sum())]
        pieces = hidden_BTD[real_BT].split([stop - start for start, stop in pairwise(bounds)])
        h0_c0 = tuple(part[row_S].masked_fill(from_empty_S1, 0)[None] for part in past)
        output, (h, c) = self.lstm(pack_sequence(pieces, enforce_sorted=False), h0_c0)
        output_ND = torch.cat(unpack_sequence(output))
        output_BTD = output_ND.new_zeros(hidden_BTD.shape).masked_scatter(real_BT[..., None], output_ND)
        last_S = torch.cat([row_S[1:] != row_S[:-1], row_S.new_ones(1, dtype=torch.bool)])
        # Under autocast the state is of lower precision than the past was.
        last = [
            part.to(new.dtype).index_put((row_S[last_S],), new[0, last_S])
            for part, new in zip(past, (h, c), strict=True)
        ]
        return output_BTD, (last[0], last[1])

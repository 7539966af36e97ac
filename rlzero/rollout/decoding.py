"""The model's side of the built-in engine: prompts read once, then a token a row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlzero.models.logprobs import accepted_options
from rlzero.rollout.cache import RolloutCache
from rlzero.rollout.routing_log import RoutingLog

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Decoding:
    """The model's state for a batch of rows: cache, padding mask, positions, and the logits of the next
    token.

    Prompts are padded on the left, so that all rows end, and go on, in the same column.
    """

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[np.ndarray], max_model_len: int, log: RoutingLog | None = None
    ) -> None:
        """prompts: int64[P] for each row; equal neighbours are computed once."""
        self._model, self._log = model, log
        self._last_position = max_model_len - 1
        self._cache = RolloutCache(model)
        self._options = accepted_options(model, logits_to_keep=1)
        distinct = [prompts[0]]
        owner_of_row = []
        for prompt in prompts:
            if prompt is not distinct[-1]:
                distinct.append(prompt)
            owner_of_row.append(len(distinct) - 1)
        longest = max(len(prompt) for prompt in distinct)
        ids_PT = np.zeros((len(distinct), longest), dtype=np.int64)
        mask_PT = np.zeros((len(distinct), longest), dtype=np.int64)
        for row, prompt in enumerate(distinct):
            ids_PT[row, longest - len(prompt) :] = prompt
            mask_PT[row, longest - len(prompt) :] = 1
        device = model.device
        mask = torch.from_numpy(mask_PT).to(device)
        # Without padding no mask is needed, and attention takes its faster path.
        self._mask = None if mask_PT.all() else mask
        logits_PV = self._forward(torch.from_numpy(ids_PT).to(device), (mask.cumsum(-1) - 1).clamp_(min=0))
        owners = torch.tensor(owner_of_row, device=device)
        self.logits = logits_PV[owners]
        self._positions = mask.sum(-1)[owners]
        self._mask = None if self._mask is None else self._mask[owners]
        self._cache.expand_rows(owners)
        if log is not None:
            log.prompts([len(prompt) for prompt in distinct], owner_of_row)

    def read(self, tokens: torch.Tensor) -> None:
        """Append one token a row (int64[R]) and compute the logits after it."""
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=-1)
        # A row that is done stays until it is worth the move; it must not walk past the model's last
        # position.
        positions = self._positions.clamp(max=self._last_position)
        self.logits = self._forward(tokens[:, None], positions[:, None])
        self._positions = self._positions + 1

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Drop all rows but these (int64, ascending)."""
        self._cache.keep_rows(rows)
        self._positions = self._positions[rows]
        self._mask = None if self._mask is None else self._mask[rows]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """float[R, V]: logits after the last column of ids, int64[R, new columns]."""
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            **self._options,
        )
        if self._log is not None:
            self._log.note(len(ids))
        return output.logits[:, -1]

"""The cache for sampling: written in place, rows copied from the prompt pass, dropped when done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import Cache

from rlzero.models.config import MoEConfig
from rlzero.models.layer_cache import RoomyLayer, make_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RolloutCache(Cache):
    """For our own decoder the layers that its mixers ask for, for any other one RoomyLayer for each attention layer,
    made as the layers come."""

    def __init__(self, model: PreTrainedModel) -> None:
        if isinstance(model.config, MoEConfig):
            super().__init__(layers=make_layers(model.config))
        else:
            super().__init__(layer_class_to_replicate=RoomyLayer)

    def expand_rows(self, rows: torch.Tensor) -> None:
        """Make the batch a copy of these rows (int64[new rows], repeats allowed)."""
        for layer in self.layers:
            layer.expand_rows(rows)

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Keep these rows (int64, ascending)."""
        for layer in self.layers:
            layer.keep_rows(rows)

"""A backend of vLLM's weight-transfer API for an engine in the trainer's process: tensors go over by reference.

Imported by vllm_engine.py, after it has set what vLLM reads when it is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.platforms import current_platform

BACKEND = "rlzero_in_process"


@dataclass
class _InitInfo(WeightTransferInitInfo):
    """Nothing to agree on: both sides live in one process."""


@dataclass
class _UpdateInfo(WeightTransferUpdateInfo):
    """weights: (checkpoint name, tensor) pairs."""

    weights: Iterable[tuple[str, torch.Tensor]]


class InProcessWeightTransfer(WeightTransferEngine[_InitInfo, _UpdateInfo]):
    """Loads tensors as vLLM loads a checkpoint: layer by layer, packed as its kernels want them."""

    init_info_cls = _InitInfo
    update_info_cls = _UpdateInfo

    def init_transfer_engine(self, init_info: _InitInfo) -> None:
        """No connection to open."""

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class also synchronizes an accelerator, which a CPU does not have.
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: _UpdateInfo) -> None:
        self.model.load_weights(update_info.weights)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if not current_platform.is_cpu():
            return
        # CPU kernels compute from packed copies, and a reload leaves two kinds of them as they were; nothing
        # says so, and log-probabilities are wrong by tenths of a nat: fused experts, packed at the first load
        # only, and an output layer tied to the embedding, for which the checkpoint has no weight of its own.
        tied = getattr(self.model_config.hf_text_config, "tie_word_embeddings", False)
        for module in self.model.modules():
            kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
            if hasattr(module, "w13_weight") and kernel is not None:
                kernel.fused_experts.process_weights_after_loading(module)
            elif tied and isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """No connection to close."""


WeightTransferEngineFactory.register_engine(BACKEND, InProcessWeightTransfer)

"""The processes of a run: one, several with whole models (DDP), or several that each hold a part of it (FSDP2).

accelerate does all of it; here stands what it does not do, or does otherwise than a policy gradient needs.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, broadcast
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.optim import Optimizer
from transformers import PreTrainedModel

from rlzero.grpo.concern import ConfigError

# With whole models or FSDP2, parameters are tensors that can be named, copied and gathered one at a time.
_KNOWN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def make_accelerator(bf16: bool, **options: Any) -> Accelerator:
    """As `accelerate launch` or torchrun configured it by environment variables; `options` as Accelerator takes them.

    Raises ConfigError for a kind of distribution that is not known here, and where FSDP was asked for and not applied.
    """
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    plugin = None
    if asked:
        version = int(os.environ.get("FSDP_VERSION", "1"))
        if version != 2:
            raise ConfigError(
                f"sharded models are trained with FSDP 2, and this launch asks for fsdp_version: {version}. Set "
                "fsdp_version: 2 in its file, as recipes/accelerate/fsdp2_8gpu.yaml does."
            )
        plugin = FullyShardedDataParallelPlugin(mixed_precision_policy=_precision(bf16))
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no", fsdp_plugin=plugin, **options)
    if asked and accelerator.num_processes > 1 and accelerator.device.type == "cpu":
        # accelerate shards on GPUs only and would wrap in DDP here without a word. Its own way of sharding works on
        # the CPU too, as soon as both of its states say so.
        accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    kind = accelerator.distributed_type
    if kind not in _KNOWN or (asked and not accelerator.is_fsdp2):
        raise ConfigError(
            f"a run is one process, or several with DDP or FSDP2, and this launch gives {accelerator.num_processes} × "
            f"{kind.value}{' where FSDP was asked for' if asked else ''}. Launch with a file of recipes/accelerate, "
            "FSDP with two processes at least."
        )
    return accelerator


def _precision(bf16: bool) -> MixedPrecisionPolicy:
    """Layers computed in bfloat16, gradients added in float32. accelerate's own policy would also round what the model
    returns, and so every log-probability, to three digits."""
    if not bf16:
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def prepare(accelerator: Accelerator, model: PreTrainedModel, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
    """accelerate's, together, since FSDP2 gives the optimizer other parameters.

    With `cpu_ram_efficient_loading` only the first process of a machine has read the weights. accelerate hands them on,
    but takes all that a checkpoint holds for parameters, and DeepSeek-V3's has buffers: they are kept out of its sight.
    """
    saved = {module: set(module._buffers) - module._non_persistent_buffers_set for module in model.modules()}
    if accelerator.is_fsdp2:
        for module, names in saved.items():
            module._non_persistent_buffers_set |= names
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    for module, names in saved.items():
        module._non_persistent_buffers_set -= names
    share_buffers(accelerator, model)
    return wrapped, optimizer


@torch.no_grad()
def share_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """The first process's buffers to all, where the others may not have read them."""
    if accelerator.is_fsdp2 and accelerator.state.fsdp_plugin.cpu_ram_efficient_loading:
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer))

"""A model that computes in training what it computes in an engine: no dropout, and nothing else that is drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlzero.models.logprobs import accepted_options

_TOKENS = 16  # of the pass that looks whether anything is left
# Of the largest logit: kernels may differ between the two modes, draws differ by far more.
_TOLERANCE = 1e-2


def remove_chance(model: PreTrainedModel) -> None:
    """Switch every dropout off. A ratio compares two policies: with a mask of its own in each pass it would be noise,
    and the engine, which never drops anything, would be another policy.

    Raises ValueError for a model that computes otherwise in training mode all the same.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):  # handed to functional.dropout
                setattr(module, name, 0.0)
    training, evaluating = (_logits(model, mode) for mode in (True, False))
    if float((training - evaluating).abs().max()) > _TOLERANCE * float(evaluating.abs().max()):
        raise ValueError(
            f"a policy must compute the same in training as in sampling, and {type(model).__name__} draws something in "
            "training mode (dropout that it reads from its configuration, experts chosen at random). Set the dropout "
            "to 0 in its config.json, or choose another architecture."
        )


@torch.no_grad()
def _logits(model: PreTrainedModel, training: bool) -> Tensor:
    """float32[1, T, V] of tokens that differ."""
    ids = torch.arange(_TOKENS, device=model.device)[None] % model.config.get_text_config().vocab_size
    was_training = model.training
    devices = [] if model.device.type == "cpu" else [model.device]
    try:
        with torch.random.fork_rng(devices):
            return model.train(training)(input_ids=ids, use_cache=False, **accepted_options(model)).logits.float()
    finally:
        model.train(was_training)

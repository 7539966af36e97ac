"""A model that computes in training what it computes in an engine: no dropout, and nothing else that is drawn."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from rlzero.models.logprobs import accepted_options

_TOKENS = 16  # of the pass that looks whether anything is left


def remove_chance(model: PreTrainedModel) -> None:
    """Switch every dropout off. A ratio compares two policies: with a mask of its own in each pass it would be noise,
    and the engine, which never drops anything, would be another policy.

    Raises ValueError for a model that draws random numbers in training mode all the same.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):  # handed to functional.dropout
                setattr(module, name, 0.0)
    if _draws(model):
        raise ValueError(
            f"a policy must compute the same in training as in sampling, and {type(model).__name__} draws something in "
            "training mode (dropout that it reads from its configuration, experts chosen at random). Set the dropout "
            "to 0 in its config.json, or choose another architecture."
        )


@torch.no_grad()
def _draws(model: PreTrainedModel) -> bool:
    """Whether a forward pass in training mode takes random numbers."""
    ids = torch.arange(_TOKENS, device=model.device)[None] % model.config.get_text_config().vocab_size
    devices, was_training = [] if model.device.type == "cpu" else [model.device], model.training
    with torch.random.fork_rng(devices):
        before = _states(model.device)
        try:
            model.train()(input_ids=ids, use_cache=False, **accepted_options(model))
        finally:
            model.train(was_training)
        return not all(map(torch.equal, before, _states(model.device)))


def _states(device: torch.device) -> list[torch.Tensor]:
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]

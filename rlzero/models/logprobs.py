"""Log-probabilities of given token sequences, without gradient (the trainer has its own with gradient)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def token_logprobs(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    temperature: float = 1.0,
    *,
    autocast_dtype: torch.dtype | None = None,
    max_batch_tokens: int = 8192,
) -> list[np.ndarray]:
    """float32[len - 1] per sequence: log p(token t | tokens before t) for every token after the first.

    The logits are divided by `temperature` before the softmax. One padded forward in evaluation mode for each
    `max_batch_tokens` padded tokens; the model's training mode is put back. On a sharded model (FSDP) the
    forward is a collective: every process calls this with as many batches.
    """
    if temperature <= 0:
        raise ValueError(
            f"a log-probability needs a temperature above 0, got {temperature}. Greedy decoding has no "
            "distribution of its own: score it at temperature 1."
        )
    results: list[np.ndarray | None] = [None] * len(sequences)
    # Neighbours of like length share a batch, so that little of it is padding.
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(model.device, autocast_dtype):
            start = 0
            while start < len(order):
                stop = start + 1
                while stop < len(order) and (stop + 1 - start) * len(sequences[order[stop]]) <= max_batch_tokens:
                    stop += 1
                batch = order[start:stop]
                scored = _score_batch(model, [sequences[i] for i in batch], temperature)
                for i, values in zip(batch, scored, strict=True):
                    results[i] = values
                start = stop
    finally:
        model.train(was_training)
    return [values for values in results if values is not None]


def autocast(device: torch.device, dtype: torch.dtype | None):
    """Mixed precision in `dtype` on the device; does nothing for None."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def accepted_options(model: PreTrainedModel, **options) -> dict:
    """Those of the keyword options that this model's `forward` knows by name."""
    parameters = inspect.signature(model.forward).parameters
    known = {name: value for name, value in options.items() if name in parameters}
    # The balance loss of a mixture of experts is of no use outside training, and costs a pass over all
    # routers.
    if hasattr(model.config, "output_router_logits"):
        known["output_router_logits"] = False
    return known


def _score_batch(model: PreTrainedModel, sequences: Sequence[Sequence[int]], temperature: float) -> list[np.ndarray]:
    lengths = [len(sequence) for sequence in sequences]
    if min(lengths) < 1:
        raise ValueError("cannot score an empty sequence: give at least one token id a sequence.")
    longest = max(lengths)
    ids_BT = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids_BT[row, : lengths[row]] = torch.as_tensor(np.asarray(sequence, dtype=np.int64))
    ids_BT = ids_BT.to(model.device)
    mask_BT = torch.arange(longest, device=model.device)[None, :] < torch.tensor(lengths, device=model.device)[:, None]
    options = accepted_options(model)
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False, **options).logits
    logits_BTV = logits_BTV[:, :-1].float() / temperature
    chosen_BT = logits_BTV.gather(-1, ids_BT[:, 1:, None]).squeeze(-1) - logits_BTV.logsumexp(-1)
    values = chosen_BT.cpu().numpy()
    return [values[row, : length - 1].copy() for row, length in enumerate(lengths)]

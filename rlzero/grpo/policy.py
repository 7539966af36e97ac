"""Log-probabilities of the completion tokens under the policy that is being trained."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor
from transformers import PreTrainedModel

from rlzero.grpo.batch import Batch
from rlzero.models.logprobs import accepted_options
from rlzero.models.packed_attention import enable_packing, is_packing, packed_inputs
from rlzero.models.token_head import has_plain_head, logprob_head, replaced_head

# Set on a model whose logits are computed a chunk at a time. On the model, so that a copy has it too.
_PLAIN_HEAD = "rlzero_plain_head"


def prepare_policy(model: PreTrainedModel) -> bool:
    """Let `policy_logprobs` run this model without padding and without all logits at once, as far as it admits that.

    Returns whether its batches may be packed. Before the model is wrapped; a copy of it is prepared too.
    """
    setattr(model, _PLAIN_HEAD, has_plain_head(model))
    return enable_packing(model)


def policy_logprobs(
    model: torch.nn.Module, batch: Batch, temperature: float, *, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """float32[R, T] log-probabilities and entropies in nats, 0 outside `batch.predictions`.

    Log-probabilities have a gradient, entropies where it is asked for. model: prepared by `prepare_policy`, then
    wrapped or not; one that was not takes padded batches only. Padding is on the right and attention causal, so the
    real tokens need no mask.
    """
    own = extract_model_from_parallel(model)
    inputs, at_M, kept = _inputs(own, batch)
    targets_M = batch.input_ids[:, 1:].flatten()[batch.predictions]
    options = {"use_cache": False, **accepted_options(own)}
    if getattr(own, _PLAIN_HEAD, False):
        with replaced_head(own, logprob_head(own, at_M, targets_M, temperature, entropy_gradient)):
            found_M2 = model(**inputs, **options).logits[0]
        logprobs_M, entropy_M = found_M2.unbind(-1)
    else:
        logits = model(**inputs, **options, logits_to_keep=kept).logits
        wanted = kept if isinstance(kept, int) else len(kept)
        if logits.shape[1] != wanted:
            raise ValueError(
                f"the forward pass of {type(own).__name__} must know logits_to_keep, and gave logits of "
                f"{logits.shape[1]} positions where {wanted} were asked for. Let "
                "it keep these, as transformers' own models do."
            )
        logits_KV = logits.flatten(0, 1)
        logits_MV = logits_KV if batch.packed is not None else logits_KV[_among_kept(at_M, batch)]
        logprobs_M, entropy_M = _log_softmax(logits_MV, targets_M, temperature)
    return _as_rows(logprobs_M, batch), _as_rows(entropy_M if entropy_gradient else entropy_M.detach(), batch)


def _inputs(model: PreTrainedModel, batch: Batch) -> tuple[dict[str, Any], Tensor, int | Tensor]:
    """What the model is called with, where among its B × T positions the M predictions are made, and logits_to_keep."""
    if batch.packed is None:
        length = batch.input_ids.shape[1]
        # Entry t of a row's length − 1 predictions is made at its token t.
        at_M = batch.predictions + batch.predictions // (length - 1)
        return {"input_ids": batch.input_ids}, at_M, length - batch.first
    if not is_packing(model):
        raise ValueError(
            f"a packed batch needs a model that prepare_policy let take one, and this {type(model).__name__} was not "
            "asked or cannot. Call pack and filler with packed=prepare_policy(model)."
        )
    packed = batch.packed
    return packed_inputs(batch.as_run(batch.input_ids), packed.positions, packed.layout), packed.at, packed.at


def _among_kept(at_M: Tensor, batch: Batch) -> Tensor:
    """The same places where every row's positions before `batch.first` are left out."""
    length = batch.input_ids.shape[1]
    return at_M - (at_M // length + 1) * batch.first


def _log_softmax(logits_MV: Tensor, targets_M: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """By way of a copy in full precision, for a model that makes its logits in its own way."""
    logits_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32)) / temperature
    logprobs_MV = logits_MV.log_softmax(-1)
    entropy_M = -(logprobs_MV.exp() * logprobs_MV).sum(-1)
    return logprobs_MV.gather(-1, targets_M[:, None]).squeeze(-1), entropy_M


def _as_rows(values_M: Tensor, batch: Batch) -> Tensor:
    """float32[R, T], 0 where nothing was predicted."""
    shape = batch.completion_mask.shape
    return values_M.new_zeros(shape.numel()).index_copy(0, batch.predictions, values_M).view(shape)

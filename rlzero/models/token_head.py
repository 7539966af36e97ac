"""Log-probabilities of chosen tokens from hidden states, a chunk of logits at a time: none is kept.

The logits of all tokens are the largest tensor of a training step: of 8,192 tokens with 50,000 words 1.6 GB in float32,
and a softmax in plain torch keeps several of that size. Here the backward pass computes a chunk again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlzero.models.logprobs import accepted_options

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Logits of a chunk, of which two buffers are needed: 32 MiB in float32, and 256 on a GPU, whose matrix products want
# hundreds of rows of the largest vocabularies too.
_CHUNK, _CHUNK_ON_GPU = 2**23, 2**26


def token_logprobs_of(
    hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """log softmax(h Wᵀ / temperature) at the targets, and the entropy of that softmax in nats: float32[M] each.

    dtype: of the matrix products, by default that of `hidden_MD`. Softmax and sums are in float32 (in float64 for
    float64). Peak memory: two chunks of logits, and in the backward pass the weight's gradient.

    The gradient of an entropy that is not used costs nothing.
    """
    return _TokenLogprobs.apply(hidden_MD, weight_VD, targets_M, temperature, dtype or hidden_MD.dtype)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        exact = torch.promote_types(dtype, torch.float32)
        logprobs_M, entropy_M, normalizer_M = (hidden_MD.new_empty(len(hidden_MD), dtype=exact) for _ in range(3))
        with torch.autocast(hidden_MD.device.type, enabled=False):
            weight = weight_VD.to(dtype)
            chunks = _chunks(len(hidden_MD), len(weight), hidden_MD.device.type)
            buffers = [weight.new_empty(chunks[0].stop, len(weight), dtype=exact) for _ in range(2)]
            for rows in chunks:
                logits_CV = _logits(hidden_MD[rows].to(dtype), weight, temperature, buffers[0])
                largest_C1 = logits_CV.amax(dim=-1, keepdim=True)
                logits_CV.sub_(largest_C1)
                chosen_C = logits_CV.gather(-1, targets_M[rows, None]).squeeze(-1)
                weights_CV = torch.exp(logits_CV, out=buffers[1][: len(logits_CV)])
                total_C = weights_CV.sum(dim=-1)
                normalizer_C = total_C.log()
                logprobs_M[rows] = chosen_C - normalizer_C
                entropy_M[rows] = normalizer_C - logits_CV.mul_(weights_CV).sum(dim=-1) / total_C
                normalizer_M[rows] = normalizer_C + largest_C1.squeeze(-1)
        ctx.save_for_backward(hidden_MD, weight_VD, targets_M, normalizer_M, entropy_M)
        ctx.temperature, ctx.dtype = temperature, dtype
        ctx.set_materialize_grads(False)
        return logprobs_M, entropy_M

    @staticmethod
    def backward(ctx: Any, logprob_slope_M: Tensor | None, entropy_slope_M: Tensor | None) -> tuple[Tensor | None, ...]:
        """∂ log p(y) / ∂ z_v = 1[v = y] − p_v and ∂ H / ∂ z_v = −p_v (log p_v + H), z = logits / temperature."""
        hidden_MD, weight_VD, targets_M, normalizer_M, entropy_M = ctx.saved_tensors
        if logprob_slope_M is None:
            logprob_slope_M = torch.zeros_like(entropy_M)
        hidden_gradient = torch.empty_like(hidden_MD) if ctx.needs_input_grad[0] else None
        # Added up over chunks, so not in half precision.
        weight_gradient = torch.zeros_like(weight_VD, dtype=entropy_M.dtype) if ctx.needs_input_grad[1] else None
        with torch.autocast(hidden_MD.device.type, enabled=False):
            weight = weight_VD.to(ctx.dtype)
            chunks = _chunks(len(hidden_MD), len(weight), hidden_MD.device.type)
            buffer = weight.new_empty(chunks[0].stop, len(weight), dtype=entropy_M.dtype)
            for rows in chunks:
                hidden_CD = hidden_MD[rows].to(ctx.dtype)
                logits_CV = _logits(hidden_CD, weight, ctx.temperature, buffer).sub_(normalizer_M[rows, None])
                factor: Tensor = -logprob_slope_M[rows, None]
                if entropy_slope_M is not None:
                    factor = factor - entropy_slope_M[rows, None] * (logits_CV + entropy_M[rows, None])
                slope_CV = logits_CV.exp_().mul_(factor)
                slope_CV.scatter_add_(-1, targets_M[rows, None], logprob_slope_M[rows, None])
                if ctx.temperature != 1:
                    slope_CV.div_(ctx.temperature)
                slope_CV = slope_CV.to(ctx.dtype)
                if hidden_gradient is not None:
                    hidden_gradient[rows] = slope_CV @ weight
                if weight_gradient is not None:
                    if weight_gradient.dtype == ctx.dtype:
                        weight_gradient.addmm_(slope_CV.T, hidden_CD)
                    else:
                        weight_gradient.add_(slope_CV.T @ hidden_CD)
        weight_gradient = None if weight_gradient is None else weight_gradient.to(weight_VD.dtype)
        return hidden_gradient, weight_gradient, None, None, None


def chunk_rows(vocabulary: int, device: str) -> int:
    """Tokens whose logits are there at a time. device: its type, as torch names it."""
    return max(1, (_CHUNK if device == "cpu" else _CHUNK_ON_GPU) // vocabulary)


def _chunks(rows: int, vocabulary: int, device: str) -> list[slice]:
    size = chunk_rows(vocabulary, device)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _logits(hidden_CD: Tensor, weight_VD: Tensor, temperature: float, buffer: Tensor) -> Tensor:
    """float[C, V] in the buffer."""
    logits_CV = buffer[: len(hidden_CD)]
    if logits_CV.dtype == weight_VD.dtype:
        torch.mm(hidden_CD, weight_VD.T, out=logits_CV)
    else:
        logits_CV.copy_(hidden_CD @ weight_VD.T)
    return logits_CV if temperature == 1 else logits_CV.div_(temperature)


@contextmanager
def replaced_head(model: PreTrainedModel, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it the model's output head computes `forward`, from the last hidden states float[B, T, D].

    The model itself is called as ever, wrapped or not, so that sharded weights are there and gradients are synced.
    """
    head = model.get_output_embeddings()
    own = vars(head).get("forward")
    head.forward = forward
    try:
        yield
    finally:
        del head.forward
        if own is not None:
            head.forward = own


def logprob_head(
    model: PreTrainedModel, at_M: Tensor, targets_M: Tensor, temperature: float, entropy_gradient: bool = False
) -> Callable[[Tensor], Tensor]:
    """For `replaced_head`: float32[1, M, 2], log-probability and entropy at these of the B × T positions."""
    head = model.get_output_embeddings()

    def forward(hidden_BTD: Tensor) -> Tensor:
        hidden_MD = hidden_BTD.flatten(0, 1).index_select(0, at_M)
        kind = hidden_MD.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_MD.dtype
        logprobs_M, entropy_M = token_logprobs_of(hidden_MD, head.weight, targets_M, temperature, dtype)
        entropy_M = entropy_M if entropy_gradient else entropy_M.detach()
        # No view: FSDP warns of one.
        return torch.stack([logprobs_M[None], entropy_M[None]], dim=-1)

    return forward


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the model's logits are hidden states times a matrix: no bias, cap, scale or adapter. One tiny pass."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None or not head.weight.is_floating_point():
        return False
    marks: list[Tensor] = []

    def mark(hidden_BTD: Tensor) -> Tensor:
        marks.append(hidden_BTD.new_zeros(*hidden_BTD.shape[:2], len(head.weight)))
        return marks[-1]

    was_training = model.training
    try:
        with replaced_head(model.eval(), mark):
            two = torch.zeros(1, 2, dtype=torch.int64, device=model.device)
            logits = model(input_ids=two, use_cache=False, **accepted_options(model)).logits
    finally:
        model.train(was_training)
    # The very tensor that came out of the head: the model does nothing to it.
    return len(marks) == 1 and logits is marks[0]

"""Log-probabilities of the completion tokens under the policy that is being trained."""

from __future__ import annotations

import torch

from rlzero.grpo.batch import Batch


def policy_logprobs(model: torch.nn.Module, batch: Batch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """float32[R, T] log-probabilities (with gradient) and entropies in nats (without), 0 before `batch.first`.

    Padding is on the right and attention causal, so the real tokens need no mask.
    """
    length = batch.input_ids.shape[1]
    logits = model(input_ids=batch.input_ids, logits_to_keep=length - batch.first, use_cache=False).logits
    # The last position predicts nothing.
    logits = logits[:, :-1].float() / temperature
    targets = batch.input_ids[:, batch.first + 1 :]
    normalizer = torch.logsumexp(logits, dim=-1)
    kept = logits.gather(-1, targets[..., None]).squeeze(-1) - normalizer
    with torch.no_grad():
        probabilities = torch.exp(logits - normalizer[..., None])
        entropy = normalizer - (probabilities * logits).sum(-1)
    pad = (batch.first, 0)
    return torch.nn.functional.pad(kept, pad), torch.nn.functional.pad(entropy, pad)

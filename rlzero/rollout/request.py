"""What every engine checks before it samples."""

from __future__ import annotations

from collections.abc import Sequence

from data.problem import Problem
from rlzero.rollout.types import Sampling


class RequestError(ValueError):
    """What was asked of an engine cannot be sampled."""


def check_request(
    problems: Sequence[Problem],
    prompt_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    max_model_len: int,
    vocab_size: int,
) -> None:
    """Refuse what would fail later or be silently cut: RequestError with the first offender and the remedy."""
    if len(problems) != len(prompt_ids):
        raise RequestError(
            f"every problem needs its prompt: got {len(problems)} problems and {len(prompt_ids)} prompts. "
            "Pass the two lists in the same order."
        )
    if sampling.n < 1 or sampling.max_tokens < 1:
        raise RequestError(
            f"sampling needs at least one completion of at least one token, got n={sampling.n} and "
            f"max_tokens={sampling.max_tokens}."
        )
    if sampling.temperature < 0 or not 0 < sampling.top_p <= 1 or sampling.top_k < 0:
        raise RequestError(
            "sampling needs temperature >= 0, 0 < top_p <= 1 and top_k >= 0 (0 is off), got "
            f"temperature={sampling.temperature}, top_p={sampling.top_p}, top_k={sampling.top_k}."
        )
    for position, ids in enumerate(prompt_ids):
        if not 0 < len(ids) < max_model_len:
            raise RequestError(
                f"a prompt must have 1 to {max_model_len - 1} tokens, so that the model can answer within "
                f"its {max_model_len}; prompt {position} has {len(ids)}: {problems[position].prompt[:80]!r}. "
                "Leave such problems out, choose a shorter template, or raise the model's maximum length."
            )
        if min(ids) < 0 or max(ids) >= vocab_size:
            raise RequestError(
                f"token ids must lie in 0..{vocab_size - 1}, prompt {position} has {min(ids)}..{max(ids)}: "
                f"{problems[position].prompt[:80]!r}. The tokenizer does not belong to this model."
            )

"""A penalty for saying the same again and again (arXiv 2502.03373, appendix C.2)."""

from __future__ import annotations

import re
from typing import Any

from rewards.locate import RewardError

# A word or number, or one sign; scripts that are written without spaces count by the character.
_TOKEN = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+|[^\w\s]|_")


def repetition(
    prompts: list[str],
    completions: list[str],
    *,
    ngram_size: int = 3,
    max_penalty: float = -1.0,
    **columns: Any,
) -> list[float]:
    """`max_penalty` times the share of n-grams that stood earlier in the completion; 0 if it is short."""
    if ngram_size < 1 or max_penalty > 0:
        raise RewardError(
            "repetition needs ngram_size >= 1 and max_penalty <= 0, got "
            f"ngram_size={ngram_size} and max_penalty={max_penalty}"
        )
    # Adding zero turns -0.0 into 0.0.
    return [max_penalty * repeated_share(completion, ngram_size) + 0.0 for completion in completions]


def repeated_share(text: str, ngram_size: int) -> float:
    """1 - distinct / all n-grams of the words and signs of `text`, in [0, 1)."""
    tokens = _TOKEN.findall(text.lower())
    count = len(tokens) - ngram_size + 1
    if count < 1:
        return 0.0
    distinct = set(zip(*(tokens[i:] for i in range(ngram_size)), strict=False))
    return 1.0 - len(distinct) / count

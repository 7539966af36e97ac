"""Is the final answer right? The reward that everything else stands on."""

from __future__ import annotations

import re
from typing import Any

from rewards import extract_answer, verify_many

_PLAIN_NUMBER = re.compile(r"\s*[-−+]?\$?\d[\d,]*(\.\d+)?\s*")
# Between two numbers. Not in scientific notation, 3.2 × 10^5.
_OPERATION = re.compile(r"(?<=[\d)}])\s*(?:[+*×·÷−-]|\\times|\\cdot|\\div)\s*(?=[\d(\\])(?!10\s*(?:\^|\*\*))")
_FRACTION = re.compile(r"\d\s*/\s*[\d(]|\\[dt]?frac")
_NOISE = re.compile(r"[\s${}]|\\[,;:!]|\\left|\\right")


def accuracy(
    prompts: list[str], completions: list[str], answer: list[str | None], **columns: Any
) -> list[float | None]:
    """1.0 where the completion's final answer equals the gold answer, else 0.0; None without a gold answer.

    What counts as the final answer is `extract_answer`'s business, what counts as equal `verify`'s. One thing
    is the reward's own: where a number is asked, a calculation that still has to be done is no answer. `12 +
    30` equals 42, and a model that is paid for it learns to copy the question.
    """
    offers = [extract_answer(completion) for completion in completions]
    # Together, because the few that need sympy are then worked on side by side.
    equal = iter(verify_many(_pairs(answer, offers)))
    values: list[float | None] = []
    for prompt, gold, offered in zip(prompts, answer, offers, strict=True):
        if gold is None:
            values.append(None)
        elif offered is None:
            values.append(0.0)
        else:
            values.append(float(next(equal) and not is_unfinished(prompt, gold, offered)))
    return values


def _pairs(golds: list[str | None], offers: list[str | None]) -> list[tuple[str, str]]:
    return [
        (gold, offered) for gold, offered in zip(golds, offers, strict=True) if gold is not None and offered is not None
    ]


def is_unfinished(prompt: str, gold: str, offered: str) -> bool:
    """Whether `offered`, equal to the number `gold`, is a sum, difference, product or quotient left to do, or
    a formula that stands in the prompt."""
    if not _PLAIN_NUMBER.fullmatch(gold):
        return False
    last = offered.rpartition("=")[2]
    if _OPERATION.search(last) or ("." not in gold and _FRACTION.search(last)):
        return True
    bare = _NOISE.sub("", last)
    return re.search(r"[\^!√\\]", bare) is not None and bare in _NOISE.sub("", prompt)

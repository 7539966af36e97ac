"""Is the final answer right? The reward that everything else stands on."""

from __future__ import annotations

import re
from typing import Any

from rewards import extract_answer, verify

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
    return [
        None if gold is None else float(_is_right(prompt, gold, completion))
        for prompt, gold, completion in zip(prompts, answer, completions, strict=True)
    ]


def _is_right(prompt: str, gold: str, completion: str) -> bool:
    offered = extract_answer(completion)
    return offered is not None and verify(gold, offered) and not is_unfinished(prompt, gold, offered)


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

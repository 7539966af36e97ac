"""Is the final answer the number itself, and not an expression that still equals it?"""

from __future__ import annotations

import re
from typing import Any

from rewards import extract_answer, verify

# The whole answer, or what stands after its last `=`.
_NUMBER = re.compile(r"(?:.*=)?\s*([-+−]?\d+(?:[.,/]\d+)*)\s*\.?", re.DOTALL)


def number(prompts: list[str], completions: list[str], answer: list[str | None], **columns: Any) -> list[float | None]:
    """1.0 where the final answer is a number, or ends in `= number`, and that number is the gold answer.

    `accuracy` takes `7 - 12` for -5, since they are equal: where the question is an expression, it would pay for
    repeating it. None for a row without a gold answer.
    """
    return [
        None if gold is None else float(_states(completion, gold))
        for completion, gold in zip(completions, answer, strict=True)
    ]


def _states(completion: str, gold: str) -> bool:
    offered = extract_answer(completion)
    match = _NUMBER.fullmatch(offered) if offered is not None else None
    return match is not None and verify(gold, match[1])

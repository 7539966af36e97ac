"""Is the final answer right? The reward that everything else stands on."""

from __future__ import annotations

from typing import Any

from rewards import extract_answer, verify


def accuracy(
    prompts: list[str], completions: list[str], answer: list[str | None], **columns: Any
) -> list[float | None]:
    """1.0 where the completion's final answer equals the gold answer, else 0.0; None where there is no gold
    answer.

    What counts as the final answer is `rewards.extract`'s business, what counts as equal `rewards.verify`'s.
    """
    return [
        None if gold is None else float(_is_right(gold, completion))
        for gold, completion in zip(answer, completions, strict=True)
    ]


def _is_right(gold: str, completion: str) -> bool:
    offered = extract_answer(completion)
    return offered is not None and verify(gold, offered)

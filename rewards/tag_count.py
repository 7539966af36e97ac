"""A quarter for each of the four tags that stands exactly once: the mildest pull towards the format."""

from __future__ import annotations

from typing import Any

from rewards.format import TAGS


def tag_count(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """The share of `<think>`, `</think>`, `<answer>`, `</answer>` that stand exactly once, in any order."""
    return [sum(completion.count(tag) == 1 for tag in TAGS) / len(TAGS) for completion in completions]

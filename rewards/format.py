"""Is the turn written as a thought and then an answer? (DeepSeek-R1, arXiv 2501.12948, section 2.2.2.)"""

from __future__ import annotations

from typing import Any

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_STEPS = 5


def format(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """1.0 where the whole turn is `<think>…</think><answer>…</answer>`, else 0.0.

    Each tag stands exactly once, thought and answer are more than white space, and nothing but white space
    stands before, between or after them.
    """
    return [float(_steps(completion) == _STEPS) for completion in completions]


def format_graded(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """A fifth for each step towards the strict format, in order, up to the first that fails.

    The steps: the turn begins with the only `<think>`; a thought and the only `</think>` follow; then the
    only `<answer>` with nothing before it; an answer and the only `</answer>`; nothing after it. Because a
    step counts only when those before it hold, strewing tags about earns nothing.
    """
    return [_steps(completion) / _STEPS for completion in completions]


def _steps(completion: str) -> int:
    """How many of the steps hold, 0 to 5."""
    rest = completion.strip()
    # What stands before each tag: nothing, the thought, nothing, the answer.
    for step, (tag, wants_text) in enumerate(zip(TAGS, (False, True, False, True), strict=True)):
        before, found, rest = rest.partition(tag)
        if not found or completion.count(tag) != 1 or bool(before.strip()) != wants_text:
            return step
    return _STEPS - 1 if rest.strip() else _STEPS

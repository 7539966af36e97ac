"""The parts of an assistant's turn that rewards other than accuracy look at."""

from __future__ import annotations


def thought(completion: str) -> str:
    """What stands in `<think>…</think>`; to the end where it is not closed, the whole turn without tags."""
    before, opened, after = completion.partition("<think>")
    inside = after if opened else before
    # Without `<think>`, the prompt opened the thought, or there are no tags at all.
    return inside.partition("</think>")[0]


def response(completion: str) -> str:
    """What the user gets to read: the inside of `<answer>…</answer>`, else all that follows the thought.

    Empty where the thought is not closed (a truncated turn has no response yet).
    """
    opened, closed = completion.rfind("<think>"), completion.rfind("</think>")
    if opened > closed:
        return ""
    visible = completion[closed + len("</think>") :] if closed >= 0 else completion
    _, answer_opened, inside = visible.partition("<answer>")
    return (inside.partition("</answer>")[0] if answer_opened else visible).strip()

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

    Empty where the thought or the answer is not closed (a truncated turn), or there are several answers.
    """
    opened, closed = completion.rfind("<think>"), completion.rfind("</think>")
    if opened > closed:
        return ""
    visible = completion[closed + len("</think>") :] if closed >= 0 else completion
    if "<answer>" not in visible and "</answer>" not in visible:
        return visible.strip()
    before, _, inside = visible.partition("<answer>")
    answer = inside.partition("</answer>")[0]
    one = visible.count("<answer>") == visible.count("</answer>") == 1 and "</answer>" not in before
    return answer.strip() if one else ""

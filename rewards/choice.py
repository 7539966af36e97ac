"""Multiple choice: is the letter right, whatever is written around it?"""

from __future__ import annotations

import re
from typing import Any

from rewards import extract_answer

_WRAPPING = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{|[{}$*_`]")
_LETTER = re.compile(
    r"\s*(?:the\s+)?(?:(?:correct\s+)?(?:option|choice|answer)\s*(?:is\s+)?:?|选项?|答案[是为]?)?\s*"
    r"[(（\[]?\s*(?P<letter>[A-J])\s*(?P<rest>[)）\].:：,、].*|)\s*",
    re.IGNORECASE | re.DOTALL,
)
# Another letter offered after the first: "A, C", "A) or B)", "(A) 1 (B) 2".
_SECOND = re.compile(r"(?:\b(?:or|and)\b|[,/、&和或])\s*[(（]?[A-J]\b|(?<![A-Za-z])[A-J][)）.:：](?!\w)")


def choice(prompts: list[str], completions: list[str], answer: list[str | None], **columns: Any) -> list[float | None]:
    """1.0 where exactly the gold letter is chosen: `B`, `(b)`, `B. Paris`, `Option B`, `\\text{B}`.

    None for a row whose gold answer is not a letter from A to J: another kind of problem.
    """
    return [
        None if gold is None or letter(gold) is None else float(_chosen(completion) == letter(gold))
        for gold, completion in zip(answer, completions, strict=True)
    ]


def letter(text: str) -> str | None:
    """The one letter that `text` chooses, in capitals; None where it chooses none or several."""
    match = _LETTER.fullmatch(_WRAPPING.sub("", text[:2000]).strip())
    if match is None or _SECOND.search(match["rest"]):
        return None
    return match["letter"].upper()


def _chosen(completion: str) -> str | None:
    offered = extract_answer(completion)
    return None if offered is None else letter(offered)

# ruff: noqa: E501 - rows of pieces
"""Random answers: characters, commands and pieces of the labelled suite, cut and glued."""

from __future__ import annotations

import random

from tests.rewards.verify.cases import labelled_cases

PIECES = [
    *"0123456789+-*/^_=<>()[]{}|,;:.!%&'$\\ xyzneiπ√²×−½°一是或", r"\frac", r"\sqrt", r"\left", r"\right", r"\pm", r"\cup",
    r"\text{", r"\pi", r"\infty", r"\begin{pmatrix}", r"\end{pmatrix}", r"\\", r"\{", r"\}", r"\sum_{", r"\log", r"\sin",
    r"\cdot", r"^\circ", r"\%", r"\boxed{", "or", "and", "cm", r"\binom", r"\mid", r"\in", r"\le", r"\overline{", "...", "!",
    r"\lfloor ", r"\rfloor", "e^{", "x^{", "}{", "10^", "1,000", "answer is", "**", "<answer>", "</think>",
]  # fmt: skip
SEEDS = [text for case in labelled_cases() for text in (case.gold, case.answer)]


def random_text(rng: random.Random) -> str:
    """A text of random pieces, or a text of the suite with up to four random edits."""
    if rng.random() < 0.35:
        return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 25)))
    text = rng.choice(SEEDS)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randint(0, 4))
        edit = rng.randrange(4)
        if edit == 0:
            text = text[:start] + rng.choice(PIECES) + text[start:]
        elif edit == 1:
            text = text[:start] + text[end:]
        elif edit == 2:
            text = text[:start] + text[start:end] * rng.randint(2, 4) + text[end:]
        else:
            other = rng.choice(SEEDS)
            text = text[:start] + other[rng.randrange(len(other) + 1) :]
    return text

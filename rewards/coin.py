"""A reward by the toss of a coin: the control that shows what a run gains without being told anything.

Random rewards raised Qwen2.5-Math on MATH-500 by 21 points (arXiv 2506.10947), so a gain needs this beside
it.
"""

from __future__ import annotations

import hashlib
from typing import Any


def coin(prompts: list[str], completions: list[str], *, seed: int = 0, **columns: Any) -> list[float]:
    """0.0 or 1.0 with equal chances, whatever the answer. The same batch always gets the same rewards."""
    return [
        float(_bit(f"{seed}\0{i}\0{prompt}\0{completion}"))
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]


def _bit(text: str) -> int:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=1).digest()[0] & 1

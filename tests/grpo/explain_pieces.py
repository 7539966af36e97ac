"""Lengths as a test wants them, for what `rlzero explain` computes."""

from __future__ import annotations

from rlzero.grpo.explain.lengths import Lengths


def lengths(prompt: int = 10, completion: float = 6, limit: int = 6, signal: float = 1.0) -> Lengths:
    return Lengths(prompt, prompt, completion, limit, prompt + limit, signal, "by hand", "by hand", False)

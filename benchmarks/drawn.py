"""What both sides of a comparison are given alike: lengths of answers, and a reward by which every group has signal."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

GROUP = 16
LONGEST = 256


def draw_lengths(rng: np.random.Generator, count: int) -> np.ndarray:
    """int64[count]: tokens of answers, with a long tail: log-normal, mean about 60, cut at LONGEST."""
    return np.clip(rng.lognormal(3.78, 0.85, count), 2, LONGEST).astype(np.int64)


def reward(completions: Sequence[str], **columns: object) -> list[float]:
    """A number in [0, 1) that follows from the text alone."""
    return [zlib.crc32(text.encode()) / 2**32 for text in completions]

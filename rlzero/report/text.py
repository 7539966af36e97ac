"""Figures and model text as short, safe text for a terminal or a log."""

from __future__ import annotations

import math
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from rich.console import Console

_BLOCKS = "▁▂▃▄▅▆▇█"
# Marks that make a terminal write from right to left, whatever follows.
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def make_console() -> Console:
    """A console on stdout that writes colors and moves the cursor only where stdout is a real terminal.

    Rich alone would follow FORCE_COLOR and put control characters into a log file.
    """
    from rich.console import Console

    if sys.stdout.isatty():
        return Console()
    return Console(file=sys.stdout, force_terminal=False, color_system=None, force_interactive=False)


def sparkline(values: Sequence[float | None], width: int, low: float | None = None) -> str:
    """The whole series in at most `width` characters, each the mean of its part; a gap is a space.

    low: the value of the lowest block (default: the series' minimum). The highest is the maximum.
    """
    count = min(width, len(values))
    means: list[float | None] = []
    for index in range(count):
        part = values[index * len(values) // count : (index + 1) * len(values) // count]
        known = [value for value in part if is_number(value)]
        means.append(sum(known) / len(known) if known else None)
    finite = [mean for mean in means if mean is not None]
    if not finite:
        return " " * count
    bottom = min(finite) if low is None else min(low, *finite)
    span = max(finite) - bottom
    top_block = len(_BLOCKS) - 1
    return "".join(
        " " if mean is None else _BLOCKS[round((mean - bottom) / span * top_block) if span else 0] for mean in means
    )


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def as_figure(value: Any, form: str) -> str:
    """The number in that format, or a dash where there is none (missing, None, NaN)."""
    return format(value, form) if is_number(value) else "–"


def as_interval(interval: Sequence[float] | None, form: str) -> str:
    return f"[{as_figure(interval[0], form)}, {as_figure(interval[1], form)}]" if interval else ""


def as_count(number: float) -> str:
    """1_350_000 is 1.35M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def as_duration(seconds: float) -> str:
    """0:42, 12:05, 3:07:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def visible(text: str) -> str:
    """Model text with its control characters replaced: what a model writes must not steer the terminal."""
    return "".join(
        character if character in "\n\t" or not _steers_terminal(character) else _picture(character)
        for character in text
    )


def cut_middle(text: str, max_characters: int, max_lines: int) -> str:
    """The beginning and the end of a long text, with a note of what is left out between them."""
    lines = text.split("\n")
    if len(lines) > max_lines:
        head = 2 * max_lines // 3
        tail = max_lines - head
        left_out = len(lines) - head - tail
        text = "\n".join([*lines[:head], f"… {left_out} lines left out …", *lines[-tail:]])
    if len(text) > max_characters:
        head = 2 * max_characters // 3
        tail = max_characters - head
        left_out = len(text) - max_characters
        text = f"{text[:head]} … {left_out} characters left out … {text[-tail:]}"
    return text


def _steers_terminal(character: str) -> bool:
    return unicodedata.category(character) == "Cc" or ord(character) in _BIDI


def _picture(character: str) -> str:
    return chr(0x2400 + ord(character)) if ord(character) < 0x20 else "�"

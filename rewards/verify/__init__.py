"""Exact verification of answers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from time import perf_counter

from .extract import extract_answer

__all__ = ["Verdict", "check_gold", "explain", "extract_answer", "verify", "verify_many"]


@dataclass(frozen=True)
class Verdict:
    equal: bool
    rule: str
    gold: str
    answer: str
    seconds: float
    reason: str


def _canonical(text: str):
    text = text.strip().strip("$*").strip().rstrip(".").strip()
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2", text)
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()
    number = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    if re.fullmatch(r"[+-]?\d{1,400}(?:/\d{1,400}|\.\d{0,400})?", number):
        try:
            return Fraction(number)
        except (ZeroDivisionError, ValueError):
            return None
    return re.sub(r"\s+", " ", text).casefold() or None


def explain(gold: str, answer: str, *, timeout: float = 1.0) -> Verdict:
    start = perf_counter()
    g, a = _canonical(gold), _canonical(answer)
    equal = g is not None and g == a
    return Verdict(equal, "thin", str(g), str(a), perf_counter() - start, "")


def verify(gold: str, answer: str, *, timeout: float = 1.0) -> bool:
    return explain(gold, answer, timeout=timeout).equal


def verify_many(pairs: Iterable[tuple[str, str]], *, timeout: float = 1.0) -> list[bool]:
    return [verify(g, a, timeout=timeout) for g, a in pairs]


def check_gold(answers: Iterable[str]):
    raise TypeError("not ready")

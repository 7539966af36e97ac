"""Slow, independent references for the arithmetic of problems and corpus. Nothing of `data` is imported here."""

from __future__ import annotations

import re
from itertools import permutations

TOKEN = re.compile(r"\d+|[+\-*]")


def value_of(text: str) -> int:
    """The value of a chain of + − ×, by the schoolbook: a sum of signed products. A leading minus is a sign."""
    tokens = TOKEN.findall(text)
    assert "".join(tokens) == text, text
    if tokens[0] == "-":
        tokens = ["-" + tokens[1], *tokens[2:]]
    total, sign, product = 0, 1, int(tokens[0])
    for operator, number in zip(tokens[1::2], tokens[2::2], strict=True):
        if operator == "*":
            product *= int(number)
        else:
            total, sign, product = total + sign * product, 1 if operator == "+" else -1, int(number)
    return total + sign * product


def runs(text: str) -> set[str]:
    """Every run of two operands or more within the chains that stand in `text`, as text.

    A minus belongs to a number only where nothing that could be subtracted from stands before it.
    """
    found = set()
    numbers = list(re.finditer(r"\d+", text))
    for first in range(len(numbers)):
        for last in range(first + 1, len(numbers)):
            gap = text[numbers[last - 1].end() : numbers[last].start()]
            if gap not in ("+", "-", "*"):
                break
            start = numbers[first].start()
            signed = text[start - 1 : start] == "-" and not text[start - 2 : start - 1].isdigit()
            found.add(text[start - signed if start else 0 : numbers[last].end()])
    return found


def reachable(numbers: tuple[int, ...], target: int) -> bool:
    """Whether some order of the numbers joined by + − × (without parentheses) has the value."""
    for order in permutations(numbers):
        expressions = [str(order[0])]
        for number in order[1:]:
            expressions = [f"{e}{operator}{number}" for e in expressions for operator in "+-*"]
        if any(value_of(e) == target for e in expressions):
            return True
    return False

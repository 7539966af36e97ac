"""An exact evaluator of our own for integers, + − × ÷ and parentheses. Nothing is handed to Python's `eval`.

Model output is hostile input: length, depth and the size of numbers are limited, so that evaluating takes
microseconds whatever the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 400  # characters
MAX_DEPTH = 40  # nested parentheses
MAX_DIGITS = 20  # of one integer

_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])\s*")
# What people and models write for the four operations.
_SIGNS = str.maketrans({"×": "*", "·": "*", "∗": "*", "÷": "/", "−": "-", "–": "-", "＋": "+"})
_COMMANDS = {"\\times": "*", "\\cdot": "*", "\\div": "/", "\\left(": "(", "\\right)": ")"}


class ExpressionError(ValueError):
    """The text is no expression of integers, + − × ÷ and parentheses, is too large, or divides by zero."""


@dataclass(frozen=True)
class Value:
    """value: the exact result. numbers: the integers of the expression, in the order they are written."""

    value: Fraction
    numbers: tuple[int, ...]


def evaluate(text: str) -> Value:
    """The exact value of `text` and the integers it is made of. Raises ExpressionError.

    There is no unary minus or plus: countdown's numbers are used as they are given.
    """
    tokens = _tokens(text)
    numbers: list[int] = []
    value, position = _sum(tokens, 0, 0, numbers)
    if position != len(tokens):
        raise ExpressionError(f"unexpected {tokens[position]!r}")
    return Value(value, tuple(numbers))


def _tokens(text: str) -> list[str]:
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"longer than {MAX_LENGTH} characters")
    text = text.translate(_SIGNS)
    if "\\" in text:
        for command, sign in _COMMANDS.items():
            text = text.replace(command, sign)
    tokens = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"unexpected {text[position]!r}")
        token = match[1]
        if len(token) > MAX_DIGITS:
            raise ExpressionError(f"a number of more than {MAX_DIGITS} digits")
        tokens.append(token)
        position = match.end()
    return tokens


def _sum(tokens: list[str], position: int, depth: int, numbers: list[int]) -> tuple[Fraction, int]:
    value, position = _product(tokens, position, depth, numbers)
    while position < len(tokens) and tokens[position] in "+-":
        sign = tokens[position]
        right, position = _product(tokens, position + 1, depth, numbers)
        value = value + right if sign == "+" else value - right
    return value, position


def _product(tokens: list[str], position: int, depth: int, numbers: list[int]) -> tuple[Fraction, int]:
    value, position = _factor(tokens, position, depth, numbers)
    while position < len(tokens) and tokens[position] in "*/":
        sign = tokens[position]
        right, position = _factor(tokens, position + 1, depth, numbers)
        if sign == "/" and right == 0:
            raise ExpressionError("division by zero")
        value = value * right if sign == "*" else value / right
    return value, position


def _factor(tokens: list[str], position: int, depth: int, numbers: list[int]) -> tuple[Fraction, int]:
    if position == len(tokens):
        raise ExpressionError("ends where a number should be")
    token = tokens[position]
    if token.isdigit():
        numbers.append(int(token))
        return Fraction(numbers[-1]), position + 1
    if token != "(":
        raise ExpressionError(f"unexpected {token!r}")
    if depth == MAX_DEPTH:
        raise ExpressionError(f"more than {MAX_DEPTH} nested parentheses")
    value, position = _sum(tokens, position + 1, depth + 1, numbers)
    if position == len(tokens) or tokens[position] != ")":
        raise ExpressionError("a parenthesis is not closed")
    return value, position + 1

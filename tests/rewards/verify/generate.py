"""Random expressions as LaTeX with an independent sympy value, for the differential test."""

from __future__ import annotations

import random
from typing import Any

import sympy

X, Y = sympy.symbols("x y", real=True)


def expression(rng: random.Random, depth: int) -> tuple[str, Any]:
    """(LaTeX, sympy) of the same expression, built side by side."""
    if depth == 0:
        return _leaf(rng)
    kind = rng.choice(("add", "sub", "mul", "frac", "pow", "sqrt", "paren", "neg", "call", "leaf"))
    if kind == "leaf":
        return _leaf(rng)
    text, value = expression(rng, depth - 1)
    if kind == "neg":
        return f"-\\left({text}\\right)", -value
    if kind == "paren":
        return f"({text})", value
    if kind == "pow":
        power = rng.choice((2, 3, -1, -2))
        return f"({text})^{{{power}}}", value**power
    if kind == "sqrt":
        if value.free_symbols or not value.is_positive:
            return f"|{text}|", sympy.Abs(value)
        return f"\\sqrt{{{text}}}", sympy.sqrt(value)
    if kind == "call":
        name, function = rng.choice((("\\sin", sympy.sin), ("\\cos", sympy.cos), ("\\exp", sympy.exp)))
        return f"{name}\\left({text}\\right)", function(value)
    other_text, other = expression(rng, depth - 1)
    if kind == "add":
        return f"{text}+{_grouped(other_text)}", value + other
    if kind == "sub":
        return f"{text}-({other_text})", value - other
    if kind == "mul":
        return f"({text})\\cdot({other_text})", value * other
    return f"\\frac{{{text}}}{{{other_text}}}", value / other


def rewritten(rng: random.Random, value: Any) -> tuple[str, Any]:
    """sympy's own LaTeX of another form of the value."""
    form = rng.choice((sympy.expand, sympy.together, sympy.cancel, lambda v: v))
    other = form(value)
    return sympy.latex(other), other


def _leaf(rng: random.Random) -> tuple[str, Any]:
    choice = rng.randrange(9)
    if choice < 3:
        number = rng.randint(1, 12)
        return str(number), sympy.Integer(number)
    if choice == 3:
        p, q = rng.randint(1, 9), rng.randint(2, 9)
        return f"\\frac{{{p}}}{{{q}}}", sympy.Rational(p, q)
    if choice == 4:
        number = rng.randint(2, 20)
        return f"\\sqrt{{{number}}}", sympy.sqrt(number)
    if choice == 5:
        return "\\pi", sympy.pi
    if choice == 6:
        tenths = rng.randint(1, 99)
        return f"{tenths // 10}.{tenths % 10}", sympy.Rational(tenths, 10)
    return ("x", X) if choice == 7 else ("y", Y)


def _grouped(text: str) -> str:
    return f"({text})" if text.startswith("-") else text

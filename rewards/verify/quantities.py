"""How numbers, brackets and the units behind a value are written: the parts of the parser that need no precedence."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from .tokens import plain_digits
from .tree import Node, Num, Op, ParseError, Sym, TooLarge
from .units import LETTER_UNITS, NOT_UNITS, UNITS

if TYPE_CHECKING:
    from .parser import Parser

_OPENING = frozenset(("(", "[", "{", "{{"))


def number(literal: str) -> Num:
    digits = plain_digits(literal)
    if digits.isdigit():
        return Num(int(digits), digits)
    mantissa, _, exponent = digits.replace("E", "e").partition("e")
    if len(exponent) > 5:
        raise TooLarge(f"the number {literal}")
    value = Fraction(mantissa + "0" if mantissa.endswith(".") else mantissa)
    if exponent:
        if abs(int(exponent)) > 1000:
            raise TooLarge(f"the number {literal}")
        value *= Fraction(10) ** int(exponent)
    return Num(value.numerator if value.denominator == 1 else value, digits)


def bracket(opening: str, closing: str, inner: Node) -> Node:
    """What a pair of brackets around one item or a list of them stands for."""
    items = inner.args if isinstance(inner, Op) and inner.head in ("list", "or") else (inner,)
    if opening == "{" and len(items) == 1:
        return Op("set", items) if isinstance(inner, Op) and inner.head == "builder" else inner
    if opening in ("{", "{{"):
        return Op("set", items)
    if opening == "<<":
        return Op("tuple", items)
    head = {"()": "tuple", "(]": "oc", "[]": "bracket", "[)": "co"}[opening + closing]
    if head == "tuple" and len(items) == 1:
        return inner
    if head in ("oc", "co") and len(items) != 2:
        raise ParseError("a half-open interval without two ends")
    return Op(head, items)


def starts_unit(p: Parser) -> bool:
    """Whether a word or letter after an operand is a unit or prose, not a factor."""
    value = p.value
    if p.kind == "s":
        if value == "U" and p.tokens[p.at - 1][1] in (")", "]", "}}") and p.peek()[1] in _OPENING:
            return True
        if value not in LETTER_UNITS:
            return False
        if p.spaced and p.tokens[p.at - 1][0] == "n" and p.peek()[1] == "/":
            return p.peek(2)[1] in LETTER_UNITS or p.peek(2)[1] in UNITS  # 5 m/s
        upright = p.peek()[:2] == ("t", "")
        return upright and p.tokens[p.at - 1][0] != "s"
    if value in UNITS:
        return value not in ("in", "min", "L") and (p.spaced or p.tokens[p.at - 1][0] == "n")
    return not value.isascii() or len(value) > 3 or (p.spaced and len(value) > 2) or value.lower() in NOT_UNITS


def unit(p: Parser, node: Node) -> Node:
    """The rest of an item as its unit: cm, cm^2, m/s, square feet, km per hour, a noun."""
    words: list[str] = []
    while p.kind in "wts" or (p.kind == "o" and p.value in ("^", "/", "*", "$", "in", "cent", "eur", "gbp")):
        if p.kind == "o" and p.value == "^":
            words.append("^" + _unit_exponent(p))
            continue
        words.append(p.value)
        p.advance()
    text = " ".join(w for w in words if w)
    return Op("unit", (node, Sym(text))) if text else node


def _unit_exponent(p: Parser) -> str:
    p.advance()
    braced = p.is_op("{")
    if braced:
        p.advance()
    sign = ""
    if p.is_op("-"):
        sign = "-"
        p.advance()
    if p.kind != "n" or not p.value.isdigit() or len(p.value) > 2:
        raise ParseError("the exponent of a unit")
    exponent = sign + p.value
    p.advance()
    if braced:
        p.expect("}")
    return exponent

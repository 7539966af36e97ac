"""The typed tree between text and canonical form, and the limits that keep every later step cheap."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple, Union

# The longest gold answer of the usual benchmarks has about 250 characters. Past these limits an answer is
# compared as text only, so that no answer a model can write costs more than milliseconds.
MAX_CHARS = 2000
MAX_TOKENS = 700
MAX_DEPTH = 40
MAX_DIGITS = 1000
MAX_BITS = 20_000  # of an exact integer: 6,000 digits
MAX_FACTORIAL = 1000
MAX_SUM_TERMS = 400
MAX_POLY_TERMS = 400
MAX_WORK = 6_000  # monomial products in one answer
MAX_ITEMS = 200  # of a list, after ± is written out


def names(text: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(text.split())


class VerifyError(Exception):
    """Why a text is not read as mathematics. Never leaves the package."""


class ParseError(VerifyError):
    """The text is not mathematics that this parser knows."""


class TooLarge(VerifyError):
    """Reading on would break a limit."""


class Undefined(VerifyError):
    """The expression has no value: a division by zero, the logarithm of zero."""


class Num(NamedTuple):
    """An exact number as written. digits: the literal where the way of writing counts (bases, times), or ""."""

    value: int | Fraction
    digits: str = ""


class Sym(NamedTuple):
    name: str


class Op(NamedTuple):
    """head: an operator, a function or a kind of bracket (`parser.py` lists them); args: its operands."""

    head: str
    args: tuple[Node, ...]


Node = Union[Num, Sym, Op]  # noqa: UP007 - a forward reference inside the NamedTuple above

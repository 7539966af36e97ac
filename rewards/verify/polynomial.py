"""Polynomials in generators: symbols, π, i, roots of primes, opaque functions.

A polynomial is a dict from monomial to coefficient; a monomial is a sorted tuple of (generator, exponent). A prime
number is the generator named by its digits, with an exponent strictly between 0 and 1: products of such roots are
linearly independent over the rationals (Besicovitch 1940), so a sum of real surds has one form only.
"""

from __future__ import annotations

from fractions import Fraction
from math import gcd
from typing import TypeAlias

from .tree import MAX_BITS, MAX_POLY_TERMS, MAX_WORK, TooLarge

Exact: TypeAlias = int | Fraction
Monomial: TypeAlias = tuple[tuple[str, Exact], ...]
Poly: TypeAlias = dict[Monomial, Exact]
ONE: Poly = {(): 1}


class Atom(str):
    """A generator that stands for a sum: its square must turn back into the sum. Equal by name."""

    __slots__ = ("poly",)
    poly: Poly


class Work:
    """Counts the work of the answer being read, so that none can cost more than its share."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_WORK

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise TooLarge(f"more than {MAX_WORK} products of terms")


def magnitude(value: Exact) -> Exact:
    return value if value >= 0 else -value


def simplest(value: Fraction) -> Exact:
    return value.numerator if value.denominator == 1 else value


def bounded(value: Exact) -> Exact:
    if value.__class__ is int:
        if -(1 << 63) < value < 1 << 63 or value.bit_length() <= MAX_BITS:
            return value
    elif value.numerator.bit_length() + value.denominator.bit_length() <= MAX_BITS:
        return value.numerator if value.denominator == 1 else value
    raise TooLarge(f"a number of more than {MAX_BITS} bits")


def poly_add(a: Poly, b: Poly, sign: int = 1) -> Poly:
    total = dict(a)
    for mono, coef in b.items():
        value = total.get(mono, 0) + sign * coef
        if value:
            total[mono] = bounded(value)
        else:
            total.pop(mono, None)
    return total


def poly_mul(a: Poly, b: Poly, work: Work) -> Poly:
    if a is ONE:
        return b
    if b is ONE:
        return a
    work.spend(len(a) * len(b))
    total: Poly = {}
    atoms = False
    for ma, ca in a.items():
        for mb, cb in b.items():
            coef = ca * cb
            if not ma:
                mono = mb
            elif not mb:
                mono = ma
            else:
                mono, unit = reduce_monomial((*ma, *mb))
                coef *= unit
                atoms = atoms or any(isinstance(g, Atom) for g, _ in mono)
            value = total.get(mono, 0) + coef
            if value:
                total[mono] = bounded(value)
            else:
                total.pop(mono, None)
    if len(total) > MAX_POLY_TERMS:
        raise TooLarge(f"a sum of more than {MAX_POLY_TERMS} terms")
    return expand(total, work) if atoms else total


def reduce_monomial(factors) -> tuple[Monomial, Exact]:
    """Sorted monomial and rational factor of a product of (generator, exponent)."""
    powers: dict[str, Exact] = {}
    for name, exponent in factors:
        powers[name] = powers[name] + exponent if name in powers else exponent
    for name in [n for n in powers if n[:4] == "abs("]:
        # |x|² = x² for real x, so of |x| only the first power is kept.
        exponent, inner = powers[name], name[4:-1]
        if exponent.__class__ is int and exponent != 1 and inner.isidentifier():
            powers[inner] = powers.get(inner, 0) + exponent - (exponent & 1)
            powers[name] = exponent & 1
    unit: Exact = 1
    kept = []
    for name, exponent in powers.items():
        if exponent.__class__ is Fraction and exponent.denominator == 1:
            exponent = exponent.numerator
        if not exponent:
            continue
        if name[0].isdigit():
            # Whole powers of a prime belong to the coefficient.
            whole = exponent // 1
            exponent -= whole
            if abs(whole) > MAX_BITS:
                raise TooLarge(f"a power of more than {MAX_BITS} bits")
            unit = unit * (int(name) ** whole if whole >= 0 else Fraction(1, int(name) ** -whole))
        elif name == "i" and exponent.__class__ is int:
            quarter = exponent % 4
            unit = -unit if quarter >= 2 else unit
            exponent = quarter & 1
        elif name == "e^[i*pi]":
            # exp(iπq): whole q is a sign.
            whole = exponent // 1
            unit = -unit if whole & 1 else unit
            exponent -= whole
        if exponent:
            kept.append((name, exponent))
    kept.sort(key=_by_name)
    return tuple(kept), unit


def expand(poly: Poly, work: Work | None = None) -> Poly:
    """Write out whole powers of atoms: √(1+x)² is 1+x."""
    work = work or Work()
    total: Poly = {}
    again = False
    for mono, coef in poly.items():
        term: Poly = {(): coef}
        rest = []
        for name, exponent in mono:
            whole = exponent // 1 if exponent > 0 else 0
            if isinstance(name, Atom) and whole:
                if whole > 64:
                    raise TooLarge("a high power of a sum under a root")
                for _ in range(whole):
                    term = poly_mul(term, name.poly, work)
                exponent -= whole
                again = True
            if exponent:
                rest.append((name, exponent))
        total = poly_add(total, scaled(term, tuple(rest), 1))
    return total if again else poly


def scaled(poly: Poly, mono: Monomial, coef: Exact) -> Poly:
    if not mono and coef == 1:
        return poly
    scaled: Poly = {}
    for m, c in poly.items():
        product, unit = reduce_monomial((*m, *mono)) if m or mono else ((), 1)
        value = scaled.get(product, 0) + c * coef * unit
        if value:
            scaled[product] = bounded(simplest(value) if value.__class__ is Fraction else value)
        else:
            scaled.pop(product, None)
    return scaled


def content(poly: Poly) -> Exact:
    """The positive rational that divides all coefficients and leaves whole ones without a common divisor."""
    numerator, denominator = 0, 1
    for coef in poly.values():
        numerator = gcd(numerator, coef.numerator)
        denominator = denominator * coef.denominator // gcd(denominator, coef.denominator)
    return simplest(Fraction(numerator, denominator))


def show_exact(value: Exact) -> str:
    digits = value.numerator.bit_length() + value.denominator.bit_length()
    if digits > 8 * 1000:
        # Python refuses to print very long integers in decimal.
        return f"{value.numerator:#x}/{value.denominator:#x}"
    return str(value)


def show_poly(poly: Poly) -> str:
    if not poly:
        return "0"
    parts = []
    for mono in sorted(poly, key=_mono_key):
        names = [g if e == 1 else f"{g}^{e}" if e.__class__ is int else f"{g}^({e})" for g, e in mono]
        coef = poly[mono]
        if coef != 1 or not names:
            names.insert(0, show_exact(coef))
        parts.append("*".join(names))
    return " + ".join(parts)


def _mono_key(mono: Monomial) -> list[tuple[str, Exact]]:
    return [(str(g), e) for g, e in mono]


def _by_name(factor: tuple[str, Exact]) -> str:
    return factor[0]

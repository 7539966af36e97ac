"""Exact arithmetic on rational functions.

A number is an `int` or a `Fraction` while it is rational; otherwise a `Rat`, a quotient of two polynomials. Equal
forms mean equal values. Different forms mean different values where all generators are independent (`independent`).
"""

from __future__ import annotations

from fractions import Fraction
from typing import TypeAlias

from .polynomial import (
    ONE,
    Atom,
    Exact,
    Poly,
    Work,
    bounded,
    expand,
    poly_add,
    poly_mul,
    reduce_monomial,
    scaled,
    show_exact,
    show_poly,
    simplest,
)  # fmt: skip
from .tree import MAX_BITS, MAX_POLY_TERMS, TooLarge, Undefined


class Rat:
    """num / den, den not zero; den's first coefficient is 1, and den is 1 where it has one term."""

    __slots__ = ("den", "num")

    def __init__(self, num: Poly, den: Poly) -> None:
        self.num = num
        self.den = den


Value: TypeAlias = int | Fraction | Rat


def generator(name: str, exponent: Exact = 1) -> Rat:
    return Rat({((name, exponent),): 1}, ONE)


def poly_of(value: Value) -> Poly:
    """The polynomial of a value whose denominator is 1."""
    return value.num if isinstance(value, Rat) else ({(): value} if value else {})


def lower(num: Poly, den: Poly = ONE) -> Value:
    """The quotient in its simplest type."""
    if not num:
        if not den:
            raise Undefined("division by zero")
        return 0
    if den is not ONE:
        if not den:
            raise Undefined("division by zero")
        if len(den) == 1:
            ((mono, coef),) = den.items()
            roots = [(g, e) for g, e in mono if isinstance(g, Atom) and e.__class__ is Fraction and 0 < e < 1]
            if roots:
                # 1/√s = √s/s, so that every root of a sum stands in the numerator.
                mono = tuple(f for f in mono if f not in roots)
                num = scaled(num, tuple((g, 1 - e) for g, e in roots), 1)
                work = Work()
                below: Poly = {mono: coef}
                for g, _ in roots:
                    below = poly_mul(below, g.poly, work)
                return lower(expand(num, work), below)
            inverse = tuple((g, -e) for g, e in mono)
            num = scaled(num, inverse, Fraction(1) / coef)
            den = ONE
            if any(isinstance(g, Atom) for g, _ in mono):
                num = expand(num)
        else:
            first = den[min(den)]
            if first != 1:
                factor = Fraction(1) / first
                num = {m: simplest(c * factor) for m, c in num.items()}
                den = {m: simplest(c * factor) for m, c in den.items()}
            if num == den:
                return 1
    if den is ONE and len(num) == 1 and () in num:
        return bounded(num[()])
    return Rat(num, den)


def add(a: Value, b: Value, work: Work, sign: int = 1) -> Value:
    if a.__class__ is int and b.__class__ is int:
        return bounded(a + sign * b)
    if not isinstance(a, Rat) and not isinstance(b, Rat):
        return bounded(a + sign * b)
    na, da = (a.num, a.den) if isinstance(a, Rat) else (poly_of(a), ONE)
    nb, db = (b.num, b.den) if isinstance(b, Rat) else (poly_of(b), ONE)
    if da is db or da == db:
        return lower(poly_add(na, nb, sign), da)
    return lower(poly_add(poly_mul(na, db, work), poly_mul(nb, da, work), sign), poly_mul(da, db, work))


def mul(a: Value, b: Value, work: Work) -> Value:
    if not isinstance(a, Rat) and not isinstance(b, Rat):
        return bounded(a * b)
    if not isinstance(a, Rat):
        a, b = b, a
    assert isinstance(a, Rat)
    if not isinstance(b, Rat):
        if not b:
            return 0
        return Rat({m: bounded(c * b) for m, c in a.num.items()}, a.den)
    num = poly_mul(a.num, b.num, work)
    return lower(num, ONE if a.den is ONE and b.den is ONE else poly_mul(a.den, b.den, work))


def inverse(a: Value) -> Value:
    if isinstance(a, Rat):
        return lower(a.den, a.num)
    if not a:
        raise Undefined("division by zero")
    return simplest(Fraction(1) / a)


def int_power(base: Value, exponent: int, work: Work) -> Value:
    """base ** exponent by repeated squaring, refused where the result would be too large to write out."""
    if exponent < 0:
        base, exponent = inverse(base), -exponent
    if not isinstance(base, Rat):
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if exponent > 1 and abs(base) != 1 and base and (exponent > MAX_BITS or size * exponent > 2 * MAX_BITS):
            raise TooLarge(f"a power of more than {MAX_BITS} bits")
        if base in (0, 1, -1):
            return 1 if not exponent else (base if base != -1 or exponent & 1 else 1)
        return bounded(base**exponent)
    if len(base.num) == 1 and base.den is ONE:
        ((mono, coef),) = base.num.items()
        factor = int_power(coef, exponent, work)
        assert not isinstance(factor, Rat)
        raised, unit = reduce_monomial([(g, e * exponent) for g, e in mono])
        single: Poly = {raised: bounded(factor * unit)}
        return lower(expand(single) if any(isinstance(g, Atom) for g, _ in mono) else single)
    if exponent > 2 * MAX_POLY_TERMS:
        raise TooLarge(f"the {exponent}th power of a sum")
    result: Value = 1
    square: Value = base
    while exponent:
        if exponent & 1:
            result = mul(result, square, work)
        exponent >>= 1
        if exponent:
            square = mul(square, square, work)
    return result


def independent(*values: Value) -> bool:
    """Whether different forms of these values prove different values.

    True for symbols, i, roots of primes and at most one of the transcendental constants: π, or powers of e, or the
    logarithm of a prime.
    """
    names = {g for v in values if isinstance(v, Rat) for p in (v.num, v.den) for m in p for g, _ in m}
    transcendental = 0
    for name in names:
        if name[0].isdigit() or name == "i":
            continue
        if isinstance(name, Atom) or not name.isidentifier():
            if name == "e^[1]" or (name.startswith("log[") and name[4:-1].isdigit()):
                transcendental += 1
            else:
                return False
        elif name == "pi":
            transcendental += 1
    return transcendental <= 1


def equal(a: Value, b: Value) -> bool:
    """Whether the two are the same rational function."""
    if not isinstance(a, Rat) and not isinstance(b, Rat):
        return a == b
    na, da = (a.num, a.den) if isinstance(a, Rat) else (poly_of(a), ONE)
    nb, db = (b.num, b.den) if isinstance(b, Rat) else (poly_of(b), ONE)
    if da is db or da == db:
        return na == nb
    work = Work()
    return poly_mul(na, db, work) == poly_mul(nb, da, work)


def show(value: Value) -> str:
    """Canonical text: equal forms with denominator 1 have equal texts."""
    if not isinstance(value, Rat):
        return show_exact(value)
    num = show_poly(value.num)
    return num if value.den is ONE else f"({num})/({show_poly(value.den)})"

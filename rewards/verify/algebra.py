"""Exact arithmetic on rational functions in generators: symbols, π, i, roots of primes, opaque functions.

A number is an `int` or a `Fraction` while it is rational; otherwise a `Rat`, a quotient of two polynomials. A
polynomial is a dict from monomial to coefficient; a monomial is a sorted tuple of (generator, exponent). A prime
number is the generator named by its digits, with an exponent strictly between 0 and 1: products of such roots are
linearly independent over the rationals (Besicovitch 1940), so a sum of real surds has one form only. Equal forms
mean equal values. Different forms mean different values where all generators are independent (`independent`).
"""

from __future__ import annotations

from fractions import Fraction
from math import gcd
from typing import TypeAlias

from .tree import MAX_BITS, MAX_POLY_TERMS, MAX_WORK, TooLarge, Undefined

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


class Rat:
    """num / den, den not zero; den's first coefficient is 1, and den is 1 where it has one term."""

    __slots__ = ("den", "num")

    def __init__(self, num: Poly, den: Poly) -> None:
        self.num = num
        self.den = den


Value: TypeAlias = int | Fraction | Rat


def simplest(value: Fraction) -> Exact:
    return value.numerator if value.denominator == 1 else value


def bounded(value: Exact) -> Exact:
    if value.__class__ is int:
        if -(1 << 63) < value < 1 << 63 or value.bit_length() <= MAX_BITS:  # type: ignore[union-attr]
            return value
    elif value.numerator.bit_length() + value.denominator.bit_length() <= MAX_BITS:
        return value.numerator if value.denominator == 1 else value
    raise TooLarge(f"a number of more than {MAX_BITS} bits")


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
                num = _scaled(num, tuple((g, 1 - e) for g, e in roots), 1)
                work = Work()
                below: Poly = {mono: coef}
                for g, _ in roots:
                    below = poly_mul(below, g.poly, work)  # type: ignore[attr-defined]
                return lower(expand(num, work), below)
            inverse = tuple((g, -e) for g, e in mono)
            num = _scaled(num, inverse, Fraction(1) / coef)
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
        return bounded(a + sign * b)  # type: ignore[operator]
    if not isinstance(a, Rat) and not isinstance(b, Rat):
        return bounded(a + sign * b)
    na, da = (a.num, a.den) if isinstance(a, Rat) else ({(): a} if a else {}, ONE)
    nb, db = (b.num, b.den) if isinstance(b, Rat) else ({(): b} if b else {}, ONE)
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
        result = {raised: bounded(factor * unit)}
        return lower(expand(result) if any(isinstance(g, Atom) for g, _ in mono) else result)
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
        elif name.startswith("abs(") and exponent.__class__ is int and not exponent & 1 and name[4:-1].isidentifier():
            # |x|² = x² for real x.
            kept.append((name[4:-1], exponent))
            continue
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
        total = poly_add(total, _scaled(term, tuple(rest), 1))
    return total if again else poly


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


def content(poly: Poly) -> Exact:
    """The positive rational that divides all coefficients and leaves whole ones without a common divisor."""
    numerator, denominator = 0, 1
    for coef in poly.values():
        numerator = gcd(numerator, coef.numerator)
        denominator = denominator * coef.denominator // gcd(denominator, coef.denominator)
    return simplest(Fraction(numerator, denominator))


def show(value: Value) -> str:
    """Canonical text: equal forms with denominator 1 have equal texts."""
    if not isinstance(value, Rat):
        return show_exact(value)
    num = show_poly(value.num)
    return num if value.den is ONE else f"({num})/({show_poly(value.den)})"


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


def _scaled(poly: Poly, mono: Monomial, coef: Exact) -> Poly:
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

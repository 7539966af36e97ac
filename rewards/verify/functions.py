"""Exact values of logarithms, trigonometry, factorials and absolute values.

sin, cos and their kin become powers of e^{ix}, so every identity between them holds by multiplying out; logarithms
become sums of logarithms of primes and symbols (which are positive there: ln(x²) is 2 ln x).
"""

from __future__ import annotations

from fractions import Fraction
from math import comb, factorial

from .algebra import Rat, Value, Work, add, generator, int_power, inverse, lower, mul, show
from .polynomial import ONE, Exact, Poly, content, magnitude, reduce_monomial, show_poly, simplest
from .powers import HALF, I, exponential, factors, fractional_power, surd
from .tree import MAX_FACTORIAL, TooLarge, Undefined

PI = generator("pi")


def logarithm(value: Value, work: Work) -> Value:
    """The natural logarithm."""
    if not isinstance(value, Rat):
        if value == 0:
            raise Undefined("the logarithm of zero")
        total: Value = mul(I, PI, work) if value < 0 else 0
        for n, sign in ((abs(value.numerator), 1), (value.denominator, -1)):
            if n != 1:
                for prime, times in factors(n).items():
                    total = add(total, Rat({((f"log[{prime}]", 1),): sign * times}, ONE), work)
        return total
    if value.den is not ONE:
        return add(logarithm(Rat(value.num, ONE), work), logarithm(lower(value.den), work), work, -1)
    if len(value.num) == 1:
        ((mono, coef),) = value.num.items()
        total = logarithm(coef, work)
        for name, exponent in mono:
            if name == "e^[1]":
                term: Value = exponent
            elif name.startswith("e^[") and name[3:-1].isidentifier():
                term = Rat({((name[3:-1], 1),): exponent}, ONE)
            elif name == "i":
                term = mul(mul(I, PI, work), Fraction(exponent) / 2, work)
            else:
                term = Rat({((f"log[{name}]", 1),): exponent}, ONE)
            total = add(total, term, work)
        return total
    factor = content(value.num)
    inner = show_poly({m: simplest(Fraction(c) / factor) for m, c in value.num.items()})
    return add(logarithm(factor, work), generator(f"log[({inner})]"), work)


def trigonometric(name: str, x: Value, work: Work) -> Value:
    """sin, cos, tan, cot, sec, csc of x and, with x → ix, their hyperbolic kin, by Euler's formula."""
    hyperbolic = name[-1] == "h"
    name = name[:-1] if hyperbolic else name
    up = exponential(x if hyperbolic else mul(x, I, work), work)
    down = exponential(mul(x, -1, work) if hyperbolic else mul(mul(x, I, work), -1, work), work)
    sine = mul(add(up, down, work, -1), HALF if hyperbolic else mul(I, -HALF, work), work)
    cosine = mul(add(up, down, work), HALF, work)
    if name == "sin":
        return sine
    if name == "cos":
        return cosine
    if name == "tan":
        return mul(sine, inverse(cosine), work)
    if name == "cot":
        return mul(cosine, inverse(sine), work)
    return inverse(cosine if name == "sec" else sine)


def _inverse_table() -> dict[str, dict[str, Fraction]]:
    work = Work()
    half3, half2 = mul(surd(3, HALF), HALF, work), surd(2, -HALF)
    tangents: dict[Value, Fraction] = {1: Fraction(1, 4), surd(3, HALF): Fraction(1, 3), surd(3, -HALF): Fraction(1, 6)}
    sines: dict[Value, Fraction] = {
        1: Fraction(1, 2),
        HALF: Fraction(1, 6),
        half2: Fraction(1, 4),
        half3: Fraction(1, 3),
    }
    table = {
        name: {show(v): q for v, q in values.items()} for name, values in (("arcsin", sines), ("arctan", tangents))
    }
    two = add(2, surd(3, HALF), work), add(2, surd(3, HALF), work, -1)
    table["arctan"] |= {show(two[0]): Fraction(5, 12), show(two[1]): Fraction(1, 12)}
    return table


_INVERSE = _inverse_table()


def inverse_trigonometric(name: str, x: Value, work: Work) -> Value:
    """Principal values; arccos, arccot, arcsec and arccsc by way of arcsin and arctan."""
    if name in ("arcsec", "arccsc"):
        x, name = inverse(x), "arccos" if name == "arcsec" else "arcsin"
    if name in ("arccos", "arccot"):
        other = inverse_trigonometric("arcsin" if name == "arccos" else "arctan", x, work)
        return add(mul(PI, HALF, work), other, work, -1)
    if x == 0:
        return 0
    negative = (x.num[min(x.num)] if isinstance(x, Rat) else x) < 0
    if negative:
        x = mul(x, -1, work)
    shown = show(x)
    angle = _INVERSE.get(name, {}).get(shown)
    value = generator(f"{name}({shown})") if angle is None else mul(PI, angle, work)
    return mul(value, -1, work) if negative else value


def factorial_of(x: Value, work: Work) -> Value:
    """x!, and (n+k)! as n! times what comes after it."""
    if not isinstance(x, Rat):
        if x.__class__ is not int or x < 0:
            raise Undefined(f"the factorial of {x}")
        if x > MAX_FACTORIAL:
            raise TooLarge(f"the factorial of {x}")
        return factorial(x)
    if x.den is not ONE:
        return generator(f"fact({show(x)})")
    constant = x.num.get((), 0)
    if constant.__class__ is not int or abs(constant) > 20:
        return generator(f"fact({show(x)})")
    rest = Rat({m: c for m, c in x.num.items() if m}, ONE)
    result: Value = generator(f"fact({show(rest)})")
    for k in range(1, constant + 1):
        result = mul(result, add(rest, k, work), work)
    for k in range(-constant):
        result = mul(result, inverse(add(rest, k, work, -1)), work)
    return result


def binomial(n: Value, k: Value, work: Work) -> Value:
    if n.__class__ is int and k.__class__ is int:
        if not 0 <= k <= n:
            return 0 if n >= 0 else _raise_undefined()
        if min(k, n - k) * n.bit_length() > 8000:
            raise TooLarge(f"the binomial coefficient of {n} and {k}")
        return comb(n, k)
    below = mul(factorial_of(k, work), factorial_of(add(n, k, work, -1), work), work)
    return mul(factorial_of(n, work), inverse(below), work)


def _raise_undefined() -> int:
    raise Undefined("a binomial coefficient of a negative number")


def absolute(x: Rat, sign: int, work: Work) -> Value:
    """|x|. sign: that of a constant whose sign is known, else 0."""
    if sign:
        return mul(x, sign, work)
    if x.den is not ONE:
        above, below = absolute(Rat(x.num, ONE), 0, work), absolute(Rat(x.den, ONE), 0, work)
        return mul(above, inverse(below), work)
    if len(x.num) == 1:
        ((mono, coef),) = x.num.items()
        powers = []
        for name, e in mono:
            positive = name[0].isdigit() or name == "pi" or (isinstance(e, int) and not e & 1)
            powers.append((name if positive or name.startswith("abs(") else f"abs({name})", e))
        raised, unit = reduce_monomial(powers)
        return lower({raised: magnitude(coef) * unit})
    factor: Exact = content(x.num) * (1 if x.num[min(x.num)] > 0 else -1)
    inner: Poly = {m: simplest(Fraction(c) / factor) for m, c in x.num.items()}
    return Rat({((f"abs({show_poly(inner)})", 1),): magnitude(factor)}, ONE)


def modulus(x: Rat, work: Work) -> Value | None:
    """|a + bi| of a constant in roots of primes and π, None where x is something else."""
    real: Poly = {}
    imaginary: Poly = {}
    for mono, coef in x.num.items():
        rest = tuple(f for f in mono if f[0] != "i")
        if not all(name[0].isdigit() or name == "pi" for name, _ in rest) or x.den is not ONE:
            return None
        (imaginary if len(rest) < len(mono) else real)[rest] = coef
    squares = add(int_power(lower(real), 2, work), int_power(lower(imaginary), 2, work), work)
    return fractional_power(squares, HALF, work)

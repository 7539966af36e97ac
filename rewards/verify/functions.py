"""Exact values of functions: roots, powers, exponentials, logarithms, trigonometry, factorials.

sin, cos and their kin become powers of e^{ix}, so every identity between them holds by multiplying out; logarithms
become sums of logarithms of primes and symbols. Symbols are real numbers and, under logarithms and fractional
powers, positive ones: ln(x²) is 2 ln x, but √(x²) is |x|.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb, factorial

from .algebra import (
    ONE,
    Atom,
    Exact,
    Monomial,
    Poly,
    Rat,
    Value,
    Work,
    add,
    content,
    generator,
    int_power,
    inverse,
    lower,
    mul,
    reduce_monomial,
    show,
    show_poly,
    simplest,
)  # fmt: skip
from .tree import MAX_FACTORIAL, TooLarge, Undefined

I = generator("i")  # noqa: E741 - the imaginary unit
PI = generator("pi")
_HALF = Fraction(1, 2)
_I_PI: Monomial = (("i", 1), ("pi", 1))
_SMALL_PRIMES = [p for p in range(2, 1000) if all(p % d for d in range(2, int(p**0.5) + 1))]


def factors(n: int) -> dict[str, int]:
    """n > 0 as generators: primes below 1,000, and what is left as one more (its root if it is a perfect power)."""
    found: dict[str, int] = {}
    for p in _SMALL_PRIMES:
        if p * p > n:
            break
        while not n % p:
            n //= p
            found[str(p)] = found.get(str(p), 0) + 1
    if n > 1:
        if n.bit_length() > 400:
            raise TooLarge("the prime factors of a number of more than 400 bits")
        power = 1
        if n > 10**6:
            for k in (7, 5, 3, 2):
                root = _integer_root(n, k)
                while root:
                    n, power = root, power * k
                    root = _integer_root(n, k)
        found[str(n)] = found.get(str(n), 0) + power
    return found


def _integer_root(n: int, k: int) -> int:
    low = 1 << ((n.bit_length() - 1) // k)
    high = low << 1
    while low <= high:
        middle = (low + high) // 2
        power = middle**k
        if power == n:
            return middle
        if power < n:
            low = middle + 1
        else:
            high = middle - 1
    return 0


def surd(base: Exact, exponent: Fraction) -> Value:
    """A positive rational to a rational power."""
    powers = [(p, e * exponent) for p, e in factors(base.numerator).items()] if base.numerator != 1 else []
    if base.denominator != 1:
        powers += [(p, -e * exponent) for p, e in factors(base.denominator).items()]
    mono, unit = reduce_monomial(powers)
    return lower({mono: unit})


def power(base: Value, exponent: Value, work: Work) -> Value:
    if exponent.__class__ is int:
        return int_power(base, exponent, work)
    if exponent.__class__ is Fraction:
        return _fractional_power(base, exponent, work)
    assert isinstance(exponent, Rat)
    return _symbolic_power(base, exponent, work)


def _fractional_power(base: Value, r: Fraction, work: Work) -> Value:
    if not isinstance(base, Rat):
        if base > 0:
            return surd(base, r)
        if base == 0:
            if r < 0:
                raise Undefined("division by zero")
            return 0
        return mul(_minus_one_power(r), surd(-base, r), work)
    if base.den is not ONE:
        below = _fractional_power(lower(base.den), r, work)
        return mul(_fractional_power(Rat(base.num, ONE), r, work), inverse(below), work)
    if len(base.num) == 1:
        ((mono, coef),) = base.num.items()
        powers = []
        for name, e in mono:
            if e.__class__ is int and not e & 1 and (e * r) % 2 and name.isidentifier() and name != "pi":
                name = f"abs({name})"  # √(x²) = |x|
            powers.append((name, e * r))
        raised, unit = reduce_monomial(powers)
        return mul(_fractional_power(coef, r, work), lower({raised: unit}), work)
    factor = content(base.num)
    inner: Poly = {m: simplest(Fraction(c) / factor) for m, c in base.num.items()}
    if r.denominator == 2:
        denested = _denested(inner, work)
        if denested is not None:
            return mul(_fractional_power(factor, r, work), int_power(denested, r.numerator, work), work)
    whole = r // 1
    atom = Atom(f"({show_poly(inner)})")
    atom.poly = inner
    root = Rat({((atom, r - whole),): 1}, ONE)
    result = mul(_fractional_power(factor, r, work), root, work)
    return mul(result, int_power(Rat(inner, ONE), int(whole), work), work) if whole else result


def _minus_one_power(r: Fraction) -> Value:
    """(-1)^r: real where the root is odd (the cube root of -8 is -2), on the unit circle where it is even."""
    if r.denominator & 1:
        return -1 if r.numerator & 1 else 1
    return unit_circle(r)


def _denested(poly: Poly, work: Work) -> Value | None:
    """√(a + b√c) = √((a+d)/2) ± √((a−d)/2) where d² = a² − b²c is a rational square."""
    if len(poly) != 2 or () not in poly:
        return None
    a = poly[()]
    ((mono, b),) = ((m, c) for m, c in poly.items() if m)
    if a < 0 or not all(name[0].isdigit() and e == _HALF for name, e in mono):
        return None
    c = 1
    for name, _ in mono:
        c *= int(name)
    square = Fraction(a) ** 2 - Fraction(b) ** 2 * c
    if square < 0:
        return None
    d = surd(square, _HALF) if square else 0
    if isinstance(d, Rat):
        return None
    first, second = surd(simplest((a + Fraction(d)) / 2), _HALF), (a - Fraction(d)) / 2
    return add(first, surd(simplest(second), _HALF) if second else 0, work, 1 if b > 0 else -1)


def _symbolic_power(base: Value, exponent: Rat, work: Work) -> Value:
    if isinstance(base, Rat) and base.num == {(("e^[1]", 1),): 1} and base.den is ONE:
        return exponential(exponent, work)
    if base == 0 or base == 1:
        return base
    if exponent.den is not ONE:
        return generator(f"pow[{show(base)},{show(exponent)}]")
    if isinstance(base, Rat) and base.den is not ONE:
        above = _symbolic_power(Rat(base.num, ONE), exponent, work)
        return mul(above, inverse(_symbolic_power(lower(base.den), exponent, work)), work)
    bases: list[tuple[str, Exact]] = []
    if not isinstance(base, Rat):
        bases += [(p, e) for p, e in factors(abs(base.numerator)).items()] if abs(base.numerator) != 1 else []
        bases += [(p, -e) for p, e in factors(base.denominator).items()] if base.denominator != 1 else []
        if base < 0:
            bases.append(("-1", 1))
    elif len(base.num) == 1:
        ((mono, coef),) = base.num.items()
        bases += [(str(g), e) for g, e in mono]
        if coef != 1:
            return mul(
                _symbolic_power(coef, exponent, work), _symbolic_power(Rat({mono: 1}, ONE), exponent, work), work
            )
    else:
        bases.append((f"({show(base)})", 1))
    powers = []
    result: Value = 1
    for mono, coef in exponent.num.items():
        if not mono:
            result = power(base, coef, work)
            continue
        shown = show_poly({mono: 1})
        powers += [(f"pow[{b},{shown}]", e * coef) for b, e in bases]
    raised, unit = reduce_monomial(powers)
    return mul(result, Rat({raised: unit}, ONE), work)


def exponential(value: Value, work: Work) -> Value:
    """e^value."""
    if not isinstance(value, Rat):
        return generator("e^[1]", value) if value else 1
    if value.den is not ONE:
        return generator(f"e^[{show(value)}]")
    result: Value = 1
    powers: list[tuple[str, Exact]] = []
    for mono, coef in value.num.items():
        if not mono:
            powers.append(("e^[1]", coef))
        elif mono == _I_PI:
            result = mul(result, unit_circle(coef), work)
        elif len(mono) == 1 and mono[0][1] == 1 and mono[0][0].startswith("log["):
            inner = mono[0][0][4:-1]
            if inner.isdigit():
                result = mul(result, power(int(inner), coef, work), work)
            elif inner.isidentifier():
                powers.append((inner, coef))
            else:
                powers.append((f"e^[{mono[0][0]}]", coef))
        else:
            powers.append((f"e^[{show_poly({mono: 1})}]", coef))
    raised, unit = reduce_monomial(powers)
    return mul(result, lower({raised: unit}), work)


def _circle_table() -> dict[Fraction, Value]:
    def point(cosine: Value, sine: Value) -> Value:
        return add(cosine, mul(sine, I, Work()), Work())

    root2, root3 = surd(2, -_HALF), mul(surd(3, _HALF), _HALF, Work())
    first: dict[Fraction, Value] = {
        Fraction(0): 1, Fraction(1, 6): point(root3, _HALF), Fraction(1, 4): point(root2, root2),
        Fraction(1, 3): point(_HALF, root3),
    }  # fmt: skip
    first[Fraction(1, 12)] = mul(first[Fraction(1, 3)], point(root2, mul(root2, -1, Work())), Work())
    first[Fraction(5, 12)] = mul(first[Fraction(1, 4)], first[Fraction(1, 6)], Work())
    turn: Value = 1
    table: dict[Fraction, Value] = {}
    for quarter in range(4):
        for angle, value in first.items():
            table[angle + Fraction(quarter, 2)] = mul(value, turn, Work())
        turn = mul(turn, I, Work())
    return table


_CIRCLE = _circle_table()


def unit_circle(q: Exact) -> Value:
    """e^{iπq}: exact for multiples of π/12, else a generator."""
    q = Fraction(q) % 2
    value = _CIRCLE.get(q)
    if value is not None:
        return value
    mono, unit = reduce_monomial([("e^[i*pi]", q)])
    return Rat({mono: unit}, ONE)


def logarithm(value: Value, work: Work) -> Value:
    """The natural logarithm."""
    if not isinstance(value, Rat):
        if value == 0:
            raise Undefined("the logarithm of zero")
        total: Value = mul(I, PI, work) if value < 0 else 0
        for n, sign in ((abs(value.numerator), 1), (value.denominator, -1)):
            if n != 1:
                for prime, exponent in factors(n).items():
                    total = add(total, Rat({((f"log[{prime}]", 1),): sign * exponent}, ONE), work)
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
    sine = mul(add(up, down, work, -1), _HALF if hyperbolic else mul(I, -_HALF, work), work)
    cosine = mul(add(up, down, work), _HALF, work)
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
    half3, half2 = mul(surd(3, _HALF), _HALF, work), surd(2, -_HALF)
    tangents = {1: Fraction(1, 4), surd(3, _HALF): Fraction(1, 3), surd(3, -_HALF): Fraction(1, 6)}
    sines = {1: Fraction(1, 2), _HALF: Fraction(1, 6), half2: Fraction(1, 4), half3: Fraction(1, 3)}
    table = {
        name: {show(v): q for v, q in values.items()} for name, values in (("arcsin", sines), ("arctan", tangents))
    }
    two = add(2, surd(3, _HALF), work), add(2, surd(3, _HALF), work, -1)
    table["arctan"] |= {show(two[0]): Fraction(5, 12), show(two[1]): Fraction(1, 12)}
    return table


_INVERSE = _inverse_table()


def inverse_trigonometric(name: str, x: Value, work: Work) -> Value:
    """Principal values; arccos, arccot, arcsec and arccsc by way of arcsin and arctan."""
    if name in ("arcsec", "arccsc"):
        x, name = inverse(x), "arccos" if name == "arcsec" else "arcsin"
    if name in ("arccos", "arccot"):
        other = inverse_trigonometric("arcsin" if name == "arccos" else "arctan", x, work)
        return add(mul(PI, _HALF, work), other, work, -1)
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
        below = lower(x.den)
        return mul(
            absolute(Rat(x.num, ONE), 0, work),
            inverse(absolute(below, 0, work) if isinstance(below, Rat) else abs(below)),
            work,
        )
    if len(x.num) == 1:
        ((mono, coef),) = x.num.items()
        powers = []
        for name, e in mono:
            positive = name[0].isdigit() or name == "pi" or (e.__class__ is int and not e & 1)
            powers.append((name if positive or name.startswith("abs(") else f"abs({name})", e))
        raised, unit = reduce_monomial(powers)
        return lower({raised: abs(coef) * unit})
    factor = content(x.num) * (1 if x.num[min(x.num)] > 0 else -1)
    inner = {m: simplest(Fraction(c) / factor) for m, c in x.num.items()}
    return Rat({((f"abs({show_poly(inner)})", 1),): abs(factor)}, ONE)


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
    return _fractional_power(squares, _HALF, work)

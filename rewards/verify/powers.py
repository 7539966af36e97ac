"""Exact roots, powers and exponentials.

Symbols are real numbers and, under fractional powers of products, positive ones; √(x²) is |x|, and the odd root of
a negative number is the real one.
"""

from __future__ import annotations

from fractions import Fraction

from .algebra import Rat, Value, Work, add, generator, int_power, inverse, lower, mul, show
from .polynomial import (
    ONE,
    Atom,
    Exact,
    Monomial,
    Poly,
    content,
    reduce_monomial,
    show_poly,
    simplest,
)  # fmt: skip
from .tree import TooLarge, Undefined

I = generator("i")  # noqa: E741 - the imaginary unit
HALF = Fraction(1, 2)
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
        return fractional_power(base, exponent, work)
    assert isinstance(exponent, Rat)
    return _symbolic_power(base, exponent, work)


def fractional_power(base: Value, r: Fraction, work: Work) -> Value:
    if not isinstance(base, Rat):
        if base > 0:
            return surd(base, r)
        if base == 0:
            if r < 0:
                raise Undefined("division by zero")
            return 0
        return mul(_minus_one_power(r), surd(-base, r), work)
    if base.den is not ONE:
        below = fractional_power(lower(base.den), r, work)
        return mul(fractional_power(Rat(base.num, ONE), r, work), inverse(below), work)
    if len(base.num) == 1:
        ((mono, coef),) = base.num.items()
        powers = []
        for name, e in mono:
            if e.__class__ is int and not e & 1 and (e * r) % 2 and name.isidentifier() and name != "pi":
                name = f"abs({name})"  # √(x²) = |x|
            powers.append((name, e * r))
        raised, unit = reduce_monomial(powers)
        return mul(fractional_power(coef, r, work), lower({raised: unit}), work)
    factor = content(base.num)
    inner: Poly = {m: simplest(Fraction(c) / factor) for m, c in base.num.items()}
    if r.denominator == 2:
        denested = _denested(inner, work)
        if denested is not None:
            return mul(fractional_power(factor, r, work), int_power(denested, r.numerator, work), work)
    whole = r // 1
    atom = Atom(f"({show_poly(inner)})")
    atom.poly = inner
    root = Rat({((atom, r - whole),): 1}, ONE)
    result = mul(fractional_power(factor, r, work), root, work)
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
    if a < 0 or not all(name[0].isdigit() and e == HALF for name, e in mono):
        return None
    c = 1
    for name, _ in mono:
        c *= int(name)
    square = Fraction(a) ** 2 - Fraction(b) ** 2 * c
    if square < 0:
        return None
    d = surd(square, HALF) if square else 0
    if isinstance(d, Rat):
        return None
    first, second = surd(simplest((a + Fraction(d)) / 2), HALF), (a - Fraction(d)) / 2
    return add(first, surd(simplest(second), HALF) if second else 0, work, 1 if b > 0 else -1)


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

    root2, root3 = surd(2, -HALF), mul(surd(3, HALF), HALF, Work())
    first: dict[Fraction, Value] = {
        Fraction(0): 1, Fraction(1, 6): point(root3, HALF), Fraction(1, 4): point(root2, root2),
        Fraction(1, 3): point(HALF, root3),
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

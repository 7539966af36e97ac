"""Sets of real numbers as unions of intervals with exact ends."""

from __future__ import annotations

import math
from typing import NamedTuple

from . import numeric
from .algebra import Rat, Value, add, equal, inverse, mul, show
from .evaluate import Evaluator
from .polynomial import ONE, Poly, Work, magnitude
from .tree import Node, ParseError, Sym


class End(NamedTuple):
    """An end of an interval: where it stands on the line, and its exact value (None for ±∞)."""

    place: float
    value: Value | None


class Interval(NamedTuple):
    low: End
    low_closed: bool
    high: End
    high_closed: bool


_ZERO = End(0.0, 0)


def end(node: Node, evaluator: Evaluator) -> End:
    place = numeric.real(node)
    if place is None:
        raise ParseError("an interval whose end is no real number")
    if math.isinf(place):
        return End(place, None)
    return End(place, evaluator.value(node))


def same(a: End, b: End) -> bool:
    if a.value is None or b.value is None:
        return a.place == b.place
    return abs(a.place - b.place) <= 1e-6 * max(1.0, abs(a.place)) and equal(a.value, b.value)


def from_brackets(
    ends: tuple[Node, ...], low_closed: bool, high_closed: bool, evaluator: Evaluator
) -> tuple[Interval, ...]:
    """ParseError where the ends are no real numbers or stand in the wrong order."""
    a, b = (end(node, evaluator) for node in ends)
    if same(a, b):
        return (Interval(a, True, b, True),) if low_closed and high_closed and a.value is not None else ()
    if a.place > b.place:
        raise ParseError("an interval whose ends stand in the wrong order")
    return (Interval(a, low_closed and a.value is not None, b, high_closed and b.value is not None),)


def from_relation(parts: tuple[Node, ...], evaluator: Evaluator) -> tuple[str, tuple[Interval, ...]] | None:
    """a < x <= b, x > a, 2x < 6, x != a as (variable, intervals); None where it is no condition on one variable."""
    operators = [p.name for p in parts[1::2] if isinstance(p, Sym)]
    region: tuple[Interval, ...] = (_line(),)
    variable = ""
    for left, op, right in zip(parts[::2], operators, parts[2::2], strict=False):
        found = _half_line(left, op, right, evaluator)
        if found is None or (variable and found[0] != variable):
            return None
        variable, condition = found
        region = intersection(region, condition)
    if variable.startswith("abs(") and variable[4:-1].isidentifier():
        positive = intersection(region, (Interval(_ZERO, True, End(math.inf, None), False),))
        return variable[4:-1], union(positive, tuple(map(_mirrored, positive)))
    return variable, region


def _mirrored(interval: Interval) -> Interval:
    low, high = _negative(interval.low), _negative(interval.high)
    return Interval(high, interval.high_closed, low, interval.low_closed)


def _negative(place: End) -> End:
    return End(-place.place, None if place.value is None else mul(place.value, -1, Work()))


def _half_line(left: Node, op: str, right: Node, evaluator: Evaluator) -> tuple[str, tuple[Interval, ...]] | None:
    """left op right, linear in one symbol with constant coefficients, solved for it."""
    if math.inf in (abs(numeric.real(left) or 0), abs(numeric.real(right) or 0)):
        variable = left if isinstance(left, Sym) and left.name != "inf" else right
        # -∞ < x says nothing about x.
        return (variable.name, (_line(),)) if isinstance(variable, Sym) else None
    difference = add(evaluator.value(left), evaluator.value(right), evaluator.work, -1)
    if not isinstance(difference, Rat) or difference.den is not ONE:
        return None
    names = {g for mono in difference.num for g, _ in mono}
    # f(x) and |z| are unknowns as x is.
    free = [n for n in names if not n[0].isdigit() and n != "pi"]
    if len(free) != 1 or free[0] == "i" or "[" in free[0]:
        return None
    name = free[0]
    slope: Poly = {}
    rest: Poly = {}
    for mono, coef in difference.num.items():
        others = tuple(f for f in mono if f[0] != name)
        exponent = next((e for g, e in mono if g == name), 0)
        if exponent not in (0, 1):
            return None
        (slope if exponent else rest)[others] = coef
    slope_value = Rat(slope, ONE) if list(slope) != [()] else slope[()]
    rest_value: Value = (Rat(rest, ONE) if list(rest) != [()] else rest[()]) if rest else 0
    bound = mul(mul(rest_value, -1, evaluator.work), inverse(slope_value), evaluator.work)
    place, direction = _place(bound), _place(slope_value)
    if place is None or direction is None or direction == 0:
        return None
    limit = End(place, bound)
    if op == "!=":
        return name, (
            Interval(End(-math.inf, None), False, limit, False),
            Interval(limit, False, End(math.inf, None), False),
        )
    below = op.startswith("<") == (direction > 0)
    closed = op.endswith("=")
    if below:
        return name, (Interval(End(-math.inf, None), False, limit, closed),)
    return name, (Interval(limit, closed, End(math.inf, None), False),)


def _line() -> Interval:
    return Interval(End(-math.inf, None), False, End(math.inf, None), False)


def _place(value: Value) -> float | None:
    """The floating-point value of a sum of surds and powers of π."""
    if not isinstance(value, Rat):
        return float(value) if magnitude(value) < 10**300 else None
    total = 0.0
    for sign, poly in ((1, value.num), (-1, value.den)):
        part = 0.0
        for mono, coef in poly.items():
            term = float(coef)
            for name, exponent in mono:
                base = float(name) if name[0].isdigit() else math.pi if name == "pi" else math.nan
                term *= base ** float(exponent)
            part += term
        total = part if sign > 0 else (total / part if part else math.nan)
    return None if math.isnan(total) else total


def union(a: tuple[Interval, ...], b: tuple[Interval, ...]) -> tuple[Interval, ...]:
    merged: list[Interval] = []
    for item in sorted((*a, *b), key=lambda i: (i.low.place, not i.low_closed)):
        if merged:
            last = merged[-1]
            touching = same(last.high, item.low)
            if (touching and (last.high_closed or item.low_closed)) or (
                not touching and item.low.place < last.high.place
            ):
                merged[-1] = _join(last, item)
                continue
        merged.append(item)
    return tuple(merged)


def _join(first: Interval, second: Interval) -> Interval:
    low_closed = first.low_closed or (same(first.low, second.low) and second.low_closed)
    if same(first.high, second.high):
        return Interval(first.low, low_closed, first.high, first.high_closed or second.high_closed)
    last = first if first.high.place > second.high.place else second
    return Interval(first.low, low_closed, last.high, last.high_closed)


def intersection(a: tuple[Interval, ...], b: tuple[Interval, ...]) -> tuple[Interval, ...]:
    found: list[Interval] = []
    for x in a:
        for y in b:
            low, low_closed = _tighter(x.low, x.low_closed, y.low, y.low_closed, 1)
            high, high_closed = _tighter(x.high, x.high_closed, y.high, y.high_closed, -1)
            if same(low, high):
                if low_closed and high_closed:
                    found.append(Interval(low, True, high, True))
            elif low.place < high.place:
                found.append(Interval(low, low_closed, high, high_closed))
    return union(tuple(found), ())


def _tighter(a: End, a_closed: bool, b: End, b_closed: bool, sign: int) -> tuple[End, bool]:
    if same(a, b):
        return a, a_closed and b_closed
    return (a, a_closed) if sign * a.place > sign * b.place else (b, b_closed)


def subtract(a: tuple[Interval, ...], b: tuple[Interval, ...]) -> tuple[Interval, ...]:
    rest: tuple[Interval, ...] = (_line(),)
    for item in b:
        outside = []
        if item.low.value is not None:
            outside.append(Interval(End(-math.inf, None), False, item.low, not item.low_closed))
        if item.high.value is not None:
            outside.append(Interval(item.high, not item.high_closed, End(math.inf, None), False))
        rest = intersection(rest, tuple(outside))
    return intersection(a, rest)


def equal_regions(a: tuple[Interval, ...], b: tuple[Interval, ...]) -> bool:
    return len(a) == len(b) and all(
        x.low_closed == y.low_closed and x.high_closed == y.high_closed and same(x.low, y.low) and same(x.high, y.high)
        for x, y in zip(a, b, strict=True)
    )


def show_region(parts: tuple[Interval, ...]) -> str:
    if not parts:
        return "∅"
    shown = []
    for p in parts:
        low = "-∞" if p.low.value is None else show(p.low.value)
        high = "∞" if p.high.value is None else show(p.high.value)
        if low == high:
            shown.append(f"{{{low}}}")
        else:
            shown.append(f"{'[' if p.low_closed else '('}{low}, {high}{']' if p.high_closed else ')'}")
    return " ∪ ".join(shown)

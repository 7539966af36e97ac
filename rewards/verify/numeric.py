"""Floating-point values of a tree: they can refute that two expressions are equal, never prove it."""

from __future__ import annotations

import cmath
import math
from typing import Any
from zlib import crc32

from .tree import Node, Num, Op, Sym

_INVERSE = {
    "arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan, "arcsinh": cmath.asinh, "arccosh": cmath.acosh,
    "arctanh": cmath.atanh, "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "sinh": cmath.sinh,
    "cosh": cmath.cosh, "tanh": cmath.tanh, "exp": cmath.exp, "ln": cmath.log, "log": cmath.log,
    "lg": cmath.log10, "sqrt": cmath.sqrt,
}  # fmt: skip
_RECIPROCAL = {"cot": cmath.tan, "sec": cmath.cos, "csc": cmath.sin, "coth": cmath.tanh}
_RECIPROCAL_ARGUMENT = {"arccsc": cmath.asin, "arcsec": cmath.acos}
_CONSTANTS = {"pi": math.pi, "e": math.e, "i": 1j, "inf": math.inf}


def evaluate(node: Node, point: int | None = None, log10: bool = False, bound: dict | None = None) -> complex | None:
    """The value at a sample point, None where it has none. 0 to 2: each symbol a number from 0.5 to 2.5; 3: negatives.

    point None: only constants have a value. log10: the base of a logarithm written without one.
    """
    try:
        value = complex(_value(node, point, log10, bound or {}))
    except (ArithmeticError, ValueError, TypeError, LookupError):
        return None
    return value if cmath.isfinite(value) else None


def real(node: Node) -> float | None:
    """A constant's value where it is a real number; ±inf for infinities."""
    if node == Sym("inf"):
        return math.inf
    if node.__class__ is Op and node.head == "neg" and node.args[0] == Sym("inf"):
        return -math.inf
    value = evaluate(node)
    if value is None or abs(value.imag) > 1e-9 * max(1.0, abs(value.real)):
        return None
    return value.real


def differ(a: Node, b: Node, log10: bool) -> bool | None:
    """True where values at sample points prove that a and b differ; False where they agree; None without values."""
    seen = 0
    for point in range(4):
        x, y = evaluate(a, point, log10), evaluate(b, point, log10)
        if point == 3 and (x is None or y is None or abs(x.imag) + abs(y.imag) > 1e-9):
            continue  # negative numbers count where both sides are real: |x| is not x
        if x is None or y is None:
            if (x is None) != (y is None):
                seen -= 1
            continue
        seen += 4
        if abs(x - y) > 1e-7 * max(abs(x), abs(y), 1e-7):
            return True
    if seen > 0:
        return False
    return None if seen == 0 else True


def _value(node: Any, point: int | None, log10: bool, bound: dict) -> Any:
    if node.__class__ is Num:
        return node.value if node.value.__class__ is int and abs(node.value) < 1 << 50 else float(node.value)
    if node.__class__ is Sym:
        if node.name in bound:
            return bound[node.name]
        constant = _CONSTANTS.get(node.name)
        if constant is not None:
            return constant
        if point is None:
            raise LookupError(node.name)
        sample = 0.5 + crc32(f"{node.name}{point}".encode()) / 2**31
        return -sample if point == 3 else sample
    head, args = node.head, node.args
    if head in ("sum", "prod"):
        return _finite(node, point, log10, bound)
    if head == "apply":
        # An unknown function: the same number for the same name and arguments.
        values = [complex(_value(a, point, log10, bound)) for a in args[1:]]
        if args[0] == Sym("C") and len(values) == 2:
            n, k = map(_real, values)
            return math.gamma(n + 1) / (math.gamma(k + 1) * math.gamma(n - k + 1))
        key = f"{args[0].name}{point}" + ",".join(f"{v.real:.8g}{v.imag:+.8g}" for v in values)
        return 0.5 + crc32(key.encode()) / 2**31
    if head == "apply1" and args[1].__class__ is Num:
        return 0.5 + crc32(f"{args[0].name}({args[1].value}){point}".encode()) / 2**31
    values = [_value(a, point, log10, bound) for a in args]
    first: Any = values[0]
    second: Any = values[1] if len(values) > 1 else None
    match head:
        case "add":
            return first + second
        case "mul" | "apply1" | "letter_unit":
            return first * second
        case "div":
            return first / second
        case "neg":
            return -first
        case "pow":
            return _power(first, second, args[1])
        case "bracket" if len(values) == 1:
            return first
        case "mod":
            return _real(first) % _real(second)
        case "mixed":
            return first + second / values[2]
        case "based":
            return int(args[0].digits, int(args[1].value))
        case "percent":
            return first / 100
        case "degree":
            return first * math.pi / 180
        case "abs":
            return abs(first)
        case "root":
            return (
                _power(first, 1 / second, None)
                if complex(first).imag or complex(first).real >= 0
                else _odd(first, second)
            )
        case "cbrt":
            return _odd(first, 3)
        case "cis":
            return cmath.exp(1j * first)
        case "floor":
            return math.floor(_real(first) + 1e-9)
        case "ceil":
            return math.ceil(_real(first) - 1e-9)
        case "factorial":
            return math.gamma(_real(first) + 1)
        case "binomial":
            n, k = _real(first), _real(second)
            return math.gamma(n + 1) / (math.gamma(k + 1) * math.gamma(n - k + 1))
        case "log" if second is not None:
            return cmath.log(first) / cmath.log(second)
        case "log" if log10:
            return cmath.log10(first)
        case "arccot":
            return math.pi / 2 - cmath.atan(first)
        case "max":
            return max(map(_real, values))
        case "min":
            return min(map(_real, values))
    if head in _INVERSE:
        return _INVERSE[head](first)
    if head in _RECIPROCAL:
        return 1 / _RECIPROCAL[head](first)
    if head in _RECIPROCAL_ARGUMENT:
        return _RECIPROCAL_ARGUMENT[head](1 / first)
    raise LookupError(head)


def _power(base, exponent, node: Node | None):
    base = complex(base)
    if base.imag == 0 and base.real < 0 and node.__class__ is Op and node.head == "div":
        # The real odd root, as in the exact arithmetic.
        numerator, denominator = node.args
        if numerator.__class__ is Num and denominator.__class__ is Num and denominator.value % 2 == 1:
            return _odd(base, denominator.value) ** numerator.value
    value = complex(exponent)
    if base == 0 and value.real <= 0 and value != 0:
        raise ZeroDivisionError
    return base**value


def _odd(base, degree) -> complex:
    base = complex(base)
    if base.imag == 0 and base.real < 0 and degree % 2 == 1:
        return complex(-((-base.real) ** (1 / degree)))
    return base ** (1 / degree)


def _real(value) -> float:
    value = complex(value)
    if abs(value.imag) > 1e-12:
        raise ValueError("a complex number where a real one belongs")
    return value.real


def _finite(node: Op, point: int | None, log10: bool, bound: dict):
    index, start, end, body = node.args
    first, last = (round(_real(_value(n, point, log10, bound))) for n in (start, end))
    if last - first > 400 or index.__class__ is not Sym:
        raise LookupError("a long sum")
    total = 0 if node.head == "sum" else 1
    for k in range(first, last + 1):
        term = _value(body, point, log10, {**bound, index.name: k})
        total = total + term if node.head == "sum" else total * term
    return total

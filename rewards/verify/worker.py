"""The process that asks sympy. Reads one job a line from standard input, answers one line on standard output.

A job is a JSON list [seconds, log10, tree, tree]; sympy expressions are built from the trees node by node, never from
text. The parent kills the process at its deadline; a limit on CPU time does so too should the parent be gone.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

MEMORY_BYTES = 512 << 20


def main() -> None:
    import sympy  # here, so that importing this module costs nothing

    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        seconds, log10, left, right = json.loads(line)
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _limit(resource.RLIMIT_CPU, int(used + seconds) + 3)
        try:
            answer = "equal" if _equal(sympy, left, right, log10) else "different"
        except MemoryError:
            answer = "error: out of memory"
        except Exception as error:
            answer = "error: " + " ".join(f"{type(error).__name__} {error}".split())[:200]
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def encode(node: Any) -> Any:
    """A tree as JSON: [value, denominator], "name" or {"head": …}."""
    from .tree import Num, Sym

    if isinstance(node, Num):
        return [str(node.value.numerator), str(node.value.denominator)]
    if isinstance(node, Sym):
        return node.name
    return {"head": node.head, "args": [encode(a) for a in node.args]}


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _equal(sympy: Any, left: Any, right: Any, log10: bool) -> bool:
    difference = _build(sympy, left, log10) - _build(sympy, right, log10)
    if difference.is_zero:
        return True
    for step in (sympy.expand, sympy.radsimp, sympy.simplify, lambda d: sympy.simplify(d.rewrite(sympy.exp))):
        simpler = step(difference)
        if simpler == 0:
            return True
    return difference.equals(0) is True


def _build(sympy: Any, node: Any, log10: bool) -> Any:
    if isinstance(node, list):
        return sympy.Rational(int(node[0]), int(node[1]))
    if isinstance(node, str):
        constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "inf": sympy.oo}
        return constants.get(node) or sympy.Symbol(node, real=True)
    head, raw = node["head"], node["args"]
    if head in ("apply", "apply1") and (head == "apply" or isinstance(raw[1], list)):
        return sympy.Function(raw[0])(*(_build(sympy, a, log10) for a in raw[1:]))
    if head in ("sum", "prod"):
        index, first, last = sympy.Symbol(raw[0], real=True), *(_build(sympy, a, log10) for a in raw[1:3])
        terms = (_build(sympy, raw[3], log10).subs(index, k) for k in range(int(first), int(last) + 1))
        return sympy.Add(*terms) if head == "sum" else sympy.Mul(*terms)
    args = [_build(sympy, a, log10) for a in raw]
    simple = {
        "add": sympy.Add, "mul": sympy.Mul, "apply1": sympy.Mul, "letter_unit": sympy.Mul, "sqrt": sympy.sqrt,
        "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling, "factorial": sympy.factorial,
        "binomial": sympy.binomial, "exp": sympy.exp, "ln": sympy.log, "max": sympy.Max, "min": sympy.Min,
        "gcd": sympy.gcd, "lcm": sympy.lcm, "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan,
        "arccot": sympy.acot, "arcsec": sympy.asec, "arccsc": sympy.acsc, "arcsinh": sympy.asinh,
        "arccosh": sympy.acosh, "arctanh": sympy.atanh,
    }  # fmt: skip
    if head in simple:
        return simple[head](*args)
    if head in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth"):
        return getattr(sympy, head)(*args)
    match head:
        case "neg":
            return -args[0]
        case "div":
            return args[0] / args[1]
        case "pow":
            return _power(sympy, args[0], args[1])
        case "root":
            return _power(sympy, args[0], 1 / args[1])
        case "cbrt":
            return _power(sympy, args[0], sympy.Rational(1, 3))
        case "mixed":
            return args[0] + args[1] / args[2]
        case "percent":
            return args[0] / 100
        case "degree":
            return args[0] * sympy.pi / 180
        case "cis":
            return sympy.exp(sympy.I * args[0])
        case "lg":
            return sympy.log(args[0], 10)
        case "log":
            base = args[1] if len(args) > 1 else (10 if log10 else sympy.E)
            return sympy.log(args[0], base)
        case "bracket" if len(args) == 1:
            return args[0]
    raise ValueError(f"no sympy form of {head}")


def _power(sympy: Any, base: Any, exponent: Any) -> Any:
    """The real root where it is odd, as in the exact arithmetic."""
    if base.is_negative and exponent.is_Rational and exponent.q % 2 == 1 and exponent.q > 1:
        return (-1) ** exponent.p * (-base) ** exponent
    return base**exponent


if __name__ == "__main__":
    main()

"""The exact value of an expression tree."""

from __future__ import annotations

from fractions import Fraction
from math import gcd, lcm

from . import functions as fn
from . import numeric
from . import powers as pw
from .algebra import Rat, Value, add, generator, inverse, mul, show
from .polynomial import ONE, Work, magnitude
from .tree import MAX_BITS, MAX_SUM_TERMS, Node, Num, Op, ParseError, Sym, TooLarge, Undefined, names

_TRIGONOMETRIC = names("sin cos tan cot sec csc sinh cosh tanh coth")
_INVERSE = names("arcsin arccos arctan arccot arcsec arccsc arcsinh arccosh arctanh")
_SETS_OF_NUMBERS = frozenset(("emptyset",))


class Evaluator:
    """Evaluates one answer: one budget of work for all its parts. log10: the base of a bare logarithm is 10, not e."""

    def __init__(self, log10: bool = False) -> None:
        self.work = Work()
        self.log10 = log10
        self.bound: dict[str, Value] = {}

    def value(self, node: Node) -> Value:
        """ParseError where the tree is no expression (a set, a relation), Undefined, TooLarge."""
        if node.__class__ is Num:
            return node.value
        if node.__class__ is Sym:
            name = node.name
            if name in self.bound:
                return self.bound[name]
            if name == "e":
                return generator("e^[1]")
            if name == "inf":
                raise Undefined("infinity inside an expression")
            if name in _SETS_OF_NUMBERS or name.startswith("set_"):
                raise ParseError("a set inside an expression")
            return generator(name)
        assert isinstance(node, Op)
        head, args = node.head, node.args
        if head == "add":
            return self._sum(node)
        if head == "neg":
            return mul(self.value(args[0]), -1, self.work)
        if head == "mul" or head == "letter_unit":
            return mul(self.value(args[0]), self.value(args[1]), self.work)
        if head == "div":
            above, below = self.value(args[0]), self.value(args[1])
            if above.__class__ is int and below.__class__ is int and below:
                quotient = Fraction(above, below)
                return quotient.numerator if quotient.denominator == 1 else quotient
            return mul(above, inverse(below), self.work)
        if head == "pow":
            return self._power(args[0], args[1])
        handler = _HANDLERS.get(head)
        if handler is not None:
            return handler(self, args)
        if head in _TRIGONOMETRIC:
            return fn.trigonometric(head, self.value(args[0]), self.work)
        if head in _INVERSE:
            return fn.inverse_trigonometric(head, self.value(args[0]), self.work)
        raise ParseError(f"{head} inside an expression")

    def _sum(self, node: Op) -> Value:
        # Left-leaning chains of + are unrolled: one addition per term, without recursion.
        terms: list[Node] = []
        current: Node = node
        while current.__class__ is Op and current.head == "add":
            terms.append(current.args[1])
            current = current.args[0]
        total = self.value(current)
        for term in reversed(terms):
            total = add(total, self.value(term), self.work)
        return total

    def _power(self, base: Node, exponent: Node) -> Value:
        raised = self.value(exponent)
        below = self.value(base)
        if not isinstance(raised, Rat) and magnitude(raised) > MAX_BITS:
            raise TooLarge(f"an exponent of more than {MAX_BITS}")
        return pw.power(below, raised, self.work)

    def _constant_sign(self, node: Node) -> int:
        number = None if self.bound else numeric.real(node)
        if number is None or abs(number) < 1e-9:
            return 0
        return 1 if number > 0 else -1

    def _absolute(self, args: tuple[Node, ...]) -> Value:
        value = self.value(args[0])
        if not isinstance(value, Rat):
            return magnitude(value)
        if any(name == "i" for mono in value.num for name, _ in mono):
            modulus = fn.modulus(value, self.work)
            if modulus is not None:
                return modulus
        return fn.absolute(value, self._constant_sign(args[0]), self.work)

    def _floor(self, args: tuple[Node, ...], sign: int = 1) -> Value:
        value = self.value(args[0])
        if not isinstance(value, Rat):
            return sign * ((sign * value) // 1)
        number = None if self.bound else numeric.real(args[0])
        if number is not None and abs(number) < 1e12 and abs(number - round(number)) > 1e-6:
            return int(number // 1) if sign > 0 else -int(-number // 1)
        value = mul(value, sign, self.work)
        whole = 0
        if isinstance(value, Rat) and value.den is ONE:
            # ⌊x + 1⌋ = ⌊x⌋ + 1
            whole = int(value.num.get((), 0) // 1)
            value = add(value, whole, self.work, -1)
        return mul(add(generator(f"floor({show(value)})"), whole, self.work), sign, self.work)

    def _based(self, args: tuple[Node, ...]) -> Value:
        digits, base = args
        assert isinstance(digits, Num)
        assert isinstance(base, Num)
        try:
            return int(digits.digits, int(base.value))
        except ValueError:
            raise ParseError(f"{digits.digits} is not a numeral in base {base.value}") from None

    def _several(self, args: tuple[Node, ...], name: str) -> Value:
        values = [self.value(a) for a in args]
        if name in ("gcd", "lcm"):
            if all(v.__class__ is int for v in values):
                return (gcd if name == "gcd" else lcm)(*values)  # type: ignore[arg-type]
        else:
            numbers = [numeric.real(a) for a in args]
            if not self.bound and all(n is not None for n in numbers):
                best = max(numbers) if name == "max" else min(numbers)  # type: ignore[type-var]
                return values[numbers.index(best)]
        return generator(f"{name}({', '.join(sorted(map(show, values)))})")

    def _apply(self, args: tuple[Node, ...]) -> Value:
        assert isinstance(args[0], Sym)
        if args[0].name == "C" and len(args) == 3:
            return fn.binomial(self.value(args[1]), self.value(args[2]), self.work)
        return generator(f"{args[0].name}({', '.join(show(self.value(a)) for a in args[1:])})")

    def _apply_or_product(self, args: tuple[Node, ...]) -> Value:
        # I(0) is a value of I, k(k+1) a product.
        if args[1].__class__ is Num:
            return self._apply(args)
        return mul(self.value(args[0]), self.value(args[1]), self.work)

    def _logarithm(self, args: tuple[Node, ...]) -> Value:
        value = fn.logarithm(self.value(args[0]), self.work)
        base: Value | None = None
        if len(args) > 1:
            base = self.value(args[1])
        elif self.log10:
            base = 10
        if base is None:
            return value
        return mul(value, inverse(fn.logarithm(base, self.work)), self.work)

    def _root(self, args: tuple[Node, ...]) -> Value:
        degree = self.value(args[1])
        if degree.__class__ is not int:
            return pw.power(self.value(args[0]), inverse(degree), self.work)
        if not 2 <= degree <= 1000:
            raise ParseError(f"a root of degree {show(degree)}")
        return pw.power(self.value(args[0]), Fraction(1, degree), self.work)

    def _finite(self, args: tuple[Node, ...], product: bool) -> Value:
        index, start, end, body = args
        first, last = self.value(start), self.value(end)
        assert isinstance(index, Sym)
        if first.__class__ is not int or last.__class__ is not int:
            raise ParseError("a sum without whole limits")
        if last - first >= MAX_SUM_TERMS:
            raise TooLarge(f"a sum of more than {MAX_SUM_TERMS} terms")
        outer = dict(self.bound)
        total: Value = 1 if product else 0
        for k in range(first, last + 1):
            self.work.spend(10)
            self.bound[index.name] = k
            term = self.value(body)
            total = mul(total, term, self.work) if product else add(total, term, self.work)
        self.bound = outer
        return total


def _degrees(e: Evaluator, args: tuple[Node, ...]) -> Value:
    return mul(mul(e.value(args[0]), Fraction(1, 180), e.work), fn.PI, e.work)


def _modulo(e: Evaluator, args: tuple[Node, ...]) -> Value:
    number, modulus = e.value(args[0]), e.value(args[1])
    if number.__class__ is not int or modulus.__class__ is not int or not modulus:
        raise ParseError("a remainder of something that is no whole number")
    return number % modulus


_HANDLERS = {
    "mod": _modulo,
    "mixed": lambda e, a: add(e.value(a[0]), Fraction(a[1].value, a[2].value), e.work),
    "sqrt": lambda e, a: pw.power(e.value(a[0]), Fraction(1, 2), e.work),
    "cbrt": lambda e, a: pw.power(e.value(a[0]), Fraction(1, 3), e.work),
    "root": Evaluator._root,
    "exp": lambda e, a: pw.exponential(e.value(a[0]), e.work),
    "cis": lambda e, a: pw.exponential(mul(e.value(a[0]), pw.I, e.work), e.work),
    "ln": lambda e, a: fn.logarithm(e.value(a[0]), e.work),
    "lg": lambda e, a: mul(fn.logarithm(e.value(a[0]), e.work), inverse(fn.logarithm(10, e.work)), e.work),
    "log": Evaluator._logarithm,
    "abs": Evaluator._absolute,
    "floor": Evaluator._floor,
    "ceil": lambda e, a: e._floor(a, -1),
    "factorial": lambda e, a: fn.factorial_of(e.value(a[0]), e.work),
    "binomial": lambda e, a: fn.binomial(e.value(a[0]), e.value(a[1]), e.work),
    "percent": lambda e, a: mul(e.value(a[0]), Fraction(1, 100), e.work),
    "degree": _degrees,
    "based": Evaluator._based,
    "max": lambda e, a: e._several(a, "max"),
    "min": lambda e, a: e._several(a, "min"),
    "gcd": lambda e, a: e._several(a, "gcd"),
    "lcm": lambda e, a: e._several(a, "lcm"),
    "apply": Evaluator._apply,
    "apply1": Evaluator._apply_or_product,
    "sum": lambda e, a: e._finite(a, False),
    "prod": lambda e, a: e._finite(a, True),
    "bracket": lambda e, a: e.value(a[0]) if len(a) == 1 else _no_value(),
}


def _no_value() -> Value:
    raise ParseError("a list inside an expression")

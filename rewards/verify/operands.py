"""How functions, fractions, sums and matrices are written: the parts of the parser that read their operands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .quantities import starts_unit
from .tree import Node, Num, Op, ParseError, Sym

if TYPE_CHECKING:
    from .parser import Parser

_INVERSE = {
    "sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc",
    "sinh": "arcsinh", "cosh": "arccosh", "tanh": "arctanh",
}  # fmt: skip
_SEVERAL = frozenset(("max", "min", "gcd", "lcm", "binomial"))
_MATRICES = frozenset(("pmatrix", "bmatrix", "matrix", "array", "smallmatrix", "Bmatrix", "vmatrix"))


def parse_function(p: Parser, name: str) -> Node:
    p.advance()
    if name == "frac":
        return Op("div", (argument(p, one_digit=True), argument(p, one_digit=True)))
    if name == "binom":
        return Op("binomial", (argument(p, one_digit=True), argument(p, one_digit=True)))
    if name == "sqrt":
        return _root(p)
    if name in ("sum", "prod"):
        return _finite_sum(p, name)
    power: Node | None = None
    base: Node | None = None
    while p.kind == "o" and p.value in ("^", "_"):
        if p.value == "^":
            p.advance()
            power = p.exponent() if not p.is_op("{") else argument(p)
        else:
            p.advance()
            base = argument(p)
    if name == "log" and base is None and p.kind == "n" and not p.spaced and p.peek()[1] == "(":
        # log2(8) in plain text.
        base = argument(p)
    if base is not None and name not in ("log", "ln"):
        raise ParseError(f"a subscript of {name}")
    operand = _operand(p, name)
    if name in _SEVERAL:
        args = operand.args if operand.__class__ is Op and operand.head in ("tuple", "set") else (operand,)
        return Op(name, args)
    if name in ("log", "ln") and base is not None:
        node: Node = Op("log", (operand, base))
    else:
        node = Op(name, (operand,))
    if power is None:
        return node
    if power == Op("neg", (Num(1, "1"),)) and name in _INVERSE:
        return Op(_INVERSE[name], (operand,))
    return Op("pow", (node, power))


def argument(p: Parser, one_digit: bool = False) -> Node:
    """A braced group, or one token: \\frac12 takes the digit 1, then 2."""
    if p.is_op("{"):
        node = p.prefix()
        return node
    if p.kind == "n":
        literal = p.value
        if one_digit and literal.isdigit() and len(literal) > 1:
            p.tokens[p.at] = ("n", literal[1:], False)
            p.value = literal[1:]
            return Num(int(literal[0]), literal[0])
        return p.prefix()
    if p.kind == "s":
        name = p.value
        p.advance()
        return Sym(name)
    if p.kind == "o" and p.value == "(":
        return p.prefix()
    if p.kind == "f" and p.value in ("sqrt", "frac"):
        return p.prefix()
    raise ParseError("a missing argument")


def _root(p: Parser) -> Node:
    degree: Node | None = None
    if p.is_op("["):
        inner = p.bracketed("[")
        if not (inner.__class__ is Op and inner.head == "bracket" and len(inner.args) == 1):
            raise ParseError("the degree of a root")
        degree = inner.args[0]
    operand = argument(p)
    return Op("sqrt", (operand,)) if degree is None else Op("root", (operand, degree))


def _operand(p: Parser, name: str) -> Node:
    """What a function is applied to: a bracket, or the factors up to the next sign: sin 2x cos y is sin(2x)·cos(y)."""
    if p.kind == "o" and p.value in ("(", "{", "[", "|"):
        node = p.prefix()
        return node.args[0] if node.__class__ is Op and node.head == "bracket" and len(node.args) == 1 else node
    if p.is_op("-"):
        p.advance()
        return Op("neg", (_operand(p, name),))
    factors: Node | None = None
    while True:
        if p.kind == "f":
            if factors is not None and p.value not in ("frac", "sqrt"):
                break
            factor = p.prefix()
        elif p.kind in "ns" or (p.kind == "w" and not starts_unit(p)):
            if factors is not None and p.kind == "n":
                break
            factor = p.prefix()
        elif p.kind == "o" and p.value == "{":
            factor = p.prefix()
        else:
            break
        factor = p.raised(factor)
        factors = factor if factors is None else Op("mul", (factors, factor))
    if factors is None:
        raise ParseError(f"{name} without an operand")
    return factors


def _finite_sum(p: Parser, name: str) -> Node:
    if not p.is_op("_"):
        raise ParseError(f"a {name} without limits")
    p.advance()
    lower = argument(p)
    if not (lower.__class__ is Op and lower.head == "relation" and len(lower.args) == 3 and lower.args[1] == Sym("=")):
        raise ParseError(f"the lower limit of a {name}")
    index, _, start = lower.args
    if index.__class__ is not Sym or not p.is_op("^"):
        raise ParseError(f"the limits of a {name}")
    p.advance()
    end = argument(p)
    body = p.expression(25)
    return Op(name, (index, start, end, body))


def parse_matrix(p: Parser, environment: str) -> Node:
    """Rows of any matrix environment: the kind of bracket does not change the matrix, vmatrix is its determinant."""
    if environment not in _MATRICES:
        raise ParseError(f"the environment {environment}")
    p.advance()
    if environment == "array" and p.is_op("{"):
        while not p.is_op("}"):
            if p.kind == "end":
                raise ParseError("an open array")
            p.advance()
        p.advance()
    rows: list[Node] = []
    row: list[Node] = []
    while True:
        if p.kind == "o" and p.value in ("row", f"end {environment}"):
            if row:
                rows.append(Op("tuple", tuple(row)))
                row = []
            if p.value != "row":
                break
            p.advance()
            continue
        if row:
            p.expect("&")
        row.append(p.item())
    p.advance()
    if not rows or len({len(r.args) for r in rows if r.__class__ is Op}) != 1:
        raise ParseError("a matrix with uneven rows")
    return Op("det" if environment == "vmatrix" else "matrix", tuple(rows))

"""What an answer can be: a scalar, a group, a region of the line, a relation, a matrix, a ratio or words."""

from __future__ import annotations

from typing import NamedTuple, Union

from .algebra import Value, show
from .evaluate import Evaluator
from .regions import Interval, from_brackets, show_region, union
from .tree import Node, VerifyError
from .units import Unit
from .words import Words


class Scalar(NamedTuple):
    """value None: too large to write out. kind: "" or what was written behind it, "%" or "°"; unit: if any.

    letter: the letter of "5 m", which is a unit only where the other side has a bare number.
    """

    value: Value | None
    tree: Node
    kind: str = ""
    unit: Unit | None = None
    letter: bool = False


class Group(NamedTuple):
    """kind: list (order does not count, repetition does), tuple, bracket (a list or a closed interval), set."""

    kind: str
    items: tuple[Answer, ...]


class Region(NamedTuple):
    """A set of real numbers, of which the variable (or "") is said to be an element."""

    variable: str
    parts: tuple[Interval, ...]


class Named(NamedTuple):
    """x = 5, f(x) = 2x. equation: difference of the sides where both are expressions."""

    name: str
    answer: Answer
    equation: Value | None


class Relation(NamedTuple):
    """difference op 0, with op one of = < <= !=."""

    op: str
    difference: Value


class Matrix(NamedTuple):
    rows: tuple[tuple[Answer, ...], ...]


class Ratio(NamedTuple):
    items: tuple[Scalar, ...]
    time: tuple[int, ...]


Answer = Union[Scalar, Group, Region, Named, Relation, Matrix, Ratio, Words]  # noqa: UP007 - recursive


def as_region(answer: Answer, evaluator: Evaluator | None = None) -> Region | None:
    """A group read as a set of numbers: (a, b) an open interval, [a, b] a closed one, {a, b} its points."""
    if isinstance(answer, Region):
        return answer
    evaluator = evaluator or Evaluator()
    try:
        if isinstance(answer, Group) and all(isinstance(i, Scalar) for i in answer.items):
            trees = [i.tree for i in answer.items if isinstance(i, Scalar)]
            if answer.kind in ("tuple", "bracket") and len(trees) == 2:
                closed = answer.kind == "bracket"
                return Region("", from_brackets(tuple(trees), closed, closed, evaluator))
            if answer.kind == "set":
                parts: tuple[Interval, ...] = ()
                for tree in trees:
                    parts = union(parts, from_brackets((tree, tree), True, True, evaluator))
                return Region("", parts)
    except VerifyError:
        return None
    return None


def show_answer(answer: Answer) -> str:
    """Canonical text, for people."""
    if isinstance(answer, Scalar):
        text = "too large" if answer.value is None else show(answer.value)
        unit = ""
        if answer.unit is not None:
            unit = " " + "·".join(b if e == 1 else f"{b}^{e}" for b, e in answer.unit.dimension)
            if answer.unit.factor != 1:
                unit += f"×{answer.unit.factor}"
        return text + answer.kind + unit
    if isinstance(answer, Group):
        inner = ", ".join(map(show_answer, answer.items))
        return {"list": inner, "tuple": f"({inner})", "bracket": f"[{inner}]", "set": f"{{{inner}}}"}[answer.kind]
    if isinstance(answer, Region):
        return (f"{answer.variable} in " if answer.variable else "") + show_region(answer.parts)
    if isinstance(answer, Named):
        return f"{answer.name} = {show_answer(answer.answer)}"
    if isinstance(answer, Relation):
        return f"{show(answer.difference)} {answer.op} 0"
    if isinstance(answer, Matrix):
        return "[" + "; ".join(", ".join(map(show_answer, row)) for row in answer.rows) + "]"
    if isinstance(answer, Ratio):
        return ":".join(map(show_answer, answer.items))
    return f'"{answer.text}"'

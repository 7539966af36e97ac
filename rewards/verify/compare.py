"""Whether two answers are the same. `docs/verifier.md` has the rules as a table, by the names used here."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from . import numeric
from .algebra import Rat, Value, equal, independent, mul
from .answer import Answer, Group, Matrix, Named, Ratio, Region, Relation, Scalar, as_region
from .evaluate import Evaluator
from .functions import PI
from .polynomial import ONE, Work
from .reader import Reading
from .regions import equal_regions
from .tree import Node, Num, Op, VerifyError
from .units import named
from .words import Words, choice

# What the text of a choice may begin with: a letter, a bracket, a command, "Option", 选.
_CHOICE_STARTS = frozenset("ABCDEFGHIJabcdefghijOo([\\选")


class Result(NamedTuple):
    """rule: the name of the rule that decided. reason: why not, where that is not plain from the forms."""

    equal: bool
    rule: str
    reason: str = ""


# Decides by computer algebra whether two trees are equal; raises where it has no answer in time.
Decide = Callable[[Node, Node, bool], bool]


class Comparison(NamedTuple):
    """decide: the fall-back for what exact forms leave open. abs_tol, rel_tol: as in `math.isclose`, 0 for exact."""

    decide: Decide
    abs_tol: float = 0.0
    rel_tol: float = 0.0
    log10: bool = False

    def readings(self, gold: Reading, answer: Reading) -> Result:
        """The first reading of the two texts under which they are equal, else the verdict on the first ones."""
        lettered = _choices(gold, answer)
        if lettered is not None:
            return lettered
        first = self.answers(gold.answer, answer.answer)
        if first.equal:
            return first
        for other in gold.others:
            for mine in (answer.answer, *answer.others):
                if not isinstance(mine, Scalar) and self.answers(other, mine).equal:
                    return Result(True, "list without blanks")
        for other in answer.others:
            if not isinstance(gold.answer, Scalar) and self.answers(gold.answer, other).equal:
                return Result(True, "list without blanks")
        return first

    def answers(self, a: Answer, b: Answer) -> Result:
        if isinstance(a, Scalar) and isinstance(b, Scalar):
            return self.scalars(a, b)
        if isinstance(a, Words) or isinstance(b, Words):
            if isinstance(a, Words) and isinstance(b, Words):
                return Result(a.text == b.text, "text")
            if isinstance(b, Words):
                a, b = b, a
            assert isinstance(a, Words)
            return self._words_against(a, b)
        if isinstance(a, Named) or isinstance(b, Named):
            return self._named(a, b)
        if isinstance(a, Region) or isinstance(b, Region):
            return self._regions(a, b)
        if isinstance(a, Relation) or isinstance(b, Relation):
            return self._relations(a, b)
        if isinstance(a, Matrix) or isinstance(b, Matrix):
            return self._matrices(a, b)
        if isinstance(a, Ratio) or isinstance(b, Ratio):
            return self._ratios(a, b)
        return self._groups(a, b)

    def scalars(self, a: Scalar, b: Scalar) -> Result:
        if a.value is None or b.value is None:
            return Result(False, "limit", "a number too large to write out")
        based = self._based(a.tree, b.tree)
        if based is not None:
            return based
        if a.kind or b.kind or a.unit or b.unit:
            return self._quantities(_as_quantity(a), _as_quantity(b))
        if a.letter != b.letter:
            # "5 m" beside a bare number is five metres.
            quantity, bare = (a, b) if a.letter else (b, a)
            if not isinstance(bare.value, Rat) and isinstance(quantity.tree, Op):
                number = quantity.tree.args[0]
                return Result(getattr(number, "value", None) == bare.value, "unit on one side")
        return self.values(a.value, b.value, a.tree, b.tree)

    def values(self, x: Value, y: Value, a: Node, b: Node) -> Result:
        if not isinstance(x, Rat) and not isinstance(y, Rat):
            if x == y:
                return Result(True, "number")
            return self._within_tolerance(a, b) or Result(False, "number")
        try:
            if equal(x, y):
                return Result(True, "exact form")
            certain = independent(x, y)
        except VerifyError as error:
            return Result(False, "limit", str(error))
        near = self._within_tolerance(a, b)
        if near is not None:
            return near
        if certain:
            return Result(False, "exact form")
        differ = numeric.differ(a, b, self.log10)
        if differ is None:
            return Result(False, "numbers at sample points", "no value at any sample point")
        if differ:
            return Result(False, "numbers at sample points")
        return Result(self.decide(a, b, self.log10), "sympy")

    def _within_tolerance(self, a: Node, b: Node) -> Result | None:
        if not self.abs_tol and not self.rel_tol:
            return None
        x, y = numeric.real(a), numeric.real(b)
        if x is None or y is None or not math.isclose(x, y, abs_tol=self.abs_tol, rel_tol=self.rel_tol):
            return None
        return Result(True, "tolerance")

    def _based(self, a: Node, b: Node) -> Result | None:
        """52_8 beside 52: the base was asked for, so a bare numeral is read in it."""
        first, second = _numeral(a), _numeral(b)
        if first is None and second is None:
            return None
        if first is None or second is None:
            based, bare = (a, b) if first is not None else (b, a)
            digits = getattr(bare, "digits", "")
            return Result(bool(digits) and digits.lstrip("0") == based.args[0].digits.lstrip("0"), "base on one side")  # type: ignore[union-attr]
        return Result(first == second, "number")

    def _quantities(self, a: Scalar, b: Scalar) -> Result:
        assert a.value is not None
        assert b.value is not None
        work = Work()
        if a.kind == b.kind and a.unit and b.unit:
            if a.unit.dimension != b.unit.dimension:
                return Result(False, "units", "different units")
            x, y = mul(a.value, a.unit.factor, work), mul(b.value, b.unit.factor, work)
            left, right = _times(a.tree, a.unit.factor), _times(b.tree, b.unit.factor)
            return self.values(x, y, left, right)._replace(rule="units")
        if a.unit and b.unit:
            return Result(False, "units", "different units")
        if a.kind == b.kind:
            rule = {"%": "percent", "°": "degrees"}.get(a.kind, "unit on one side")
            return self.values(a.value, b.value, a.tree, b.tree)._replace(rule=rule)
        if a.kind and b.kind:
            return Result(False, "units", "percent against degrees")
        marked, bare = (a, b) if a.kind else (b, a)
        assert marked.value is not None
        assert bare.value is not None
        factor: Value = Fraction(1, 100) if marked.kind == "%" else mul(PI, Fraction(1, 180), work)
        tree = Op("percent" if marked.kind == "%" else "degree", (marked.tree,))
        result = self.values(mul(marked.value, factor, work), bare.value, tree, bare.tree)
        rule = "percent" if marked.kind == "%" else "degrees"
        # 50 for 50% is the number that was asked for; 0.5 for 0.5% is another number.
        if not result.equal and (marked.kind == "°" or (numeric.real(marked.tree) or 0) >= 1):
            result = self.values(marked.value, bare.value, marked.tree, bare.tree)
        return result._replace(rule=rule)

    def _words_against(self, words: Words, other: Answer) -> Result:
        if words.text == "∅":
            return Result(isinstance(other, Region) and not other.parts, "empty set")
        region = as_region(other) if words.text == "all real numbers" else None
        if region is not None:
            whole = len(region.parts) == 1 and region.parts[0].low.value is None and region.parts[0].high.value is None
            return Result(whole, "intervals")
        if isinstance(other, Named):
            return self.answers(words, other.answer)
        if isinstance(other, Ratio) and len(other.time) == 2 and words.text.startswith("time "):
            # 3:45 p.m. is 15:45, and 3:45 where nothing says which half of the day.
            hour, minute = map(int, words.text[5:].split(":"))
            return Result(minute == other.time[1] and other.time[0] in (hour, hour % 12 or 12), "time")
        return Result(False, "kind", "words against mathematics")

    def _named(self, a: Answer, b: Answer) -> Result:
        if isinstance(a, Named) and isinstance(b, Named):
            if a.name == b.name:
                result = self.answers(a.answer, b.answer)
                if result.equal:
                    return result._replace(rule="assignment")
            if a.equation is not None and b.equation is not None:
                return _proportional(a.equation, b.equation, signed=False)
            return Result(False, "assignment", f"{a.name} against {b.name}" if a.name != b.name else "")
        named, other = (a, b) if isinstance(a, Named) else (b, a)
        assert isinstance(named, Named)
        if isinstance(other, Relation):
            if named.equation is None or other.op != "=":
                return Result(False, "kind", "an assignment against a relation")
            return _proportional(named.equation, other.difference, signed=False)
        result = self.answers(named.answer, other)
        return result._replace(rule="assignment") if result.equal else result

    def _regions(self, a: Answer, b: Answer) -> Result:
        first, second = as_region(a), as_region(b)
        if first is None or second is None:
            return Result(False, "kind", "a set of numbers against something else")
        if first.variable and second.variable and first.variable != second.variable:
            return Result(False, "intervals", f"{first.variable} against {second.variable}")
        return Result(equal_regions(first.parts, second.parts), "intervals")

    def _relations(self, a: Answer, b: Answer) -> Result:
        if not isinstance(a, Relation) or not isinstance(b, Relation):
            return Result(False, "kind", "a relation against something else")
        if a.op != b.op:
            return Result(False, "relation", f"{a.op} against {b.op}")
        return _proportional(a.difference, b.difference, signed=a.op in ("<", "<="))

    def _matrices(self, a: Answer, b: Answer) -> Result:
        x, y = _rows(a), _rows(b)
        if x is None or y is None:
            return Result(False, "kind", "a matrix against something else")
        if isinstance(a, Group) or isinstance(b, Group):
            # A column or a row beside (1, 2, 3) is that vector.
            x, y = _flat(x), _flat(y)
        if len(x) != len(y) or any(len(r) != len(s) for r, s in zip(x, y, strict=True)):
            return Result(False, "matrix", "different shapes")
        return self._all([i for r in x for i in r], [i for r in y for i in r], "matrix")

    def _ratios(self, a: Answer, b: Answer) -> Result:
        if isinstance(a, Ratio) and isinstance(b, Ratio):
            if len(a.items) != len(b.items):
                return Result(False, "ratio", "different lengths")
            if a.time and b.time:
                return Result(a.time == b.time, "time")
            return self._all_ratio(a, b)
        ratio, other = (a, b) if isinstance(a, Ratio) else (b, a)
        assert isinstance(ratio, Ratio)
        if not isinstance(other, Scalar) or len(ratio.items) != 2:
            return Result(False, "kind", "a ratio against something else")
        p, q = ratio.items
        tree = Op("div", (p.tree, q.tree))
        try:
            quotient = Scalar(Evaluator(self.log10).value(tree), tree)
        except VerifyError as error:
            return Result(False, "ratio", str(error))
        return self.scalars(quotient, other)._replace(rule="ratio")

    def _all_ratio(self, a: Ratio, b: Ratio) -> Result:
        work = Work()
        for p, q in zip(a.items[1:], b.items[1:], strict=True):
            x, y = mul(a.items[0].value, q.value, work), mul(b.items[0].value, p.value, work)  # type: ignore[arg-type]
            left, right = Op("mul", (a.items[0].tree, q.tree)), Op("mul", (b.items[0].tree, p.tree))
            result = self.values(x, y, left, right)
            if not result.equal or x == 0:
                return Result(False, "ratio")
        return Result(True, "ratio")

    def _groups(self, a: Answer, b: Answer) -> Result:
        if not isinstance(a, Group) or not isinstance(b, Group):
            group, single = (a, b) if isinstance(a, Group) else (b, a)
            assert isinstance(group, Group)
            if group.kind == "set" and len(group.items) == 1:
                return self.answers(group.items[0], single)._replace(rule="set")
            return Result(False, "number of answers", f"{len(group.items)} answers against one")
        kinds = {a.kind, b.kind}
        if kinds == {"set"}:
            forward = all(any(self.answers(i, j).equal for j in b.items) for i in a.items)
            return Result(forward and all(any(self.answers(i, j).equal for j in a.items) for i in b.items), "set")
        if len(a.items) != len(b.items):
            return Result(False, "number of answers", f"{len(a.items)} answers against {len(b.items)}")
        if kinds <= {"list", "set"}:
            return self._unordered(_assigned(a), _assigned(b), next(iter(kinds)) if len(kinds) == 1 else "list")
        if "set" in kinds or (len(a.items) == 2 and "bracket" in kinds and kinds != {"bracket"}):
            return Result(False, "kind", "different brackets")
        return self._all(a.items, b.items, "tuple")

    def _unordered(self, a: list[Answer], b: list[Answer], rule: str) -> Result:
        names = {i.name for i in (*a, *b) if isinstance(i, Named)}
        if len(names) > 1 and sum(isinstance(i, Named) for i in a) != sum(isinstance(i, Named) for i in b):
            # x = 1, y = 2 beside 1, 2: values are given in the order of the names.
            return self._all(a, b, rule)
        left = list(b)
        for item in a:
            for position, other in enumerate(left):
                if self.answers(item, other).equal:
                    del left[position]
                    break
            else:
                return Result(False, rule)
        return Result(True, rule)

    def _all(self, a, b, rule: str) -> Result:
        for x, y in zip(a, b, strict=True):
            result = self.answers(x, y)
            if not result.equal:
                return Result(False, rule, result.reason)
        return Result(True, rule)


def _choices(gold: Reading, answer: Reading) -> Result | None:
    """Two choices, at least one of which is written as one: C against (C), "c" and "C) 42"."""
    if gold.text[:1] not in _CHOICE_STARTS or answer.text[:1] not in _CHOICE_STARTS:
        return None
    first, second = choice(gold.text), choice(answer.text)
    if first is None or second is None:
        return None
    return Result(first == second, "choice")


def _assigned(group: Group) -> list[Answer]:
    """x = 1, 2 means x = 1, x = 2: the name of the first answer covers bare ones after it."""
    items = list(group.items)
    first = items[0] if items else None
    if isinstance(first, Named) and not any(isinstance(i, Named) for i in items[1:]):
        items[0] = first.answer
    return items


def _numeral(node: Node) -> int | None:
    if node.__class__ is Op and node.head == "based":
        digits, base = node.args
        return int(digits.digits, int(base.value))  # type: ignore[union-attr]
    return None


def _as_quantity(scalar: Scalar) -> Scalar:
    """ "5 m" beside a quantity is one."""
    if not scalar.letter or not isinstance(scalar.tree, Op):
        return scalar
    number, letter = scalar.tree.args
    return Scalar(number.value, number, unit=named(letter.name))  # type: ignore[union-attr]


def _times(tree: Node, factor: int | Fraction) -> Node:
    return Op("mul", (tree, Num(factor)))


def _rows(answer: Answer) -> list[list[Answer]] | None:
    if isinstance(answer, Matrix):
        return [list(row) for row in answer.rows]
    if isinstance(answer, Group) and answer.kind in ("tuple", "bracket"):
        if all(isinstance(i, Group) and i.kind in ("tuple", "bracket") for i in answer.items):
            return [list(i.items) for i in answer.items if isinstance(i, Group)]
        return [list(answer.items)]
    return None


def _flat(rows: list[list[Answer]]) -> list[list[Answer]]:
    if all(len(row) == 1 for row in rows):
        return [[row[0] for row in rows]]
    return rows


def _proportional(a: Value, b: Value, signed: bool) -> Result:
    """Whether a = c·b for a rational constant c (positive where signed), so that a = 0 and b = 0 say the same."""
    if not isinstance(a, Rat) or not isinstance(b, Rat):
        return Result(False, "relation", "a relation without an unknown")
    if signed and (a.den is not ONE or b.den is not ONE):
        return Result(equal(a, b), "relation")
    p, q = a.num, b.num
    if p.keys() != q.keys():
        return Result(False, "relation")
    mono = next(iter(p))
    ratio = Fraction(p[mono]) / q[mono]
    if signed and ratio < 0:
        return Result(False, "relation")
    return Result(all(c == ratio * q[m] for m, c in p.items()), "relation")

"""From text to an answer."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from . import numeric
from .algebra import Rat, Value, add, mul
from .answer import Answer, Group, Matrix, Named, Ratio, Region, Relation, Scalar, as_region
from .clean import clean
from .evaluate import Evaluator
from .labels import contains_plus_minus, has_symbols, is_matrix, label, without_plus_minus
from .parser import parse
from .polynomial import ONE
from .quantities import number
from .regions import from_brackets, from_relation, intersection, subtract, union
from .tokens import is_name
from .tree import MAX_CHARS, MAX_ITEMS, Node, Num, Op, ParseError, Sym, TooLarge, VerifyError
from .units import UNITS, Unit
from .words import SYNONYMS, Words, read_unit, read_words

_WORDS_ONLY = re.compile(r"[A-Za-z][A-Za-z' -]*[ -][A-Za-z' -]+|[A-Za-z]{3,}")
_PLAIN = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?")
_INFINITY = Sym("inf")
_MINUS_INFINITY = Op("neg", (_INFINITY,))
_COMPARISONS = frozenset(("<", ">", "<=", ">=", "!="))


class Reading(NamedTuple):
    """An answer with its other readings, and why the text is no mathematics where it was read as words."""

    answer: Answer
    others: tuple[Answer, ...]
    has_log: bool
    reason: str
    text: str


@lru_cache(maxsize=512)
def read_gold(text: str, log10: bool = False) -> Reading:
    """`read`, remembered: the completions of a group share their gold answer."""
    return read(text, log10)


def read(text: str, log10: bool = False) -> Reading:
    """The answer that a text gives; what is no mathematics is words. Never raises."""
    if len(text) > 8 * MAX_CHARS:
        return Reading(Words(text), (), False, f"{len(text)} characters, more than {8 * MAX_CHARS}", text)
    reason = ""
    if _PLAIN.fullmatch(text):
        # Most answers: nothing to clean and no tree to build.
        tree: Node = number(text.lstrip("-"))
        value = tree.value if text[0] != "-" else -tree.value  # type: ignore[union-attr]
        return Reading(Scalar(value, tree if text[0] != "-" else Op("neg", (tree,))), (), False, "", text)
    cleaned = clean(text)
    if cleaned[:1].isalpha() and _is_phrase(cleaned):
        return Reading(read_words(cleaned, Scalar), (), False, "", cleaned)
    try:
        tree = parse(cleaned)
        plus_minus = "\\pm" in cleaned or "\\mp" in cleaned or "+-" in cleaned or "+/-" in cleaned
        answer = Reader(log10, plus_minus).answer(tree)
    except VerifyError as error:
        answer, reason = read_words(cleaned, Scalar), str(error)
    except RecursionError:
        answer, reason = Words(cleaned), "nested too deeply"
    others: tuple[Answer, ...] = ()
    if "," in cleaned and re.fullmatch(r"-?\d{1,3}(?:,\d{3})+", cleaned) and len(cleaned) < 200:
        # 100,200 is one number or two.
        others = (Group("list", tuple(Scalar(int(d), Num(int(d))) for d in cleaned.split(","))),)
    return Reading(answer, others, "\\log" in cleaned or "log" in cleaned, reason, cleaned)


class Reader:
    """Builds the parts of one answer, which share one budget of work."""

    def __init__(self, log10: bool, plus_minus: bool) -> None:
        self.evaluator = Evaluator(log10)
        self.has_plus_minus = plus_minus

    def answer(self, node: Node) -> Answer:
        if node.__class__ is Op:
            if self.has_plus_minus and contains_plus_minus(node):
                return self.plus_minus(node)
            handler = _STRUCTURES.get(node.head)
            if handler is not None:
                return handler(self, node)
        elif node.__class__ is Sym:
            name = node.name
            if name == "emptyset":
                return Region("", ())
            if name == "set_R":
                return Region("", from_brackets((_MINUS_INFINITY, _INFINITY), False, False, self.evaluator))
            if name.startswith("set_"):
                return Words(name)
        return self.scalar(node)

    def scalar(self, node: Node) -> Scalar:
        if node in (_INFINITY, _MINUS_INFINITY):
            return Scalar(Rat({(("inf", 1),): 1 if node.__class__ is Sym else -1}, ONE), node)
        if node.__class__ is Op and node.head == "letter_unit":
            return Scalar(self.evaluator.value(node), node, letter=True)
        return Scalar(self.evaluator.value(node), node)

    def group(self, node: Op) -> Answer:
        items: list[Answer] = []
        for child in node.args:
            for variant in without_plus_minus(child):
                items.append(self.answer(variant))
                if len(items) > MAX_ITEMS:
                    raise TooLarge(f"more than {MAX_ITEMS} answers")
        if node.head in ("list", "or"):
            merged = _merged_regions(items, node.head == "or")
            if merged is not None:
                return merged
            if any(isinstance(i, Group) and i.kind == "list" for i in items):
                items = [
                    part for i in items for part in (i.items if isinstance(i, Group) and i.kind == "list" else (i,))
                ]
            return Group("list", tuple(items))
        return Group(node.head, tuple(items))

    def point_or_value(self, node: Op) -> Answer:
        """A(2, 3) is the point A; f(2, 3) a value of f, and C(5, 2) a binomial coefficient."""
        name = node.args[0]
        if isinstance(name, Sym) and name.name.isupper() and name.name != "C" and len(node.args) > 2:
            return Named(name.name, self.group(Op("tuple", node.args[1:])), None)
        return self.scalar(node)

    def plus_minus(self, node: Op) -> Answer:
        return Group("list", tuple(self.answer(v) for v in without_plus_minus(node)))

    def set_or_builder(self, node: Op) -> Answer:
        if len(node.args) == 1 and node.args[0].__class__ is Op and node.args[0].head == "builder":
            element, condition = node.args[0].args
            if element.__class__ is Op and element.head == "relation":
                element = element.args[0]  # {x ∈ ℝ | …}
            region = self.answer(condition)
            if element.__class__ is Sym and isinstance(region, Region) and region.variable in ("", element.name):
                return Region("", region.parts)
            raise ParseError("a set that is no union of intervals")
        if not node.args:
            return Region("", ())
        return self.group(node)

    def interval(self, node: Op) -> Answer:
        return Region("", from_brackets(node.args, node.head == "co", node.head == "oc", self.evaluator))

    def bracket(self, node: Op) -> Answer:
        return self.answer(node.args[0]) if len(node.args) == 1 else self.group(node)

    def combined(self, node: Op) -> Answer:
        a, b = (as_region(self.answer(child), self.evaluator) for child in node.args)
        if a is None or b is None:
            raise ParseError(f"{node.head} of something that is no set of numbers")
        operation = {"cup": union, "cap": intersection, "minus": subtract}[node.head]
        return Region(a.variable, operation(a.parts, b.parts))

    def ratio(self, node: Op) -> Answer:
        items = tuple(self.scalar(child) for child in node.args)
        digits = [n.digits for n in node.args if n.__class__ is Num]
        whole = len(digits) == len(items) < 4 and all(d.isdigit() for d in digits)
        clock = whole and all(len(d) == 2 and int(d) < 60 for d in digits[1:])
        return Ratio(items, tuple(int(d) for d in digits) if clock else ())

    def matrix(self, node: Op) -> Answer:
        return Matrix(tuple(tuple(self.answer(c) for c in row.args) for row in node.args if row.__class__ is Op))

    def determinant(self, node: Op) -> Answer:
        rows = [[self.evaluator.value(c) for c in row.args] for row in node.args if row.__class__ is Op]
        if len(rows) != len(rows[0]) or len(rows) > 4:
            raise ParseError("the determinant of this matrix")
        return Scalar(self._determinant(rows), node)

    def _determinant(self, rows: list[list[Value]]) -> Value:
        if len(rows) == 1:
            return rows[0][0]
        total: Value = 0
        for k, entry in enumerate(rows[0]):
            minor = [row[:k] + row[k + 1 :] for row in rows[1:]]
            total = add(
                total,
                mul(entry, self._determinant(minor), self.evaluator.work),
                self.evaluator.work,
                -1 if k & 1 else 1,
            )
        return total

    def product(self, node: Op) -> Answer:
        """A product or quotient: of numbers, or of a number and a matrix."""
        left, right = node.args
        if is_matrix(left) or is_matrix(right):
            return self._matrix_product(node.head, left, right)
        return self.scalar(node)

    def _matrix_product(self, head: str, left: Node, right: Node) -> Answer:
        a, b = self.answer(left), self.answer(right)
        if isinstance(a, Scalar):
            a, b = b, a
        if not isinstance(a, Matrix) or not isinstance(b, Scalar) or b.value is None:
            raise ParseError("a product of matrices")
        factor = b.value if head == "mul" else self.evaluator.value(Op("div", (Num(1), right)))
        rows = []
        for row in a.rows:
            if not all(isinstance(c, Scalar) for c in row):
                raise ParseError("a matrix of something else than numbers")
            rows.append(tuple(
                Scalar(mul(c.value, factor, self.evaluator.work), Op(head, (c.tree, b.tree)))  # type: ignore[arg-type, union-attr]
                for c in row
            ))  # fmt: skip
        return Matrix(tuple(rows))

    def negative(self, node: Op) -> Answer:
        if is_matrix(node.args[0]):
            return self._matrix_product("mul", node.args[0], Num(-1))
        return self.scalar(node)

    def marked(self, node: Op) -> Answer:
        """50% and 90° on their own: what a bare number beside them means is decided when comparing."""
        return Scalar(self.evaluator.value(node.args[0]), node.args[0], "%" if node.head == "percent" else "°")

    def with_unit(self, node: Op) -> Answer:
        inner, words = node.args
        assert isinstance(words, Sym)
        kind, scale, unit = read_unit(words.name)
        answer = self.answer(inner)
        if isinstance(answer, Scalar) and answer.kind == "°" and words.name.lower() in ("celsius", "fahrenheit"):
            answer = answer._replace(kind="")
        return self._attach(answer, kind, scale, unit)

    def _attach(self, answer: Answer, kind: str, scale: int, unit: Unit | None) -> Answer:
        if isinstance(answer, Named):
            return Named(answer.name, self._attach(answer.answer, kind, scale, unit), None)
        if isinstance(answer, Group) and answer.kind == "tuple":
            return Group("tuple", tuple(self._attach(i, kind, scale, unit) for i in answer.items))
        if not isinstance(answer, Scalar) or answer.value is None:
            return _refuse_unit()
        if answer.unit is not None and unit is not None:
            return _refuse_unit()
        if unit is not None and has_symbols(answer.tree) and not any(unit == u for u in UNITS.values()):
            return _refuse_unit()  # "an ellipse" is no quantity
        tree = answer.tree if scale == 1 else Op("mul", (answer.tree, Num(scale)))
        value = answer.value if scale == 1 else mul(answer.value, scale, self.evaluator.work)
        return Scalar(value, tree, kind or answer.kind, unit or answer.unit)

    def relation(self, node: Op) -> Answer:
        parts = node.args
        operators = [p.name for p in parts[1::2] if p.__class__ is Sym]
        if operators[0] == "in" and len(operators) == 1:
            return self._membership(parts[0], parts[2])
        if all(op in ("=", "~") for op in operators):
            return self._equality(list(parts[::2]), operators)
        if all(op in _COMPARISONS for op in operators):
            region = from_relation(parts, self.evaluator)
            if region is not None:
                return Region(*region)
            if len(parts) == 3:
                a, b = self.evaluator.value(parts[0]), self.evaluator.value(parts[2])
                if operators[0] in (">", ">="):
                    a, b = b, a
                return Relation(operators[0].replace(">", "<"), add(a, b, self.evaluator.work, -1))
        raise ParseError("a chain of relations")

    def _membership(self, element: Node, container: Node) -> Answer:
        name = label(element)
        answer = self.answer(container)
        region = as_region(answer, self.evaluator)
        if name is None:
            raise ParseError("membership of something that is no name")
        if isinstance(answer, Group) and answer.kind == "set":
            return Group("list", tuple(Named(name, item, None) for item in answer.items))  # x ∈ {1, 2}
        return Named(name, answer, None) if region is None else Region(name, region.parts)

    def _equality(self, sides: list[Node], operators: list[str]) -> Answer:
        """A name and its value, a chain of equal values, or an equation. What is behind ≈ is the rounded value."""
        exact = sides
        if "~" in operators:
            cut = operators.index("~") + 1
            exact = sides[:cut] if cut > 1 or label(sides[0]) is None else sides[: cut + 1]
        if len(exact) == 1:
            return self.answer(exact[0])
        if len(exact) == 2 and label(exact[0]) is None and label(exact[1]) is not None:
            exact = exact[::-1]
        name = label(exact[0])
        if name is not None:
            self._check_chain(exact[1:])
            variants = without_plus_minus(exact[-1])
            answer = self.answer(exact[-1])
            equation = None
            if len(exact) == 2 and len(variants) == 1 and isinstance(answer, Scalar) and isinstance(answer.value, Rat):
                equation = add(self.evaluator.value(exact[0]), answer.value, self.evaluator.work, -1)
            if answer.__class__ is Group and len(variants) > 1:
                return Group("list", tuple(Named(name, a, None) for a in answer.items))
            return Named(name, answer, equation)
        values = [self.evaluator.value(side) for side in exact]
        if all(not has_symbols(side) for side in exact):
            self._check_chain(exact)  # 2 + 3 = 5: its value, if it is true
            return self.answer(exact[-1])
        if len(values) != 2:
            raise ParseError("a chain of equations")
        return Relation("=", add(values[0], values[1], self.evaluator.work, -1))

    def _check_chain(self, sides: list[Node]) -> None:
        """ParseError where neighbours of a chain of equations are numbers that differ."""
        for a, b in pairwise(sides):
            if not has_symbols(a) and not has_symbols(b) and numeric.differ(a, b, self.evaluator.log10) is True:
                raise ParseError("a false equation")


def _merged_regions(items: list[Answer], either: bool) -> Region | None:
    """Inequalities joined by "or" are a union; by "and" or a comma an intersection, or a union if that is empty."""
    regions = [i for i in items if isinstance(i, Region) and i.variable]
    if len(regions) != len(items) or len({r.variable for r in regions}) != 1 or len(regions) < 2:
        return None
    all_of = any_of = regions[0].parts
    for region in regions[1:]:
        all_of, any_of = intersection(all_of, region.parts), union(any_of, region.parts)
    return Region(regions[0].variable, any_of if either or not all_of else all_of)


def _is_phrase(text: str) -> bool:
    """Whether a text is words only, at least one of which is no name that mathematics uses."""
    if text.casefold() in SYNONYMS:
        return True
    if not _WORDS_ONLY.fullmatch(text):
        return False
    return any(
        len(w) > 2 and not is_name(w) and w not in UNITS and not w.isupper() for w in text.replace("-", " ").split()
    )


def _refuse_unit() -> Answer:
    raise ParseError("words behind something that is no number")


_STRUCTURES = {
    **dict.fromkeys(("list", "or", "tuple"), Reader.group),
    "set": Reader.set_or_builder,
    "bracket": Reader.bracket,
    "oc": Reader.interval,
    "co": Reader.interval,
    **dict.fromkeys(("cup", "cap", "minus"), Reader.combined),
    "apply": Reader.point_or_value,
    "ratio": Reader.ratio,
    "matrix": Reader.matrix,
    "det": Reader.determinant,
    **dict.fromkeys(("mul", "div"), Reader.product),
    "neg": Reader.negative,
    **dict.fromkeys(("percent", "degree"), Reader.marked),
    "unit": Reader.with_unit,
    "relation": Reader.relation,
}

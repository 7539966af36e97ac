"""A Pratt parser from tokens to the typed tree.

Heads of `Op`: add, mul, letter_unit (number and letter), div, mod, pow, neg, pm, mp (one operand or two), mixed,
based, percent, degree, factorial, the functions of `tokens.FUNCTIONS` (log has an optional second operand, its base),
apply (a symbol and its arguments), apply1 (a symbol before one bracket), sum and prod (index, from, to, body), list,
or, tuple, set, bracket, oc, co (brackets and half-open intervals), matrix (of tuples), det, relation (operand,
operator, operand, …), cup, cap, minus, builder, ratio, unit.
"""

from __future__ import annotations

from .quantities import bracket, number, starts_unit, unit
from .tokens import Token, tokenize
from .tree import MAX_DEPTH, Node, Num, Op, ParseError, Sym, TooLarge
from .units import LETTER_UNITS, NOT_UNITS

RELATIONS = frozenset(("=", "<", ">", "<=", ">=", "!=", "~", "in"))
_SETS = {"cup": "cup", "cap": "cap", "\\": "minus"}
_RELATION, _SET, _RATIO, _SUM, _PRODUCT, _SIGN, _POWER, _POSTFIX = 10, 14, 16, 20, 30, 32, 40, 50
_INFIX = {
    **dict.fromkeys(RELATIONS, _RELATION),
    **dict.fromkeys(_SETS, _SET),
    ":": _RATIO,
    "choose": _SUM - 1,
    **dict.fromkeys(("+", "-", "pm", "mp"), _SUM),
    **dict.fromkeys(("*", "/", "mod"), _PRODUCT),
    "^": _POWER,
    **dict.fromkeys(("!", "%", "circ", "_"), _POSTFIX),
}
_OPENING = frozenset(("(", "[", "{", "{{", "<<", "floor(", "ceil(", "|"))
_CLOSING = {"(": (")", "]"), "[": ("]", ")"), "{": ("}",), "{{": ("}}",), "<<": (">>",)}
_SEPARATORS = frozenset((",", ";", "and", "or"))
_CONSTANT_SYMBOLS = frozenset(("pi", "inf", "emptyset"))
_FUNCTION_NAMES = frozenset("fghFGHPpqQW")


def parse(text: str) -> Node:
    """The tree of a cleaned text; a list of several answers becomes `Op("list", …)`. ParseError or TooLarge."""
    parser = Parser(tokenize(text))
    node = parser.sequence(())
    if parser.kind != "end":
        raise ParseError(f"unexpected {parser.value!r}")
    return node


class Parser:
    """One token of look-ahead over a token list."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0
        self.builder = False
        self.kind, self.value, self.spaced = tokens[0]

    def advance(self) -> None:
        self.at += 1
        self.kind, self.value, self.spaced = self.tokens[self.at]

    def peek(self, ahead: int = 1) -> Token:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else self.tokens[-1]

    def is_op(self, value: str) -> bool:
        return self.kind == "o" and self.value == value

    def expect(self, value: str) -> None:
        if self.kind != "o" or self.value != value:
            raise ParseError(f"expected {value!r}, found {self.value!r}")
        self.advance()

    def sequence(self, closing: tuple[str, ...]) -> Node:
        """Items up to a closing bracket (not consumed) or the end: one item itself, or a list."""
        items = [self.item()]
        separators = set()
        while self.kind == "o" and self.value in _SEPARATORS:
            separators.add(self.value)
            self.advance()
            # "1, 2, and 3": two separators are one.
            while self.kind == "o" and self.value in _SEPARATORS:
                self.advance()
            if self.kind == "end" or (self.kind == "o" and self.value in closing):
                break
            items.append(self.item())
        if len(items) == 1:
            return items[0]
        return Op("or" if separators == {"or"} else "list", tuple(items))

    def item(self) -> Node:
        if self.kind == "t" and self.value == "":
            self.advance()
        node = self.expression(0)
        if self.kind == "t" and self.value == "":
            self.advance()
        if self.kind in "wts" or (self.kind == "o" and self.value in ("$", "eur", "gbp", "yen", "inr", "cent")):
            node = unit(self, node)
        return node

    def expression(self, power: int) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge(f"nested deeper than {MAX_DEPTH}")
        left = self.prefix()
        while True:
            kind = self.kind
            if kind == "o":
                binding = _INFIX.get(self.value)
                if binding is None:
                    if (
                        (self.value in _OPENING or self.value.startswith("begin "))
                        and power < _PRODUCT
                        and not (self.value == "|" and self.bars)
                    ):
                        if self.value == "|" and self.builder:
                            break
                        left = self.implicit(left)
                        continue
                    if self.value == "'" and power < _POSTFIX and left.__class__ is Sym:
                        self.advance()
                        left = Sym(left.name + "_prime")
                        continue
                    break
                if binding <= power and not (binding == _POWER and power == _POWER):
                    break
                if self.value == ":" and self.builder:
                    break
                left = self.infix(left, binding)
            elif kind == "end" or power >= _PRODUCT:
                break
            elif kind == "t" or (kind in "ws" and starts_unit(self)):
                if kind == "s" and self.value == "U" and self.peek()[1] in _OPENING:
                    # (0,1) U (2,3) in plain text.
                    if power >= _SET:
                        break
                    self.advance()
                    left = Op("cup", (left, self.expression(_SET)))
                    continue
                break
            else:
                left = self.implicit(left)
        self.depth -= 1
        return left

    def implicit(self, left: Node) -> Node:
        """A product without a sign, a mixed number, or a function applied."""
        if self.kind == "n":
            # 4 2/3 is a mixed number; "4 5" is nothing.
            if (
                left.__class__ is Num
                and left.value.__class__ is int
                and self.value.isdigit()
                and self.peek()[1] == "/"
                and self.peek(2)[0] == "n"
                and self.peek(2)[1].isdigit()
                and self.spaced
            ):
                numerator, denominator = int(self.value), int(self.peek(2)[1])
                if 0 < numerator < denominator:
                    for _ in range(3):
                        self.advance()
                    return Op("mixed", (left, Num(numerator), Num(denominator)))
            if left.__class__ is Num:
                raise ParseError("two numbers side by side")
        elif self.kind == "f" and self.value == "frac" and left.__class__ is Num and left.value.__class__ is int:
            right = self.prefix()
            if right.__class__ is Op and right.head == "div":
                above, below = right.args
                if (
                    above.__class__ is Num
                    and below.__class__ is Num
                    and above.value.__class__ is int
                    and below.value.__class__ is int
                    and 0 < above.value < below.value
                ):
                    return Op("mixed", (left, above, below))
            return Op("mul", (left, self.raised(right)))
        elif self.is_op("(") and left.__class__ is Sym and not self.spaced and left.name not in _CONSTANT_SYMBOLS:
            arguments = self.prefix()
            inner = arguments.args if arguments.__class__ is Op and arguments.head == "tuple" else (arguments,)
            if len(inner) > 1 or left.name in _FUNCTION_NAMES:
                return Op("apply", (left, *inner))
            right = arguments
            if self.kind == "o" and _INFIX.get(self.value, 0) > _PRODUCT:
                right = self.raised(arguments)
            return Op("apply1", (left, right))
        elif (
            self.kind == "s" and self.spaced and self.value in LETTER_UNITS and left.__class__ is Num
            and self.peek()[0] == "end"
        ):  # fmt: skip
            # "5 m": a product or a quantity; the comparison decides.
            letter = Sym(self.value)
            self.advance()
            return Op("letter_unit", (left, letter))
        return Op("mul", (left, self.expression(_PRODUCT)))

    def raised(self, left: Node) -> Node:
        while self.kind == "o" and _INFIX.get(self.value, 0) > _PRODUCT:
            left = self.infix(left, _INFIX[self.value])
        return left

    def infix(self, left: Node, binding: int) -> Node:
        op = self.value
        if binding == _SUM:
            self.advance()
            right = self.expression(_SUM)
            if op == "+":
                return Op("add", (left, right))
            return Op("add", (left, Op("neg", (right,)))) if op == "-" else Op(op, (left, right))
        if binding == _PRODUCT:
            self.advance()
            return Op({"*": "mul", "/": "div"}.get(op, op), (left, self.expression(_PRODUCT)))
        if binding == _POWER:
            return self.power(left)
        if binding == _POSTFIX:
            self.advance()
            if op == "_":
                return self.subscript(left)
            if op == "!" and self.is_op("="):
                raise ParseError("!= after an operand")
            return Op({"!": "factorial", "%": "percent", "circ": "degree"}[op], (left,))
        if binding == _RELATION:
            parts: list[Node] = [left]
            while self.kind == "o" and self.value in RELATIONS:
                parts.append(Sym(self.value))
                self.advance()
                parts.append(self.expression(_RELATION))
            return Op("relation", tuple(parts))
        self.advance()
        if op == "choose":
            return Op("binomial", (left, self.expression(_SUM - 1)))
        if op == ":":
            items = [left, self.expression(_RATIO)]
            while self.is_op(":"):
                self.advance()
                items.append(self.expression(_RATIO))
            return Op("ratio", tuple(items))
        return Op(_SETS[op], (left, self.expression(_SET)))

    def power(self, left: Node) -> Node:
        self.advance()
        if self.is_op("circ"):
            self.advance()
            return self.degree(left)
        if self.is_op("{") and self.peek()[1] == "circ" and self.peek(2)[1] == "}":
            for _ in range(3):
                self.advance()
            return self.degree(left)
        if self.is_op("{") and self.peek()[1] == "'" and left.__class__ is Sym:
            self.advance()
            name = left.name
            while self.is_op("'"):
                name += "_prime"
                self.advance()
            self.expect("}")
            return Sym(name)
        return Op("pow", (left, self.exponent()))

    def degree(self, left: Node) -> Node:
        """An angle, or a temperature where C or F stands behind it."""
        if self.kind == "s" and self.value in ("C", "F") and self.peek()[0] in ("end", "t"):
            unit = "celsius" if self.value == "C" else "fahrenheit"
            self.advance()
            return Op("unit", (left, Sym(unit)))
        return Op("degree", (left,))

    def exponent(self) -> Node:
        if self.kind == "o" and self.value in ("-", "+"):
            negative = self.value == "-"
            self.advance()
            inner = self.expression(_POWER)
            return Op("neg", (inner,)) if negative else inner
        # Right-associative: the power loop lets an equal binding through.
        return self.expression(_POWER)

    def subscript(self, left: Node) -> Node:
        """x_1 and x_{max} are names; 52_8 is a numeral in base 8."""
        parts = []
        if self.is_op("{"):
            self.advance()
            while not self.is_op("}"):
                if self.kind == "end":
                    raise ParseError("an open subscript")
                parts.append(self.value)
                self.advance()
            self.advance()
        elif self.kind in "nsw":
            parts.append(self.value)
            self.advance()
        else:
            raise ParseError("an empty subscript")
        name = "".join(p for p in parts if p)
        if left.__class__ is Num and left.digits and name.isdigit():
            return Op("based", (left, Num(int(name[:6]))))
        if left.__class__ is not Sym:
            raise ParseError("a subscript of something that is not a name")
        name = "".join(c if c.isalnum() else "_" for c in name)
        return Sym(f"{left.name}_{name}")

    def prefix(self) -> Node:
        kind, value = self.kind, self.value
        if kind == "n":
            self.advance()
            return number(value)
        if kind == "s":
            self.advance()
            if self.kind == "t" and self.value == "":
                self.advance()
            return Sym(value)
        if kind == "f":
            from . import operands

            return operands.parse_function(self, value)
        if kind == "w":
            return self.letters(value)
        if kind != "o":
            raise ParseError("text" if kind == "t" else "the end where a value should be")
        if value in ("-", "+"):
            self.advance()
            operand = self.expression(_SIGN - 3)
            return Op("neg", (operand,)) if value == "-" else operand
        if value in ("pm", "mp"):
            self.advance()
            return Op(value, (self.expression(_SIGN - 3),))
        if value in ("$", "eur", "gbp", "yen", "inr", "cent"):
            self.advance()
            amount = self.expression(_SUM)
            return Op("unit", (amount, Sym({"$": "$", "gbp": "£"}.get(value, value))))
        if value == "~":
            self.advance()
            return self.expression(_RELATION)
        if value in _OPENING:
            return self.bracketed(value)
        if value.startswith("begin "):
            from . import operands

            return operands.parse_matrix(self, value[6:])
        raise ParseError(f"unexpected {value!r}")

    def letters(self, word: str) -> Node:
        """A short word is a product of letters (xy, RC, AB); a longer one is prose."""
        if (
            not word.isascii()
            or (len(word) > 3 and not word.isupper())
            or len(word) > 6
            or (word.lower() in NOT_UNITS and not word.isupper())
        ):
            raise ParseError(f"the word {word!r}")
        self.advance()
        node: Node = Sym(word[0])
        for letter in word[1:-1]:
            node = Op("mul", (node, Sym(letter)))
        last: Node = Sym(word[-1])
        if self.kind == "o" and self.value in ("^", "_", "!", "'") and not self.spaced:
            last = self.raised(last)
        return Op("mul", (node, last))

    def bracketed(self, opening: str) -> Node:
        self.advance()
        if opening in ("floor(", "ceil("):
            inner = self.expression(0)
            self.expect(")floor" if opening == "floor(" else ")ceil")
            return Op(opening[:-1], (inner,))
        bars, builder = self.bars, self.builder
        if opening == "|":
            self.bars, self.builder = 1, False
            inner = self.expression(_SET)
            self.expect("|")
            self.bars, self.builder = bars, builder
            return Op("abs", (inner,))
        self.bars = 0
        self.builder = opening == "{{" or (opening == "{" and self.at == 1)
        closings = _CLOSING[opening]
        if self.kind == "o" and self.value in closings:
            self.advance()
            self.bars, self.builder = bars, builder
            if opening in ("{{", "{"):
                return Op("set", ())
            raise ParseError("empty brackets")
        inner = self.sequence(closings)
        if self.builder and self.kind == "o" and self.value in ("|", ":"):
            self.advance()
            self.builder = False
            condition = self.sequence(closings)
            inner = Op("builder", (inner, condition))
        self.bars, self.builder = bars, builder
        if self.kind != "o" or self.value not in closings:
            raise ParseError(f"expected {closings[0]!r}, found {self.value!r}")
        closing = self.value
        self.advance()
        return bracket(opening, closing, inner)

"""Chains of + − × over integers: their value, and the working that reaches it step by step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

OPERATORS = "+-*"
# One chain in running text; only its first operand can carry a sign.
_CHAIN = re.compile(r"-?\d+(?:[+\-*]\d+)+")
_PIECES = re.compile(r"(?<!^)([+\-*])")
# One expression in this many is held out.
HELDOUT_ONE_IN = 32


@dataclass(frozen=True)
class Chain:
    """`operands[0] operators[0] operands[1] …`: × binds tighter, otherwise from left to right.

    Only the first operand may be negative (a running total); a chain of one operand is a number.
    """

    operands: tuple[int, ...]
    operators: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return str(self.operands[0]) + "".join(
            f"{o}{n}" for o, n in zip(self.operators, self.operands[1:], strict=True)
        )

    def reduced(self) -> Chain:
        """The chain after one operation: the leftmost product if there is one, else the leftmost operation."""
        at = self.operators.index("*") if "*" in self.operators else 0
        left, right = self.operands[at], self.operands[at + 1]
        operator = self.operators[at]
        result = left * right if operator == "*" else left + right if operator == "+" else left - right
        return Chain(
            (*self.operands[:at], result, *self.operands[at + 2 :]),
            self.operators[:at] + self.operators[at + 1 :],
        )

    def working(self) -> list[Chain]:
        """This chain, then each chain after one more operation, down to the number that is its value."""
        lines = [self]
        while lines[-1].operators:
            lines.append(lines[-1].reduced())
        return lines

    @property
    def value(self) -> int:
        return self.working()[-1].operands[0]


def written_out(chain: Chain) -> str:
    """`3*4+12-9=12+12-9=24-9=15`"""
    return "=".join(step.text for step in chain.working())


def is_heldout(expression: str, one_in: int = HELDOUT_ONE_IN) -> bool:
    """Whether this very expression belongs to the held-out side, one in `one_in` by a hash of its text.

    A single product stays on the training side: the multiplication table has nothing to generalise from.
    """
    digest = blake2b(expression.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % one_in == 0 and not re.fullmatch(r"\d+\*\d+", expression)


def contains_heldout(text: str, one_in: int = HELDOUT_ONE_IN) -> bool:
    """Whether a held-out expression stands anywhere in the text: as a chain, or as a run inside a longer one.

    Facts (`24-9`), sub-expressions and each line of a working are covered, since all are runs of two operands or
    more. A text for which this is False teaches no held-out problem.
    """
    for match in _CHAIN.finditer(text):
        pieces = _PIECES.split(match.group())
        for start in range(0, len(pieces), 2):
            for stop in range(start + 3, len(pieces) + 1, 2):
                if is_heldout("".join(pieces[start:stop]), one_in):
                    return True
    return False

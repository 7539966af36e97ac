"""Arithmetic: the value of a chain of + − × with two operands or more. Endless, seeded, by difficulty."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from data.chains import HELDOUT_ONE_IN, Chain, contains_heldout, is_heldout, written_out
from data.problem import Problem
from data.split import distinct
from data.templates import check_placeholders

# Longer chains hold so many runs of operands that hardly one is free of held-out expressions.
MAX_OPERANDS = 8
# A difficulty whose totals hardly ever stay within their bounds would be redrawn for ever.
MAX_DRAWS = 10_000


@dataclass(frozen=True)
class Arithmetic:
    """Problem source of chains such as `3*4+12-9=?`.

    operands: relative frequency of each number of operands. max_term: largest number that stands alone.
    max_factor: largest factor of a product (below 2: no products). low, high: bounds that every running total keeps.
    operators: which of `+-*` occur. phrasing: the question, with `{expression}` where the chain goes. spaced: whether
    spaces stand around operators there. heldout_one_in: one expression in so many is held out; a narrow difficulty
    needs a larger share to have enough of them.
    Held-out problems are those whose whole expression falls into the held-out hash share; a training problem
    contains none of them, neither in its expression nor in any line of its working (`data.chains`).
    """

    operands: Mapping[int, float] = field(default_factory=lambda: {2: 0.2, 3: 0.3, 4: 0.3, 5: 0.2})
    max_term: int = 50
    max_factor: int = 9
    low: int = -99
    high: int = 199
    operators: str = "+-*"
    phrasing: str = "{expression}=?"
    spaced: bool = False
    heldout_one_in: int = HELDOUT_ONE_IN
    name: str = "arithmetic"

    def __post_init__(self) -> None:
        check_placeholders("arithmetic: phrasing", self.phrasing, ["expression"])
        try:
            counts = {int(k): float(v) for k, v in self.operands.items()}
        except (AttributeError, TypeError, ValueError):
            counts = {}
        if (
            not counts
            or min(counts) < 2
            or max(counts) > MAX_OPERANDS
            or not sum(counts.values())
            or min(counts.values()) < 0
        ):
            raise ValueError(
                f"arithmetic: operands={self.operands!r} must map counts of 2 to {MAX_OPERANDS} operands to "
                "frequencies, for example {2: 0.5, 3: 0.5}."
            )
        unknown = set(self.operators) - set("+-*")
        if unknown or not set(self.operators) & set("+-"):
            raise ValueError(f"arithmetic: operators {self.operators!r} must be of '+-*' and contain '+' or '-'.")
        if self.max_term < 1 or self.low >= self.high or self.high < self.max_term:
            raise ValueError(
                f"arithmetic: no chain fits max_term={self.max_term} with totals in {self.low}..{self.high}; "
                "widen low and high to hold at least the largest term."
            )
        if self.heldout_one_in < 2:
            raise ValueError(
                f"arithmetic: heldout_one_in={self.heldout_one_in} must be at least 2, or nothing is left to train on."
            )
        object.__setattr__(self, "operands", counts)
        self.draw(Random(0))

    def train(self, seed: int, index: int) -> Problem:
        rng = Random(f"arithmetic train {seed} {index}")
        for _ in range(MAX_DRAWS):
            chain = self.draw(rng)
            if not contains_heldout(written_out(chain), self.heldout_one_in):
                return self._problem(chain)
        raise ValueError(
            f"arithmetic: of {MAX_DRAWS} problems drawn every one holds a held-out expression: the options {self} "
            "leave too few. Widen them."
        )

    def heldout(self, count: int, seed: int = 0) -> list[Problem]:
        rng = Random(f"arithmetic held out {seed}")
        found = distinct(
            lambda: self.draw(rng),
            lambda chain: chain,
            lambda chain: is_heldout(chain.text, self.heldout_one_in),
            count,
        )
        return [self._problem(chain) for chain in found]

    def draw(self, rng: Random) -> Chain:
        """A random chain of this difficulty, from either side of the split."""
        sizes, weights = zip(*self.operands.items(), strict=True)
        for _ in range(MAX_DRAWS):
            chain = self._attempt(rng, rng.choices(sizes, weights)[0])
            if all(self.low <= step.operands[0] <= self.high for step in chain.working()):
                return chain
        raise ValueError(
            f"arithmetic: every running total must lie in low={self.low}..high={self.high}, and of {MAX_DRAWS} chains "
            f"with max_term={self.max_term} none does; widen low and high."
        )

    def _attempt(self, rng: Random, size: int) -> Chain:
        operators: list[str] = []
        without_products = self.operators.replace("*", "")
        for _ in range(size - 1):
            # Products of three factors leave the range of totals: × never follows ×.
            no_product = self.max_factor < 2 or operators[-1:] == ["*"]
            operators.append(rng.choice(without_products if no_product else self.operators))
        operands = []
        for i in range(size):
            in_product = "*" in operators[max(i - 1, 0) : i + 1]
            operands.append(rng.randint(2, self.max_factor) if in_product else rng.randint(1, self.max_term))
        return Chain(tuple(operands), tuple(operators))

    def _problem(self, chain: Chain) -> Problem:
        shown = re.sub(r"(?<!^)([+*-])", r" \1 ", chain.text) if self.spaced else chain.text
        return Problem(
            prompt=self.phrasing.format(expression=shown),
            answer=str(chain.value),
            columns={"expression": chain.text},
        )

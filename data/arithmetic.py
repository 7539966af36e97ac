"""Arithmetic: the value of a chain of + − × with two operands or more. Endless, seeded, by difficulty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from data.chains import Chain, contains_heldout, is_heldout, written_out
from data.problem import Problem


@dataclass(frozen=True)
class Arithmetic:
    """Problem source of chains such as `3*4+12-9=?`.

    operands: relative frequency of each number of operands. max_term: largest number that stands alone.
    max_factor: largest factor of a product (0: no products). low, high: bounds that every running total keeps.
    operators: which of `+-*` occur. phrasing: the question, with `{expression}` where the chain goes.
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
    name: str = "arithmetic"

    def __post_init__(self) -> None:
        if "{expression}" not in self.phrasing:
            raise ValueError(f"arithmetic: phrasing {self.phrasing!r} has no {{expression}}; put it in.")
        counts = {int(k): float(v) for k, v in self.operands.items()}
        if not counts or min(counts) < 2 or any(v < 0 for v in counts.values()) or not sum(counts.values()):
            raise ValueError(
                f"arithmetic: operands {dict(self.operands)!r} must map counts of at least 2 to frequencies."
            )
        unknown = set(self.operators) - set("+-*")
        if unknown or not set(self.operators) & set("+-"):
            raise ValueError(f"arithmetic: operators {self.operators!r} must be of '+-*' and contain '+' or '-'.")
        if self.max_term < 1 or self.low >= self.high or self.high < self.max_term:
            raise ValueError(
                f"arithmetic: no chain fits max_term={self.max_term} with totals in {self.low}..{self.high}; "
                "widen low and high to hold at least the largest term."
            )
        object.__setattr__(self, "operands", counts)

    def train(self, seed: int, index: int) -> Problem:
        rng = Random(f"arithmetic train {seed} {index}")
        while True:
            chain = self.draw(rng)
            if not contains_heldout(written_out(chain)):
                return self._problem(chain)

    def heldout(self, count: int, seed: int = 0) -> list[Problem]:
        rng = Random(f"arithmetic held out {seed}")
        found: dict[str, Problem] = {}
        # A narrow difficulty can have fewer held-out problems than asked for: give those there are.
        for _ in range(2000 * count):
            chain = self.draw(rng)
            if chain.text not in found and is_heldout(chain.text):
                found[chain.text] = self._problem(chain)
                if len(found) == count:
                    break
        return list(found.values())

    def draw(self, rng: Random) -> Chain:
        """A random chain of this difficulty, from either side of the split."""
        sizes, weights = zip(*self.operands.items(), strict=True)
        while True:
            chain = self._attempt(rng, rng.choices(sizes, weights)[0])
            if all(self.low <= step.operands[0] <= self.high for step in chain.working()):
                return chain

    def _attempt(self, rng: Random, size: int) -> Chain:
        operators: list[str] = []
        for _ in range(size - 1):
            # Products of three factors leave the range of totals: × never follows ×.
            allowed = self.operators.replace("*", "") if operators[-1:] == ["*"] else self.operators
            operators.append(rng.choice(allowed))
        operands = []
        for i in range(size):
            in_product = "*" in operators[max(i - 1, 0) : i + 1]
            operands.append(rng.randint(2, self.max_factor) if in_product else rng.randint(1, self.max_term))
        return Chain(tuple(operands), tuple(operators))

    def _problem(self, chain: Chain) -> Problem:
        return Problem(
            prompt=self.phrasing.format(expression=chain.text),
            answer=str(chain.value),
            columns={"expression": chain.text},
        )

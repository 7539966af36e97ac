"""Countdown: reach a target from given numbers, each used once (TinyZero's task, without parentheses)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import permutations, product
from random import Random

from data.chains import OPERATORS, Chain
from data.problem import Problem

HELDOUT_ONE_IN = 16
PHRASINGS = {
    "short": "Make {target} from {numbers}.",
    # TinyZero's words.
    "tinyzero": (
        "Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic "
        "operations (+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. "
        "And return the final answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>"
    ),
}


@lru_cache(maxsize=1 << 16)
def combinations_of(numbers: tuple[int, ...], max_factor: int) -> tuple[tuple[int, tuple[Chain, ...]], ...]:
    """Every way to combine the numbers into a value of at least 0: (value, the orders it can be written in).

    Two chains are one combination when they differ only in the order of terms or factors. × joins at most two
    numbers, both at most `max_factor`.
    """
    found: dict[tuple, tuple[int, dict[Chain, None]]] = {}
    for operands in permutations(sorted(numbers)):
        for operators in product(OPERATORS, repeat=len(operands) - 1):
            terms: list[tuple[str, list[int]]] = [("+", [operands[0]])]
            for operator, number in zip(operators, operands[1:], strict=True):
                if operator == "*":
                    terms[-1][1].append(number)
                else:
                    terms.append((operator, [number]))
            if any(len(f) > 2 or (len(f) == 2 and max(f) > max_factor) for _, f in terms):
                continue
            chain = Chain(operands, operators)
            if chain.value >= 0:
                key = tuple(sorted((sign, tuple(sorted(factors))) for sign, factors in terms))
                found.setdefault(key, (chain.value, {}))[1][chain] = None
    return tuple((value, tuple(chains)) for value, chains in found.values())


@dataclass(frozen=True)
class Countdown:
    """Problem source: `Make 25 from 3 7 4.`

    count: numbers per problem. small: range of the small numbers, which × may join. large: range of the large
    number that replaces one small one in a share `large_share` of problems. Targets are positive values of
    combinations without parentheses, so every problem is solvable. phrasing: `short`, `tinyzero` or a text with
    `{numbers}` and `{target}`. A problem is held out by a hash of its sorted numbers and target, so no order of
    the numbers leaks it.
    """

    count: int = 3
    small: tuple[int, int] = (2, 9)
    large: tuple[int, int] = (10, 30)
    large_share: float = 0.3
    max_target: int = 199
    phrasing: str = "short"
    name: str = "countdown"

    def __post_init__(self) -> None:
        text = PHRASINGS.get(self.phrasing, self.phrasing)
        if "{numbers}" not in text or "{target}" not in text:
            raise ValueError(
                f"countdown: phrasing {self.phrasing!r} is none of {', '.join(PHRASINGS)} and has no {{numbers}} "
                "and {target}; choose one or put them in."
            )
        if not 2 <= self.count <= 5:
            raise ValueError(f"countdown: count={self.count} must lie in 2..5; larger sets are not enumerated.")
        for field, (low, high) in (("small", self.small), ("large", self.large)):
            if not 1 <= low <= high:
                raise ValueError(f"countdown: {field}={(low, high)} must be a range of positive numbers.")
        object.__setattr__(self, "small", tuple(self.small))
        object.__setattr__(self, "large", tuple(self.large))

    def train(self, seed: int, index: int) -> Problem:
        rng = Random(f"countdown train {seed} {index}")
        while True:
            numbers, target = self.draw(rng)
            if not is_heldout(numbers, target):
                return self._problem(numbers, target)

    def heldout(self, count: int, seed: int = 0) -> list[Problem]:
        rng = Random(f"countdown held out {seed}")
        found: dict[tuple, Problem] = {}
        for _ in range(2000 * count):
            numbers, target = self.draw(rng)
            key = (tuple(sorted(numbers)), target)
            if key not in found and is_heldout(numbers, target):
                found[key] = self._problem(numbers, target)
                if len(found) == count:
                    break
        return list(found.values())

    def draw(self, rng: Random) -> tuple[tuple[int, ...], int]:
        """Random numbers and a target that they reach, from either side of the split."""
        while True:
            numbers = [rng.randint(*self.small) for _ in range(self.count)]
            if rng.random() < self.large_share:
                numbers[rng.randrange(self.count)] = rng.randint(*self.large)
            values = [v for v, _ in self.combinations(numbers) if 0 < v <= self.max_target]
            if values:
                return tuple(numbers), rng.choice(values)

    def combinations(self, numbers) -> tuple[tuple[int, tuple[Chain, ...]], ...]:
        return combinations_of(tuple(sorted(numbers)), self.small[1])

    def _problem(self, numbers: tuple[int, ...], target: int) -> Problem:
        solution = next(chains[0] for value, chains in self.combinations(numbers) if value == target)
        text = PHRASINGS.get(self.phrasing, self.phrasing)
        return Problem(
            prompt=text.format(target=target, numbers=" ".join(map(str, numbers))),
            answer=solution.text,
            columns={"numbers": list(numbers), "target": target},
            scorer="countdown",
        )


def is_heldout(numbers, target: int) -> bool:
    """Whether the problem, in any order of its numbers, belongs to the held-out side."""
    digest = blake2b(f"{sorted(numbers)} {target}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % HELDOUT_ONE_IN == 0

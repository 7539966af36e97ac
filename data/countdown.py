"""Countdown: reach a target from given numbers, each used once (TinyZero's task, without parentheses)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import permutations, product
from math import prod
from random import Random

from data.chains import OPERATORS, Chain
from data.problem import Problem
from data.split import distinct
from data.templates import check_placeholders

HELDOUT_ONE_IN = 16
# Numbers that hardly ever reach a target within bounds would be redrawn for ever.
MAX_DRAWS = 10_000
PHRASINGS = {
    "short": "Make {target} from {numbers}.",
    # TinyZero's words.
    "tinyzero": (
        "Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic "
        "operations (+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. "
        "And return the final answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>"
    ),
}


# Five numbers have thousands of chains: a larger memory would fill the machine's.
@lru_cache(maxsize=128)
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
            value = sum(prod(factors) if sign == "+" else -prod(factors) for sign, factors in terms)
            if value >= 0:
                key = tuple(sorted((sign, tuple(sorted(factors))) for sign, factors in terms))
                found.setdefault(key, (value, {}))[1][Chain(operands, operators)] = None
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
        check_placeholders(
            f"countdown: phrasing (a text, or one of {', '.join(PHRASINGS)})", text, ["numbers", "target"]
        )
        if not 2 <= self.count <= 5:
            raise ValueError(f"countdown: count={self.count} must lie in 2..5; larger sets are not enumerated.")
        for field in ("small", "large"):
            bounds = tuple(getattr(self, field))
            if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1]:
                raise ValueError(
                    f"countdown: {field}={bounds} must be the smallest and the largest of a range of positive numbers."
                )
            object.__setattr__(self, field, bounds)
        if not 0 <= self.large_share <= 1:
            raise ValueError(f"countdown: large_share={self.large_share} must be a share of problems, 0 to 1.")
        self.draw(Random(0))

    def train(self, seed: int, index: int) -> Problem:
        rng = Random(f"countdown train {seed} {index}")
        for _ in range(MAX_DRAWS):
            numbers, target = self.draw(rng)
            if not is_heldout(numbers, target):
                return self._problem(numbers, target)
        raise ValueError(
            f"countdown: of {MAX_DRAWS} problems drawn every one is held out: the options {self} leave too few. "
            "Widen them."
        )

    def heldout(self, count: int, seed: int = 0) -> list[Problem]:
        rng = Random(f"countdown held out {seed}")
        found = distinct(
            lambda: self.draw(rng),
            lambda drawn: (tuple(sorted(drawn[0])), drawn[1]),
            lambda drawn: is_heldout(*drawn),
            count,
        )
        return [self._problem(numbers, target) for numbers, target in found]

    def draw(self, rng: Random) -> tuple[tuple[int, ...], int]:
        """Random numbers and a target that they reach, from either side of the split."""
        for _ in range(MAX_DRAWS):
            numbers = [rng.randint(*self.small) for _ in range(self.count)]
            if rng.random() < self.large_share:
                numbers[rng.randrange(self.count)] = rng.randint(*self.large)
            values = [v for v, _ in self.combinations(numbers) if 0 < v <= self.max_target]
            if values:
                return tuple(numbers), rng.choice(values)
        raise ValueError(
            f"countdown: targets must lie in 1..{self.max_target} (max_target), and of {MAX_DRAWS} draws of numbers "
            f"from small={self.small} and large={self.large} none reaches one; raise max_target."
        )

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

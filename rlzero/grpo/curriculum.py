"""Which problems to ask next, from how often the policy solved them so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# What an earlier count is worth when a problem is asked again: the policy has changed since. This project's choice.
MEMORY = 0.5


def learnability(pass_rate_P: np.ndarray) -> np.ndarray:
    """p (1 − p), the variance of the outcome: sampling for learnability, 2502.12272. Greatest at one half."""
    return pass_rate_P * (1 - pass_rate_P)


def failures(pass_rate_P: np.ndarray) -> np.ndarray:
    """1 − p: prioritized sampling of Kimi k1.5 (2501.12599, §2.3.4)."""
    return 1 - pass_rate_P


# name -> weight of each problem, float64[P], from pass rates strictly between 0 and 1
CURRICULA: dict[str, Callable[[np.ndarray], np.ndarray]] = {"learnability": learnability, "failures": failures}


class Curriculum:
    """Counts of a finite pool of problems, and draws from it by weight.

    A draw is a function of (seed, step, counts): every process that was told the same counts draws the same.
    """

    def __init__(self, problems: int, weighting: str = "learnability", seed: int = 0) -> None:
        self.weighting, self.seed = CURRICULA[weighting], seed
        self.right_P, self.asked_P = np.zeros(problems), np.zeros(problems)

    @property
    def pass_rate_P(self) -> np.ndarray:
        """(right + 1) / (asked + 2): 1/2 for a problem never asked, and never 0 or 1, so that none is given up."""
        return (self.right_P + 1) / (self.asked_P + 2)

    @property
    def weights_P(self) -> np.ndarray:
        """The chance of each problem to be the next one drawn; they add up to 1."""
        weights_P = self.weighting(self.pass_rate_P)
        return weights_P / weights_P.sum()

    def observe(self, problems: Sequence[int], right: Sequence[float], asked: Sequence[int]) -> None:
        """`right[i]` of `asked[i]` answers to problem `problems[i]` were right. Of all processes, in any order."""
        seen = np.unique(np.asarray(problems, dtype=np.int64))
        for counts_P, values in ((self.right_P, right), (self.asked_P, asked)):
            counts_P[seen] *= MEMORY
            np.add.at(counts_P, np.asarray(problems, dtype=np.int64), np.asarray(values, dtype=np.float64))

    def draw(self, step: int, count: int) -> list[int]:
        """`count` different problems, one after the other by weight (Efraimidis and Spirakis 2006, algorithm A-Res)."""
        if not 0 < count <= len(self.right_P):
            raise ValueError(
                f"a step draws different problems, from 1 to all {len(self.right_P)} of the pool; got {count}. "
                "Enlarge the pool or lower prompts_per_step."
            )
        uniform_P = 1 - np.random.default_rng([self.seed, step]).random(len(self.right_P))  # in (0, 1]
        return np.argsort(np.log(uniform_P) / self.weights_P, kind="stable")[::-1][:count].tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"right": self.right_P.copy(), "asked": self.asked_P.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if len(state["right"]) != len(self.right_P):
            raise ValueError(
                f"the saved curriculum has {len(state['right'])} problems and this run's pool {len(self.right_P)}: "
                "resume with the data that the run began with."
            )
        self.right_P, self.asked_P = np.array(state["right"], float), np.array(state["asked"], float)

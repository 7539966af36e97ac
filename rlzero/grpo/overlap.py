"""From a request to scored groups; where it can be, rewards are computed while other groups are still generated."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from rewards.registry import RewardError
from rlzero.grpo.batch import ScoredGroup
from rlzero.grpo.clock import Clock
from rlzero.grpo.concern import ConfigError
from rlzero.grpo.problems import Request
from rlzero.grpo.scoring import Scorer
from rlzero.rollout.types import Engine, Group, Sampling

# Calls of the reward functions a request: the last one waits for the generation to end, and a call of many samples is
# cheaper than many calls.
PIECES = 8


def generate_and_score(
    engine: Engine, scorer: Scorer, request: Request, sampling: Sampling, clock: Clock
) -> list[ScoredGroup]:
    """The groups of a request in its order. Raises RewardError where a function fails, as soon as that is known.

    The clock's `generate` is the whole of the generation, `reward` what of the scoring came after it.
    """
    if not scorer.overlap:
        with clock("generate"):
            groups = engine.generate(request.problems, request.prompt_ids, sampling)
        with clock("reward"):
            return scorer.score(groups)
    with ThreadPoolExecutor(1, "rewards") as thread:
        pieces = _Pieces(scorer, thread, len(request.problems))
        try:
            with clock("generate"):
                engine.generate(request.problems, request.prompt_ids, sampling, pieces.add)
            with clock("reward"):
                return pieces.scored()
        finally:
            thread.shutdown(cancel_futures=True)


def runs_in_thread(call: Callable[[], object], wanted: bool | None) -> bool:
    """Whether reward functions may be called in a thread: they are once, by `call`, which works in this thread.

    wanted: `overlap_rewards`. ConfigError where it is True and they do not work there (signals and event loops belong
    to the main thread).
    """
    if wanted is False:
        return False
    with ThreadPoolExecutor(1, "rewards") as thread:
        try:
            thread.submit(call).result()
        except RewardError as error:
            if wanted:
                raise ConfigError(
                    f"overlap_rewards=True calls the reward functions in a thread, and there one fails: {error}. "
                    "Leave overlap_rewards out."
                ) from error
            return False
    return True


class _Pieces:
    """Groups in the order in which they are finished, as many to a call as makes `PIECES` calls; which groups share a
    call does not depend on how long one takes."""

    def __init__(self, scorer: Scorer, thread: ThreadPoolExecutor, count: int) -> None:
        self._scorer, self._thread = scorer, thread
        self._size = math.ceil(count / PIECES)
        self._waiting: dict[int, Group] = {}
        self._sent: list[tuple[list[int], Future[list[ScoredGroup]]]] = []

    def add(self, position: int, group: Group) -> None:
        """A finished group. Raises what scoring earlier ones raised."""
        for _, future in self._sent:
            if future.done():
                future.result()
        self._waiting[position] = group
        if len(self._waiting) == self._size:
            self._send()

    def scored(self) -> list[ScoredGroup]:
        """All groups by position."""
        if self._waiting:
            self._send()
        found = {
            position: group
            for positions, future in self._sent
            for position, group in zip(positions, future.result(), strict=True)
        }
        return [found[position] for position in sorted(found)]

    def _send(self) -> None:
        positions, groups = list(self._waiting), list(self._waiting.values())
        self._waiting = {}
        self._sent.append((positions, self._thread.submit(self._scorer.score, groups)))

"""One step off-policy: the next rollout is generated while the updates of this one are made.

The engine then has the weights of before these updates, in a copy of its own, and a thread of its own. Between two
steps it rests: that is when weights are synced, evaluations sample and checkpoints are written. Noukhovitch et al.,
"Asynchronous RLHF" (2410.18252); `one_step_off_policy` in verl, `max_async_level=1` in prime-rl.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from data.problem import Problem
from rlzero.grpo.batch import ScoredGroup
from rlzero.grpo.problems import Request
from rlzero.measure.evaluate import Sample
from rlzero.rollout.types import Group, Rollout


@dataclass(frozen=True)
class Answer:
    """What came of a request: the groups of this process, whether each has something to teach, and the optimizer steps
    that the weights had seen which sampled them."""

    scored: list[ScoredGroup]
    useful: list[bool]
    version: int


class Ahead:
    """The answer that is trained on (`present`, None between steps) and the one after it, which may be underway."""

    def __init__(self, device: torch.device) -> None:
        self.present: Answer | None = None
        self._next: Future[Answer] | None = None
        self._saved: Mapping[str, Any] | None = None
        self._thread = ThreadPoolExecutor(1, "generation", initializer=_use, initargs=(device,))

    def start(self, make: Callable[[], Answer]) -> None:
        """Have the next answer made in the engine's thread."""
        self._next = self._thread.submit(make)

    def rest(self) -> None:
        """The present answer is done with. Wait until the engine rests; what went wrong meanwhile is said by `take`, in
        the step that it concerns."""
        self.present = None
        self._wait()

    def take(self, make: Callable[[], Answer]) -> Answer:
        """The next answer, which becomes the present one; made now where none was started: in the first step."""
        if self._next is None:
            self.start(make)
        assert self._next is not None
        underway, self._next = self._next, None
        self.present = underway.result()
        return self.present

    def saved(self, request: Request) -> Answer | None:
        """This process's part of an answer to the request that a checkpoint held. Once."""
        saved, self._saved = self._saved, None
        if saved is None:
            return None
        own = slice(request.first, request.first + len(request.problems))
        scored = [
            _scored_group(problem, np.asarray(prompt_ids, dtype=np.int64), group)
            for problem, prompt_ids, group in zip(
                request.problems, request.prompt_ids, saved["groups"][own], strict=True
            )
        ]
        return Answer(scored, saved["useful"][own], saved["version"])

    def state_dict(self) -> dict[str, Any] | None:
        """The answer that the next step trains on, over all processes; None where there is none yet.

        It is kept, since the weights that sampled it are gone, and a reward need not say the same twice. Its problems
        follow from the rest of the state. Every process must call it.
        """
        self._wait()
        answer = self.present
        if answer is None and self._next is not None and self._next.exception() is None:
            answer = self._next.result()
        # One process may have failed where the others have not; it will say so in the step that it concerns.
        if any(gather_object([answer is None])):
            return dict(self._saved) if self._saved is not None else None
        assert answer is not None
        groups = gather_object([_plain(group) for group in answer.scored])
        return {"version": answer.version, "useful": gather_object(answer.useful), "groups": groups}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        self.present, self._next, self._saved = None, None, state

    def close(self) -> None:
        """Wait for what is underway, and end the thread."""
        self._thread.shutdown()

    def _wait(self) -> None:
        if self._next is not None:
            wait([self._next])


def _use(device: torch.device) -> None:
    """A thread begins on the first GPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _plain(scored: ScoredGroup) -> dict[str, Any]:
    """All but the problem and its prompt."""
    rollouts = [
        {
            "completion_ids": rollout.completion_ids,
            "sampler_logprobs": rollout.sampler_logprobs,
            "finish_reason": rollout.finish_reason,
            "routing": rollout.routing,
        }
        for rollout in scored.group.rollouts
    ]
    samples = [{**vars(sample), "rewards": dict(sample.rewards)} for sample in scored.samples]
    return {"rollouts": rollouts, "samples": samples, "total": scored.total}


def _scored_group(problem: Problem, prompt_ids: np.ndarray, saved: Mapping[str, Any]) -> ScoredGroup:
    rollouts = []
    for rollout in saved["rollouts"]:
        ids, logprobs = np.asarray(rollout["completion_ids"]), np.asarray(rollout["sampler_logprobs"])
        routing = None if rollout["routing"] is None else np.asarray(rollout["routing"])
        rollouts.append(Rollout(problem, prompt_ids, ids, logprobs, rollout["finish_reason"], routing))
    samples = tuple(Sample(**sample) for sample in saved["samples"])
    return ScoredGroup(Group(problem, tuple(rollouts)), samples, np.asarray(saved["total"]))

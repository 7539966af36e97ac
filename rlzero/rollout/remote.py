"""An engine in a process of its own, on a device of its own. This is the trainer's side; `remote_worker` is the other.

Python's lock, the device and its memory are then not shared: what is generated one step ahead costs an update nothing.
Weights go over in shared memory, groups and figures through a pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data.problem import Problem
from rlzero.rollout.remote_errors import as_raised
from rlzero.rollout.remote_worker import Making, Word, serve
from rlzero.rollout.shared_weights import SharedWeights
from rlzero.rollout.startup import variables_set
from rlzero.rollout.types import Done, EngineLost, Group, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# By which processes of one run find each other. The engine's is none of them.
_OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_CLOSING = 30.0  # seconds that the engine has to end by itself


class RemoteEngine:
    """The engine that `make_engine` makes of the same arguments, in a child process that sees `device` alone.

    kind, options: as for `make_engine`. device: `cpu`, or the CUDA device by its number in this process. model: the
    trainer model, not sharded yet, on any device; its weights are copied to shared memory, and `sync` copies them again
    (those of a sharded one are gathered: all processes call it). One request at a time: RuntimeError for two.

    What the engine raises is raised here: Python's own exceptions and ours as they are, others as a RuntimeError with
    the traceback. EngineLost where its process has ended. The process ends with this one, however that ends.
    """

    def __init__(
        self, kind: str, device: torch.device, *, model: PreTrainedModel, tokenizer: Any, **options: Any
    ) -> None:
        self.version = 0
        self._device = device
        self._weights = SharedWeights(model)
        self._at_rest = threading.Lock()
        self._underway, self._closed = False, False
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        # daemon: ended when this interpreter exits without having closed the engine.
        self._process = context.Process(target=serve, args=(other_end, self._weights), name="rollout", daemon=True)
        with variables_set({**dict.fromkeys(_OF_A_LAUNCHER), "CUDA_VISIBLE_DEVICES": _visible(device)}):
            self._process.start()
        # With the child's end in the child alone, its death is the end of what can be read here.
        other_end.close()
        making = Making(
            kind=kind,
            device=torch.device("cpu") if device.type == "cpu" else torch.device("cuda", 0),
            model=self._weights.without_weights(model),
            tokenizer=pickle.dumps(tokenizer),
            threads=torch.get_num_threads(),
            options=options,
        )
        try:
            self.name, self.max_model_len = self._asked("make", making)
        except BaseException:
            self.close()
            raise

    def generate(
        self,
        problems: Sequence[Problem],
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        done: Done | None = None,
    ) -> list[Group]:
        """One group of `sampling.n` rollouts per problem, in the order of the problems.

        What `done` raises is raised at once; the engine goes on to the end of the next group, and the next request
        waits for that.
        """
        groups: dict[int, Group] = {}

        def finished(position: int, group: Group) -> None:
            problem = problems[position]
            groups[position] = Group(problem, tuple(replace(r, problem=problem) for r in group.rollouts))
            if done is not None:
                done(position, groups[position])

        # Fields of a data set need not cross over twice.
        asked = [Problem(problem.prompt, "") for problem in problems]
        self._asked("generate", asked, prompt_ids, sampling, each=finished)
        return [groups[position] for position in range(len(problems))]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """float32[len - 1] per sequence: log-probability of each token after the first, at temperature 1."""
        return self._asked("score", sequences)

    def sync(self, model: PreTrainedModel, version: int) -> None:
        """Copy the weights of `model` (the unwrapped trainer model) into the engine."""
        self._asked("sync", version, before=lambda: self._weights.fill(model))
        self.version = version

    def sleep(self) -> None:
        """Give back what memory it can, until it is used again."""
        self._asked("sleep")

    def close(self) -> None:
        """End the engine and its process, which cannot be used afterwards."""
        if self._closed:
            return
        self._closed = True
        self._connection.close()
        if self._underway:
            self._process.kill()
        self._process.join(_CLOSING)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _asked(
        self,
        method: str,
        *arguments: Any,
        before: Callable[[], None] | None = None,
        each: Callable[[int, Group], None] | None = None,
    ) -> Any:
        """What the engine's process returns. before: done while the engine rests. each: given the groups that come
        before the end; what it raises abandons the request."""
        with self._resting():
            if before is not None:
                before()
            self._send((method, arguments))
            self._underway = True
            try:
                while (heard := self._receive())[0] is Word.GROUP:
                    if each is not None:
                        each(*heard[1])
            except BaseException:
                if self._underway:
                    with suppress(EngineLost):
                        self._send(None)
                raise
            if heard[0] is Word.RAISED:
                raise as_raised(heard[1])
            return heard[1]

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """The engine does nothing, and nobody else asks it, until the block asks it."""
        if self._closed:
            raise RuntimeError("this rollout engine is closed: make a new one.")
        if not self._at_rest.acquire(blocking=False):
            raise RuntimeError(
                "an engine in a process of its own does one thing at a time, and its weights may not move meanwhile: "
                "wait until the request of the other thread has returned."
            )
        try:
            # An engine that is gone rests; whoever asks it hears so.
            with suppress(EngineLost):
                while self._underway:
                    self._receive()
            yield
        finally:
            self._at_rest.release()

    def _send(self, request: tuple[str, tuple[Any, ...]] | None) -> None:
        try:
            self._connection.send(request)
        except ConnectionError:
            raise self._lost() from None

    def _receive(self) -> tuple[Word, Any]:
        try:
            word, value = self._connection.recv()
        except (EOFError, ConnectionError):
            raise self._lost() from None
        self._underway = word is Word.GROUP
        return word, value

    def _lost(self) -> EngineLost:
        self._underway = False
        self._process.join(_CLOSING)
        code = self._process.exitcode
        killed = f" ({signal.strsignal(-code)})" if code is not None and code < 0 else ""
        return EngineLost(
            f"the rollout engine's process on {self._device} has ended, with exit code {code}{killed}: what it printed "
            "says why. Killed without a word it was mostly by a machine out of memory. Go on with --resume."
        )


def _visible(device: torch.device) -> str:
    """CUDA_VISIBLE_DEVICES of a process that is to see this device alone."""
    if device.type == "cpu":
        return ""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(device.index) if seen is None else seen.split(",")[device.index].strip()

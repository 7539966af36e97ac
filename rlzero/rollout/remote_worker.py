"""The engine's side of `RemoteEngine`: a process that makes an engine and does what it is asked."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from transformers.dynamic_module_utils import init_hf_modules

from data.problem import Problem
from rlzero.rollout.make import make_engine
from rlzero.rollout.remote_errors import told
from rlzero.rollout.shared_weights import SharedWeights
from rlzero.rollout.types import Engine, Group, Sampling


class Word(Enum):
    """What a message of this process is: a finished group, and at the end of a request what the engine returned, or
    raised."""

    GROUP = auto()
    RETURNED = auto()
    RAISED = auto()


@dataclass(frozen=True)
class Making:
    """What the engine is made of. device: as this process sees it. model: all of it but its weights, pickled, and with
    it the tokenizer's, so that remote code can be found first. threads: torch's. options: as `make_engine` has them."""

    kind: str
    device: torch.device
    model: bytes
    tokenizer: bytes
    threads: int
    options: dict[str, Any]


class _Abandoned(Exception):
    """The trainer's side wants no more of this request."""


class _Gone(Exception):
    """The trainer's side has closed the connection."""


def serve(connection: Connection, weights: SharedWeights) -> None:
    """Requests, (method, arguments) each, until the other side closes the connection. None instead, which alone may
    come before a request has been answered, abandons that one."""
    # Ctrl-C goes to all processes of a terminal; what comes of it is the trainer's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = _Worker(connection, weights)
    try:
        while True:
            request = worker.hear()
            if request is not None:  # else that request had just been answered
                worker.answer(*request)
    except _Gone:
        worker.close()


class _Worker:
    """The engine, once it is made, and the model that it takes its weights from: the trainer's, in shared memory."""

    def __init__(self, connection: Connection, weights: SharedWeights) -> None:
        self._connection, self._weights = connection, weights
        self._engine: Engine | None = None

    def hear(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionError):
            raise _Gone from None

    def say(self, word: Word, value: Any) -> None:
        try:
            self._connection.send((word, value))
        except ConnectionError:
            raise _Gone from None

    def answer(self, method: str, arguments: tuple[Any, ...]) -> None:
        try:
            word, value = Word.RETURNED, getattr(self, method)(*arguments)
        except _Gone:
            raise
        except Exception as error:
            word, value = Word.RAISED, told(error)
        self.say(word, value)

    def make(self, making: Making) -> tuple[str, int]:
        """Returns the engine's name and max_model_len."""
        torch.set_num_threads(making.threads)
        init_hf_modules()
        self._model = self._weights.around(making.model)
        self._engine = make_engine(
            making.kind,
            model=self._model,
            tokenizer=pickle.loads(making.tokenizer),
            # On the CPU the built-in engine samples from the shared weights themselves: they only move while it rests.
            own_copy_on=None if making.device.type == "cpu" else making.device,
            **making.options,
        )
        return self._engine.name, self._engine.max_model_len

    def generate(self, problems: Sequence[Problem], prompt_ids: Sequence[Sequence[int]], sampling: Sampling) -> None:
        """Sends each group as it is finished, with its position."""

        def hand_out(position: int, group: Group) -> None:
            if self._connection.poll():
                self.hear()
                raise _Abandoned
            self.say(Word.GROUP, (position, group))

        with suppress(_Abandoned):
            self.engine.generate(problems, prompt_ids, sampling, hand_out)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        return self.engine.score(sequences)

    def sync(self, version: int) -> None:
        self.engine.sync(self._model, version)

    def sleep(self) -> None:
        self.engine.sleep()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "an engine is made first"
        return self._engine


def _end_with_parent() -> None:
    """Whatever this process is doing: nobody would hear of it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

"""A run of several processes ends as one: the first that fails says why, and the others stop too.

A process that waits for the gradients of another one would wait for ever (with NCCL for ten minutes) once that one has
raised. So whoever fails leaves its message in the store by which the processes found each other, and a thread of each
process looks there. A launcher ends the others as well; this holds without one, and on every machine.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.distributed_c10d import _get_default_store

_KEY = "rlzero/failure"
_LOOK = 1.0  # seconds between two looks
# The one that failed may hold the store: it stays until all have looked, and goes first, so that a launcher names it.
_STAY, _FOLLOW = 2 * _LOOK, 3 * _LOOK
_CLEAN_UP = 30.0  # seconds that it has for that
_left = threading.Event()


class Failure(Exception):
    """The end of a run with a message for its user. code: the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def several() -> bool:
    """Whether this process is one of several that are connected."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def fail(message: str, code: int, clean_up: Callable[[], None]) -> int:
    """Print the message, clean up and return the exit code. With several processes end all, and do not return."""
    if not several():
        clean_up()
        print(message, file=sys.stderr)
        return code
    own = {"process": _own_number(), "code": code, "message": message}
    try:
        first = json.loads(_get_default_store().compare_set(_KEY, "", json.dumps(own)))
    except RuntimeError:  # whoever held the store is gone already
        first = own
    if first == own:
        print(message, file=sys.stderr, flush=True)
        time.sleep(_STAY)
    clean_up()
    _exit(first)


def watch_others() -> None:
    """End this process soon after another one has failed, whatever it is waiting for. To be called once connected."""
    if several():
        # Its own connection: the main one may be waiting in the store for the others.
        _left.clear()
        threading.Thread(target=_watch, args=(_get_default_store().clone(),), name=_KEY, daemon=True).start()


def leave(accelerator: Accelerator) -> None:
    """Disconnect from the others, once all have done their work.

    The thread that watches them is ended first: one that is in the store while the interpreter goes would abort it.
    """
    _left.set()
    for thread in threading.enumerate():
        if thread.name == _KEY:
            thread.join()
    accelerator.state.destroy_process_group()


def _watch(store: dist.Store) -> None:
    own, lost = _own_number(), 0
    while not _left.is_set():
        try:
            failure = json.loads(store.get(_KEY)) if store.check([_KEY]) else None
            lost = 0
        except RuntimeError:
            # The run may just be over, and this process about to leave too.
            failure, lost = None, lost + 1
        if lost * _LOOK > _FOLLOW:
            print("The main process ended without a word: its own output may say why.", file=sys.stderr)
            _exit({"process": own, "code": 1, "message": ""})
        if failure is not None:
            time.sleep(_CLEAN_UP if failure["process"] == own else _FOLLOW)
            _exit(failure)
        _left.wait(_LOOK)


def _exit(failure: dict[str, Any]) -> NoReturn:
    """At once: what comes at the end of a process would wait for the others."""
    process, on_machine = failure["process"], int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    elsewhere = process // on_machine != _own_number() // on_machine
    if elsewhere and os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"process {process}, on another machine: {failure['message']}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(failure["code"])


def _own_number() -> int:
    """By the variable that connected processes have been started with. The connection itself may be gone."""
    return int(os.environ["RANK"])

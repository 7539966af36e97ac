"""Run a function in a child process that can be killed, with all that it started."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from rewards.locate import RewardError

_MEMORY_BYTES = 4 << 30  # beyond what the process has when a probe starts


class Died(Exception):
    """A child process did not answer: it ran past its deadline, or ended without a result."""


def in_child(work: Callable[[], Any], seconds: float) -> Any:
    """What `work()` returns, computed in a forked process that is killed, with its children, at the deadline.

    Raises what a RewardError in the child said, and Died where the child did not answer.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _answer(work, writing)
    os.close(writing)
    try:
        data = b"".join(_chunks(reading, time.monotonic() + seconds))
    except TimeoutError:
        raise Died("it hangs: no result before the deadline") from None
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if not data:
        raise Died(f"it ended the process: exit status {os.waitstatus_to_exitcode(status)}")
    good, result = pickle.loads(data)
    if not good:
        raise RewardError(result)
    return result


def _answer(work: Callable[[], Any], writing: int) -> None:
    """In the child: do the work, answer through the pipe, and end."""
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY_BYTES, now + _MEMORY_BYTES))
    try:
        message = (True, work())
    except RewardError as error:
        message = (False, str(error))
    except BaseException as error:
        message = (False, f"it raised {type(error).__name__}: {error}")
    with os.fdopen(writing, "wb") as file:
        pickle.dump(message, file)
    os._exit(0)


def _chunks(reading: int, deadline: float) -> Iterator[bytes]:
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        chunk = os.read(reading, 1 << 20)
        if not chunk:
            return
        yield chunk

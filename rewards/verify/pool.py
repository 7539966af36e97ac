"""Worker processes for sympy, started when first needed, killed at the deadline, replaced when they die.

A worker is a plain subprocess with a pipe in and out: it neither runs the caller's main module again (spawn) nor
inherits its memory and locks (fork). No signal handler, so any thread may ask; a forked child starts its own workers.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from .tree import Node
from .worker import encode

# Importing sympy takes about a second on a quiet machine. It happens once for each worker and does not count
# against the deadline of the first question; a machine that needs longer than this has other troubles.
START_SECONDS = 30.0


class Undecided(Exception):
    """sympy gave no answer: the deadline passed, or it failed."""


class Worker:
    """One subprocess. Not for two threads at a time."""

    def __init__(self) -> None:
        import subprocess  # here: 20 ms that only those who need sympy should pay

        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rewards.verify.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.buffer = b""
        self.ready = False

    def ask(self, job: bytes, seconds: float) -> str:
        """The answer to a job. Undecided at the deadline (the worker is dead then), BrokenPipeError if it died."""
        assert self.process.stdin is not None
        if not self.ready:
            line = self._line(time.monotonic() + START_SECONDS)
            if line != "ready":
                raise BrokenPipeError
            self.ready = True
        deadline = time.monotonic() + seconds
        self.process.stdin.write(job)
        self.process.stdin.flush()
        return self._line(deadline)

    def _line(self, deadline: float) -> str:
        import selectors

        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise Undecided("sympy did not finish in time")
                chunk = os.read(self.process.stdout.fileno(), 65536)
                if not chunk:
                    raise BrokenPipeError
                self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.process.wait()

    def abandon(self) -> None:
        """Close this process's ends of the pipes of a worker that belongs to the parent process."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                os.close(stream.fileno())
        self.process.returncode = 0  # not our child: nothing to wait for


class Pool:
    """At most `size` workers; a thread that finds none free waits for one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: list[Worker] = []
        self._slots = threading.Semaphore(size)
        self._lock = threading.Lock()

    def equal(self, left: Node, right: Node, log10: bool, seconds: float) -> bool:
        """Whether sympy proves the two trees equal within so many seconds. Undecided where it does not answer."""
        job = json.dumps([seconds, log10, encode(left), encode(right)]).encode() + b"\n"
        with self._slots:
            # A worker that was killed from outside is replaced once; a second death is the job's own doing.
            for _ in range(2):
                with self._lock:
                    worker = self._free.pop() if self._free else None
                worker = worker or Worker()
                try:
                    answer = worker.ask(job, seconds)
                except (BrokenPipeError, OSError):
                    worker.close()
                    continue
                with self._lock:
                    self._free.append(worker)
                if answer.startswith("error"):
                    raise Undecided(f"sympy: {answer[7:]}")
                return answer == "equal"
        raise Undecided("the sympy process died twice")

    def workers(self) -> list[int]:
        """Process ids of the idle workers."""
        with self._lock:
            return [w.process.pid for w in self._free]

    def close(self) -> None:
        with self._lock:
            workers, self._free = self._free, []
        for worker in workers:
            worker.close()

    def abandon(self) -> None:
        for worker in self._free:
            worker.abandon()


_pool = Pool(size=max(1, min(8, os.cpu_count() or 1)))


def shared() -> Pool:
    """The pool of this process."""
    return _pool


def _after_fork() -> None:
    global _pool
    _pool.abandon()
    _pool = Pool(_pool.size)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _close() -> None:
    _pool.close()

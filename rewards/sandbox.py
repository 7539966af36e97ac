"""Run a program that nobody trusts, and come back in time.

With Linux namespaces: no network, its own processes (all killed at the deadline or when the program ends), a
file system with nothing but the system's and Python's files, read-only, and a small scratch folder in memory.
Always: limits on time, memory, file size, open files and processes, and on the output that is read. Where
namespaces are not allowed (some containers), the program runs with limits only; `isolation` says what is
weaker then, and a warning says so once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import secrets
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_log = logging.getLogger(__name__)
_JAIL = Path(__file__).with_name("jail.py")
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    # Numeric libraries reserve memory and start threads by the number of cores.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_WEAKER = (
    "the network can be reached",
    "files of this user can be read, and written outside the scratch folder",
    "other processes of this user can be seen and signalled",
)


class SandboxError(RuntimeError):
    """The sandbox itself could not be set up. What the program does wrong is an Outcome, never this."""


@dataclass(frozen=True)
class Limits:
    """seconds: wall time until everything is killed. memory_bytes: address space of each process. file_bytes:
    of each file, and of the scratch folder. output_bytes: of standard output and standard error each; a
    program that writes more is killed."""

    seconds: float = 5.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 16 << 20
    output_bytes: int = 1 << 20
    processes: int = 16
    open_files: int = 64


@dataclass(frozen=True)
class Outcome:
    """returncode: as a shell gives it (128 + signal); None where the program was killed at a limit of ours.
    killed: "deadline", "output" or ""."""

    stdout: str
    stderr: str
    returncode: int | None
    killed: str
    seconds: float


@dataclass(frozen=True)
class Isolation:
    """namespaces: whether the program has its own network, processes and files. weaker: what is not walled
    off.
    reason: why there are no namespaces."""

    namespaces: bool
    weaker: tuple[str, ...] = ()
    reason: str = ""


@functools.cache
def isolation() -> Isolation:
    """What this machine allows, tried once with a harmless program. Raises SandboxError where nothing runs."""
    hello = [sys.executable, "-I", "-S", "-c", "print(1)"]
    try:
        outcome = _run({}, hello, "", Limits(seconds=20), namespaces=True)
    except SandboxError as error:
        reason = str(error)
    else:
        if outcome.stdout == "1\n":
            return Isolation(namespaces=True)
        reason = f"Python does not start inside them: {outcome.stderr.strip()[-200:]}"
    outcome = _run({}, hello, "", Limits(seconds=20), namespaces=False)
    if outcome.stdout != "1\n":
        raise SandboxError(
            "the sandbox needs Linux, and a Python that starts under its limits; here a program that prints 1 "
            f"printed {outcome.stdout!r} and {outcome.stderr.strip()[-200:]!r}"
        )
    weaker: tuple[str, ...] = _WEAKER
    if os.geteuid() == 0 and not _others_reach_interpreter():
        weaker += ("the number of processes is not limited, and the program runs as root",)
    _log.warning(
        "The sandbox runs without Linux namespaces (%s), so it is weaker: %s. Allow unprivileged user "
        "namespaces (sysctl kernel.unprivileged_userns_clone=1; in a container, a seccomp profile that "
        "permits unshare and mount), or train on code only on a machine that you can lose.",
        reason,
        "; ".join(weaker),
    )
    return Isolation(namespaces=False, weaker=weaker, reason=reason)


def run_python(
    source: str, stdin: str = "", limits: Limits | None = None, files: Mapping[str, str] | None = None
) -> Outcome:
    """Run `source` as a Python program (this interpreter and its packages) in its scratch folder with
    `files`.
    """
    everything = {**(files or {}), "program.py": source}
    return run_program(everything, [sys.executable, "-I", "program.py"], stdin, limits)


def run_program(
    files: Mapping[str, str], argv: Sequence[str], stdin: str = "", limits: Limits | None = None
) -> Outcome:
    """Run `argv` in a scratch folder that holds `files`. Safe to call from any thread.

    Raises SandboxError where the walls cannot be built, ValueError for a file name that leaves the folder.
    """
    for name in files:
        if name != os.path.basename(name) or name in ("", ".", ".."):
            raise ValueError(f"a file of the sandbox is named without a folder, got {name!r}")
    return _run(files, argv, stdin, limits or Limits(), isolation().namespaces)


def _run(files: Mapping[str, str], argv: Sequence[str], stdin: str, limits: Limits, namespaces: bool) -> Outcome:
    started = time.monotonic()
    folder = tempfile.mkdtemp(prefix="rlzero-sandbox-")
    status_out, status_in = os.pipe()
    try:
        spec = Path(folder, "spec.json")
        spec.write_text(
            json.dumps(
                {
                    **asdict(limits),
                    "cpu_seconds": int(limits.seconds) + 1,
                    "files": dict(files),
                    "argv": list(argv),
                    "stdin": stdin,
                    "folder": folder,
                    "namespaces": namespaces,
                    "environment": _ENVIRONMENT,
                    "readable": list(_interpreter()),
                    # A user of its own for each sandbox, because the kernel counts processes by user.
                    "drop_root": _others_reach_interpreter(),
                    "user": 60000 + secrets.randbelow(5000),
                }
            )
        )
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_JAIL), str(spec), str(status_in)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[status_in],
            start_new_session=True,
            env={},
            cwd="/",
        )
        os.close(status_in)
        status_in = -1
        stdout, stderr, killed = _collect(process, started + limits.seconds, limits.output_bytes)
        _end(process, namespaces)
        with os.fdopen(status_out, "rb", closefd=False) as file:
            os.set_blocking(status_out, False)
            status = json.loads((file.read() or b"{}").splitlines()[0] or b"{}")
    finally:
        for descriptor in (status_in, status_out):
            if descriptor >= 0:
                os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)
    if "error" in status:
        raise SandboxError(status["error"])
    return Outcome(
        stdout.decode(errors="replace"),
        stderr.decode(errors="replace"),
        None if killed else status.get("returncode"),
        killed,
        time.monotonic() - started,
    )


def _interpreter() -> tuple[str, ...]:
    """The folders that a Python program needs beside the system's."""
    return (sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable)))


def _others_reach_interpreter() -> bool:
    """Whether a user without rights of ours can start this Python."""
    folders = {Path(path) for path in _interpreter()}
    everything = folders | {parent for folder in folders for parent in folder.parents}
    return all(os.stat(folder).st_mode & stat.S_IXOTH for folder in everything)


def _collect(process: subprocess.Popen, deadline: float, limit: int) -> tuple[bytes, bytes, str]:
    """Both outputs, each up to `limit` bytes, until they are closed; and why reading stopped before."""
    assert process.stdout is not None
    assert process.stderr is not None
    outputs = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    killed = ""
    with selectors.DefaultSelector() as selector:
        for descriptor in outputs:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map() and not killed:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                killed = "deadline"
            for key, _ in selector.select(max(0.0, remaining)):
                chunk = os.read(key.fd, 65536)
                outputs[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
                elif len(outputs[key.fd]) > limit:
                    killed = "output"
    if not killed:
        try:
            # A program may close its outputs and go on.
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            killed = "deadline"
    stdout, stderr = (bytes(output[:limit]) for output in outputs.values())
    return stdout, stderr, killed


def _end(process: subprocess.Popen, namespaces: bool) -> None:
    """Kill the sandbox with all that runs in it."""
    with process:
        if process.poll() is None and not namespaces:
            process.terminate()  # the jail kills the program's descendants now, wherever they went
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2.0)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # process 1 of the namespace is in this group

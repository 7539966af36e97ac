"""Runs inside the sandbox's own process: builds the walls, then starts the program. See `rewards.sandbox`.

A script, started as `python -I -S jail.py SPEC STATUS_FD` with a JSON spec; it imports nothing but the
standard library. Two processes: the outer one waits, and reports how the program ended through STATUS_FD; the
inner one is process 1 of the program's own process namespace, so that everything dies with it. Linux only.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

# linux/sched.h, linux/mount.h, linux/prctl.h
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MNT_DETACH = 2
_PDEATHSIG, _NO_NEW_PRIVS, _CHILD_SUBREAPER = 1, 38, 36
_SYS_MOUNT_SETATTR = 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
# Not /tmp: an interpreter may live below it, and the scratch folder would cover it.
_SCRATCH = "/scratch"


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


def main(spec_path: str, status_fd: int) -> None:
    """Run the program that the spec describes; report its end, or why there are no walls, through
    `status_fd`.
    """
    _prctl(_PDEATHSIG, signal.SIGKILL)
    with open(spec_path, encoding="utf-8") as file:
        spec = json.load(file)
    try:
        returncode = _walled(spec, status_fd) if spec["namespaces"] else _unwalled(spec)
    except OSError as error:
        _report(status_fd, {"error": str(error)})
        os._exit(1)
    _report(status_fd, {"returncode": returncode})
    os._exit(0)


def _report(status_fd: int, message: Mapping[str, Any]) -> None:
    os.write(status_fd, json.dumps(message).encode() + b"\n")


def _walled(spec: Mapping[str, Any], status_fd: int) -> int:
    """The program with its own users, processes, network and file system. Returns its exit status."""
    uid, gid, root = os.geteuid(), os.getegid(), os.geteuid() == 0
    _call("unshare", (0 if root else _NEWUSER) | _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET)
    if not root:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"1000 {uid} 1")
        _write("/proc/self/gid_map", f"1000 {gid} 1")
    inner = os.fork()
    if inner:
        return _wait(inner)
    try:
        _new_root(spec)
        if root:
            os.chown(_SCRATCH, spec["user"], spec["user"])
            _become(spec["user"])
        _prctl(_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
        _prctl(_NO_NEW_PRIVS, 1)
        program = _start(spec, _SCRATCH)
    except OSError as error:
        _report(status_fd, {"error": str(error)})
        os._exit(1)
    # Leaving as process 1 kills whatever the program left behind.
    os._exit(_wait(program))


def _unwalled(spec: Mapping[str, Any]) -> int:
    """The program with limits only. Descendants become ours when their parents die, and are killed here."""
    _prctl(_CHILD_SUBREAPER, 1)
    _prctl(_NO_NEW_PRIVS, 1)
    signal.signal(signal.SIGTERM, _end_all)
    program = _start(spec, spec["folder"])
    returncode = _wait(program)
    _kill_descendants()
    return returncode


def _new_root(spec: Mapping[str, Any]) -> None:
    """A root of read-only mounts of the system and Python, with a small scratch folder in memory."""
    base = spec["folder"]
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", base, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    bound: list[str] = []
    for path in (*_SYSTEM, *spec["readable"], *_DEVICES):
        if not os.path.lexists(path) or any(path == b or path.startswith(b + "/") for b in bound):
            continue
        target = base + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
            continue
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.close(os.open(target, os.O_CREAT))
        _mount(path, target, None, _MS_BIND | _MS_REC)
        _read_only(target, recursive=True)
        bound.append(path)
    os.mkdir(base + "/proc")
    # Refused where a container has covered parts of /proc; then there is none, which is no weaker.
    _libc.mount(b"proc", (base + "/proc").encode(), b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None)
    os.mkdir(base + _SCRATCH)
    size = spec["file_bytes"]
    _mount("tmpfs", base + _SCRATCH, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size},nr_inodes=1024,mode=700")
    _read_only(base, recursive=False)
    os.chdir(base)
    _call("syscall", _SYS_PIVOT_ROOT[platform.machine()], b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def _start(spec: Mapping[str, Any], folder: str) -> int:
    """Write the files into `folder`, and start the program there under its limits. Returns its process id."""
    for name, text in spec["files"].items():
        with open(os.path.join(folder, name), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
    stdin = os.memfd_create("stdin")
    with open(stdin, "w", encoding="utf-8", errors="surrogateescape", closefd=False) as file:
        file.write(spec["stdin"])
    os.lseek(stdin, 0, os.SEEK_SET)
    drop = spec["drop_root"] and os.geteuid() == 0
    shared = not spec["namespaces"] and not drop
    processes = spec["processes"] + (_processes_of(os.geteuid()) if shared else 0)
    pid = os.fork()
    if pid:
        return pid
    try:
        os.dup2(stdin, 0)
        os.chdir(folder)
        for limit, value in (
            (resource.RLIMIT_CPU, spec["cpu_seconds"]),
            (resource.RLIMIT_AS, spec["memory_bytes"]),
            (resource.RLIMIT_FSIZE, spec["file_bytes"]),
            (resource.RLIMIT_NOFILE, spec["open_files"]),
            (resource.RLIMIT_NPROC, processes),
            (resource.RLIMIT_CORE, 0),
        ):
            hard = resource.getrlimit(limit)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))
        if drop:
            os.chown(folder, spec["user"], spec["user"])
            _become(spec["user"])
        environment = {**spec["environment"], "HOME": folder, "TMPDIR": folder}
        os.execve(spec["argv"][0], spec["argv"], environment)
    except Exception as error:
        os.write(2, f"sandbox: {error!r}\n".encode())
    finally:
        os._exit(127)


def _become(user: int) -> None:
    """Stop being root, whose processes the kernel does not limit in number."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _wait(pid: int) -> int:
    """The exit status of `pid`, 128 + signal where a signal ended it. Reaps others on the way."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _end_all(*_: Any) -> None:
    _kill_descendants()
    os._exit(1)


def _kill_descendants() -> None:
    # The children of a killed child become ours: again until there are none.
    while children := [pid for pid, parent in _parents().items() if parent == os.getpid()]:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _parents() -> dict[int, int]:
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return parents


def _processes_of(uid: int) -> int:
    """How many processes and threads the user has now; the kernel's limit counts them all."""
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def _read_only(path: str, recursive: bool) -> None:
    attributes = _MountAttr(set=_ATTR_RDONLY | _ATTR_NOSUID)
    flags = _AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("syscall", _SYS_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), size)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    _call("mount", texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name} {arguments[:2]}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

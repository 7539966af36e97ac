"""The sandbox holds what it promises, and the code reward cannot be talked into paying."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import pytest

from rewards import sandbox
from rewards.code import code, program_of
from rewards.registry import RewardError
from rewards.sandbox import Isolation, Limits, isolation, run_python

QUICK = Limits(seconds=1.0)
walled = pytest.mark.skipif(not isolation().namespaces, reason=f"no namespaces here: {isolation().reason}")


@pytest.fixture(params=["namespaces", "limits only"])
def either(request, monkeypatch):
    """The sandbox with its walls, and as it is where namespaces are not allowed."""
    if request.param == "limits only":
        monkeypatch.setattr(sandbox, "isolation", lambda: Isolation(namespaces=False))
    elif not isolation().namespaces:
        pytest.skip(isolation().reason)
    return request.param


def processes_with(text):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if text.encode() in Path("/proc", pid, "cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def test_program_reads_prints_and_exits(either):
    outcome = run_python("import sys; print(input()[::-1]); print('no', file=sys.stderr); sys.exit(3)", "abc\n")
    assert (outcome.stdout, outcome.stderr, outcome.returncode, outcome.killed) == ("cba\n", "no\n", 3, "")


def test_program_is_killed_at_the_deadline(either):
    outcome = run_python("while True: pass", limits=QUICK)
    assert (outcome.returncode, outcome.killed) == (None, "deadline")


def test_program_that_closes_its_outputs_is_killed_all_the_same(either):
    outcome = run_python("import os, time; os.close(1); os.close(2); time.sleep(60)", limits=QUICK)
    assert outcome.killed == "deadline"


def test_children_that_leave_the_session_die_with_the_program(either):
    mark = f"mark-{time.time_ns()}"
    source = f"""
import os, subprocess, sys
command = [sys.executable, "-I", "-c", "import time; time.sleep(60)", {mark!r}]
subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("left")
"""
    assert run_python(source).stdout == "left\n"
    assert not processes_with(mark)


def test_children_die_at_the_deadline(either):
    mark = f"mark-{time.time_ns()}"
    source = f"""
import subprocess, sys, time
command = [sys.executable, "-I", "-c", "import time; time.sleep(60)", {mark!r}]
subprocess.Popen(command, start_new_session=True)
time.sleep(60)
"""
    assert run_python(source, limits=QUICK).killed == "deadline"
    time.sleep(0.1)
    assert not processes_with(mark)


def test_flood_of_output_is_cut(either):
    outcome = run_python("while True: print('x' * 1000)", limits=Limits(output_bytes=5000))
    assert (outcome.killed, len(outcome.stdout)) == ("output", 5000)


def test_memory_is_limited(either):
    assert "MemoryError" in run_python("x = bytearray(1 << 30)").stderr


def test_files_are_limited(either):
    assert "OSError" in run_python("open('big', 'wb').write(bytes(20 << 20))").stderr


def test_ignoring_signals_does_not_help(either):
    source = "import signal, time\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)"
    assert run_python(source, limits=QUICK).killed == "deadline"


def test_caller_s_environment_is_hidden(either, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    assert "hunter2" not in run_python("import os; print(os.environ)").stdout


@walled
def test_fork_bomb_is_harmless():
    outcome = run_python("import os\nwhile True: os.fork()", limits=QUICK)
    assert outcome.killed or outcome.returncode


@walled
def test_there_is_no_network():
    source = "import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
    listener = __import__("socket").create_server(("127.0.0.1", 0))
    outcome = run_python(source.format(port=listener.getsockname()[1]))
    listener.close()
    assert "unreachable" in outcome.stderr or "refused" in outcome.stderr


@walled
@pytest.mark.parametrize("path", ["/usr/written", "/written", "/tmp/written", "/etc/written", "/proc/1/oom_score_adj"])
def test_nothing_outside_the_scratch_folder_can_be_written(path):
    assert "Error" in run_python(f"open({path!r}, 'w').write('0')").stderr
    assert (
        run_python("import os; open('mine', 'w').write('x'); print(open(os.environ['HOME'] + '/mine').read())").stdout
        == "x\n"
    )


@walled
def test_other_files_and_processes_cannot_be_seen(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    assert "FileNotFoundError" in run_python(f"print(open({str(secret)!r}).read())").stderr
    pids = run_python("import os; print([p for p in os.listdir('/proc') if p.isdigit()])").stdout
    assert len(pids) < 20


@walled
def test_program_cannot_mount_or_become_root():
    source = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.mount(b"tmpfs", b"/scratch", b"tmpfs", 0, None), libc.chroot(b"/scratch"))
try:
    os.setuid(0)
except OSError:
    print("no")
"""
    assert run_python(source).stdout == "-1 -1\nno\n"


def test_sandbox_works_from_worker_threads(either):
    outcomes = []
    threads = [threading.Thread(target=lambda i=i: outcomes.append(run_python(f"print({i})").stdout)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["0\n", "1\n", "2\n", "3\n"]


def test_missing_namespaces_are_named_once_with_what_is_weaker(monkeypatch, caplog):
    run = sandbox._run

    def refused(*arguments, namespaces):
        if namespaces:
            raise sandbox.SandboxError("unshare: Operation not permitted")
        return run(*arguments, namespaces)

    monkeypatch.setattr(sandbox, "_run", refused)
    sandbox.isolation.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            found = sandbox.isolation()
            assert sandbox.isolation() == found
    finally:
        sandbox.isolation.cache_clear()
    assert not found.namespaces
    assert len(caplog.records) == 1
    assert "unshare: Operation not permitted" in caplog.text
    assert "the network can be reached" in caplog.text


def test_file_name_that_leaves_the_scratch_folder_is_refused():
    with pytest.raises(ValueError, match=r"got '\.\./x'"):
        run_python("", files={"../x": ""})


def turn(source):
    return f"<think>I write it.</think>\n<answer>\n```python\n{source}\n```\n</answer>"


ASSERTS = ["assert add(2, 3) == 5", "assert [1, 2] == add([1], [2])", "assert abs(add(.1, .2) - .3) < 1e-9"]


def test_program_that_passes_all_tests_earns_one():
    good = turn("def add(a, b):\n    print('noise')\n    return a + b")
    wrong = turn("def add(a, b):\n    return a + b if a != 2 else 6")
    assert code([""] * 3, [good, wrong, "no code"], [ASSERTS] * 3) == [1.0, 0.0, 0.0]
    assert code([""] * 2, [good, wrong], [ASSERTS] * 2, partial=True) == pytest.approx([1.0, 2 / 3])


def test_program_in_the_thought_alone_earns_nothing():
    assert code([""], ["<think>```python\nadd = lambda a, b: a + b\n```"], [ASSERTS]) == [0.0]


@pytest.mark.parametrize(
    "source",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "class Any:\n    def __eq__(self, other): return True\ndef add(a, b): return Any()",
        "import os; os.write(1, b'[\"5\"]')\ndef add(a, b): return 5",
        "class R:\n    def __repr__(self): return '1/0'\ndef add(a, b): return R()",
        "def add(a, b): return add",
        "def add(a, b): raise SystemExit",
        "while True: pass",
        "def add(a, b:",
        "\x00",
    ],
)
def test_cheats_and_faults_earn_nothing(source):
    assert code([""], [turn(source)], [ASSERTS[:1] if "R()" in source else ASSERTS[:2]], seconds=2.0) == [0.0]


def test_standard_input_and_output_are_compared_line_by_line():
    tests = [{"input": "2 3\n", "output": "5"}, {"input": "1 1\n", "output": "2\n\n"}]
    good = turn("a, b = map(int, input().split())\nprint(a + b, end=' \\n')")
    lazy = turn("print(5)")
    crash = turn("a, b = map(int, input().split())\nprint(a + b)\nraise SystemExit(1)")
    assert code([""] * 3, [good, lazy, crash], [tests] * 3) == [1.0, 0.0, 0.0]


def test_other_problems_do_not_apply_and_tests_may_be_json_text():
    good = turn("def add(a, b): return a + b")
    assert code([""] * 2, [good, good], [None, '["assert add(1, 1) == 2"]']) == [None, 1.0]


@pytest.mark.parametrize(
    ("tests", "says"), [([], "at least one test"), (["assert ("], "must be Python"), ([{"in": "1"}], '"input"')]
)
def test_bad_tests_are_an_error_not_a_zero(tests, says):
    with pytest.raises(RewardError, match=says):
        code([""], [turn("x = 1")], [tests])


def test_last_block_of_the_response_is_the_program():
    assert program_of("<think>```python\na\n```</think>\n```py\nb\n```\nor\n```\nc\n```") == "c\n"
    assert program_of("<think>a</think><answer>print(1)</answer>") == "print(1)"
    assert program_of("<think>a") is None

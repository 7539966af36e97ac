"""sympy runs in processes of its own, which may be killed at any time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time

import pytest

from rewards import explain, verify, verify_many
from rewards.verify import pool
from rewards.verify.clean import clean
from rewards.verify.parser import parse

# Exact forms do not decide these, and they are equal.
NEEDS_SYMPY = [
    (r"\cos\frac{\pi}{5}", r"\frac{1+\sqrt{5}}{4}"),
    (r"\sqrt[3]{7+5\sqrt{2}}", r"1+\sqrt{2}"),
    (r"\sqrt[3]{26+15\sqrt{3}}", r"2+\sqrt{3}"),
]
GOLD, ANSWER = NEEDS_SYMPY[0]


def test_what_exact_forms_leave_open_sympy_decides():
    for gold, answer in NEEDS_SYMPY:
        verdict = explain(gold, answer, timeout=20)
        assert (verdict.equal, verdict.rule) == (True, "sympy")


def test_the_pool_survives_the_death_of_an_idle_worker():
    assert verify(GOLD, ANSWER, timeout=20)
    for pid in pool.shared().workers():
        os.kill(pid, signal.SIGKILL)
    assert verify(GOLD, ANSWER, timeout=20)


def test_the_pool_survives_the_death_of_a_working_worker():
    workers = pool.Pool(size=1)
    tree = parse(clean(GOLD)), parse(clean(ANSWER))
    workers.equal(*tree, False, 20)
    done = threading.Event()

    def kill() -> None:
        while not done.is_set():
            for pid in workers.workers():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    for _ in range(3):
        # A worker killed twice over one question leaves it undecided; no other error comes out.
        with contextlib.suppress(pool.Undecided):
            assert workers.equal(*tree, False, 20)
    done.set()
    killer.join()
    assert workers.equal(*tree, False, 20)
    workers.close()


def test_a_question_past_its_deadline_is_undecided_and_its_process_is_gone():
    workers = pool.Pool(size=1)
    hard = parse("(x+y+z+w+v+u)^{60}-(x+y+z+w+v+u)^{59}"), parse("1")
    workers.equal(parse("x"), parse("x"), False, 20)
    (pid,) = workers.workers()
    with pytest.raises(pool.Undecided, match="did not finish in time"):
        workers.equal(*hard, False, 0.2)
    assert workers.workers() == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert workers.equal(parse("x+x"), parse("2x"), False, 20)
    workers.close()


def test_verify_many_asks_several_workers():
    pairs = NEEDS_SYMPY * 4 + [("1", "2")]
    assert verify_many(pairs, timeout=20) == [True] * 12 + [False]


def test_threads_share_the_pool():
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(verify(GOLD, ANSWER, timeout=30))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 6


def _in_child(queue) -> None:
    queue.put(verify(GOLD, ANSWER, timeout=20))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_has_workers_of_its_own_and_leaves_ours_alone(method):
    assert verify(GOLD, ANSWER, timeout=20)
    before = pool.shared().workers()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_in_child, args=(queue,))
    process.start()
    assert queue.get(timeout=100) is True
    process.join()
    assert verify(GOLD, ANSWER, timeout=20)
    assert set(before) <= set(pool.shared().workers())


def test_sympy_never_reads_text():
    # Trees travel as nested lists; a name cannot become code.
    assert not verify("__import__('os').getpid()", str(os.getpid()))
    assert not verify("x", "x.__class__")

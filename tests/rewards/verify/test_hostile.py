"""No answer hangs, crashes or fools the verifier, wherever it is called from."""

from __future__ import annotations

import multiprocessing
import resource
import threading
import time

import pytest

from rewards import extract_answer, verify
from rewards.verify.api import explain
from tests.rewards.verify.hostile import GOLD, hostile_answers

HOSTILE = hostile_answers()


def _paid_for() -> list[str]:
    return [text[:60] for text in HOSTILE if verify(GOLD, text) or verify(r"\frac{1}{2}", text)]


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _report(queue) -> None:
    before = _memory()
    queue.put((_paid_for(), _memory() - before))


def test_the_hostile_suite_is_large():
    assert len(set(HOSTILE)) >= 150


def test_no_hostile_answer_is_paid_for_or_needs_much_memory():
    before = _memory()
    assert _paid_for() == []
    assert _memory() - before < 300


@pytest.mark.parametrize("gold", [r"x^2+1", r"\sin x", "(1,2)", "C", r"\sqrt{2}+e", "x>3", r"\{1,2\}", r"\log x"])
def test_every_hostile_answer_has_a_verdict_beside_any_kind_of_gold(gold):
    for text in HOSTILE:
        verdict = explain(gold, text)
        assert verdict.rule != "error", (text[:60], verdict.reason)


def test_hostile_answers_are_judged_in_a_worker_thread():
    results: list[list[str]] = []
    thread = threading.Thread(target=lambda: results.append(_paid_for()))
    thread.start()
    thread.join()
    assert results == [[]]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_hostile_answers_are_judged_in_another_process(method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_report, args=(queue,))
    process.start()
    paid_for, megabytes = queue.get(timeout=200)
    process.join()
    assert paid_for == []
    assert megabytes < 300


def test_hostile_completions_are_extracted():
    for text in HOSTILE:
        extract_answer(text)
        extract_answer(f"<think>x</think><answer>{text}</answer>")


def test_a_hostile_gold_answer_is_no_reason_to_hang_either():
    for text in HOSTILE:
        assert not verify(text, "an answer that nobody gives")
        time.sleep(0)

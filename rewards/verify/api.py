"""What the package offers: verify, explain, verify_many, check_gold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic, perf_counter

from . import pool
from .answer import Answer, Group, Matrix, Named, show_answer
from .compare import Comparison, Result
from .reader import Reading, read, read_gold
from .tree import MAX_CHARS, Node, VerifyError
from .words import Words

_SAME = (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\left", ""), ("\\right", ""), ("$", ""))
# A blank between two letters or digits says something ("4 2/3"), beside a sign it does not.
_IDLE_BLANK = re.compile(r" +(?![A-Za-z0-9 ])|(?<![A-Za-z0-9 ]) +")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `explain` says about a pair.

    rule: the rule that decided, by its name in docs/verifier.md. gold, answer: canonical text of the two.
    seconds: wall time. reason: why they are not equal, or what could not be read; "" where the forms say it.
    """

    equal: bool
    rule: str
    gold: str
    answer: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class GoldReport:
    """How many gold answers of a data set cannot be read as mathematics, a choice or a short text.

    examples: (position, text, reason) of the first three.
    """

    total: int
    unreadable: int
    examples: tuple[tuple[int, str, str], ...]

    def __str__(self) -> str:
        if not self.unreadable:
            return f"all {self.total} gold answers can be read"
        shown = "; ".join(f"no. {n}: {text[:60]!r} ({reason})" for n, text, reason in self.examples)
        return (
            f"{self.unreadable} of {self.total} gold answers cannot be read as mathematics, so that only the same text "
            f"earns the reward: {shown}. Correct them, or drop these problems."
        )


def verify(gold: str, answer: str, *, timeout: float = 1.0, abs_tol: float = 0.0, rel_tol: float = 0.0) -> bool:
    """Whether an answer says the same as the gold answer. Never raises on strings.

    timeout: seconds sympy may take where exact forms leave the question open (starting its process, once, is not
    counted). abs_tol, rel_tol: accept a number that is close, as `math.isclose` does, where the benchmark's rule
    says so; exact by default. TypeError where gold or answer is not a string.
    """
    _check_types(gold, answer)
    return _decide(gold, answer, timeout, abs_tol, rel_tol)[0].equal


def explain(gold: str, answer: str, *, timeout: float = 1.0, abs_tol: float = 0.0, rel_tol: float = 0.0) -> Verdict:
    """`verify` with the canonical forms, the rule that decided and the time it took."""
    _check_types(gold, answer)
    start = perf_counter()
    result, first, second = _decide(gold, answer, timeout, abs_tol, rel_tol)
    seconds = perf_counter() - start
    gold_text, gold_reason = _shown(first, gold)
    answer_text, answer_reason = _shown(second, answer)
    reason = result.reason
    if not result.equal:
        # Why a text was read as words is what a person looking for a lost reward wants to know.
        reason = ": ".join(part for part in (reason, answer_reason or gold_reason) if part)
    return Verdict(result.equal, result.rule, gold_text, answer_text, seconds, reason)


def verify_many(
    pairs: Iterable[tuple[str, str]], *, timeout: float = 1.0, abs_tol: float = 0.0, rel_tol: float = 0.0
) -> list[bool]:
    """`verify` for (gold, answer) pairs, in their order.

    Exact forms are compared here; what needs sympy is asked of several worker processes at once.
    """
    results: list[bool] = []
    open_pairs: list[tuple[int, str, str]] = []
    for position, (gold, answer) in enumerate(pairs):
        _check_types(gold, answer)
        try:
            results.append(_decide(gold, answer, None, abs_tol, rel_tol)[0].equal)
        except _NeedsSympy:
            results.append(False)
            open_pairs.append((position, gold, answer))
    if open_pairs:
        # Imported here, as the pool's own imports are: `import rewards` stays cheap.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(pool.shared().size) as threads:
            jobs = [threads.submit(verify, g, a, timeout=timeout) for _, g, a in open_pairs]
            for (position, _, _), job in zip(open_pairs, jobs, strict=True):
                results[position] = job.result()
    return results


def check_gold(answers: Iterable[str]) -> GoldReport:
    """Reads the gold answers of a data set and reports those that only the same text could ever equal."""
    total = unreadable = 0
    examples: list[tuple[int, str, str]] = []
    for position, text in enumerate(answers):
        total += 1
        reason = _unreadable(read(text)) if isinstance(text, str) else f"a {type(text).__name__}, not a string"
        if reason:
            unreadable += 1
            if len(examples) < 3:
                examples.append((position, str(text), reason))
    return GoldReport(total, unreadable, tuple(examples))


class _NeedsSympy(Exception):
    """Raised instead of asking sympy, to ask later."""


def _check_types(gold: object, answer: object) -> None:
    for name, value in (("gold", gold), ("answer", answer)):
        if not isinstance(value, str):
            raise TypeError(
                f"{name} must be a str, got {type(value).__name__}: "
                + (
                    "a completion without an answer (extract_answer gave None) is wrong."
                    if value is None
                    else "pass text."
                )
            )


def _decide(
    gold: str, answer: str, timeout: float | None, abs_tol: float, rel_tol: float
) -> tuple[Result, Reading | None, Reading | None]:
    """timeout None: raise _NeedsSympy instead of asking."""
    if not answer.strip() or not gold.strip():
        return Result(False, "empty", "no text"), None, None
    if gold == answer or gold.strip() == answer.strip():
        return Result(True, "identical text"), None, None
    if len(answer) <= MAX_CHARS and len(gold) <= MAX_CHARS and _squeezed(gold) == _squeezed(answer):
        return Result(True, "same text"), None, None
    deadline = monotonic() + (timeout or 0)

    def ask(left: Node, right: Node, log10: bool) -> bool:
        if timeout is None:
            raise _NeedsSympy
        remaining = deadline - monotonic()
        if remaining <= 0:
            raise pool.Undecided("no time left for sympy")
        return pool.shared().equal(left, right, log10, remaining)

    try:
        return _read_and_compare(gold, answer, Comparison(ask, abs_tol, rel_tol))
    except _NeedsSympy:
        raise
    except Exception as error:
        # A mistake of ours must not stop a training run. The tests hold that no fuzzed input gets here.
        return Result(False, "error", f"{type(error).__name__}: {error}"), None, None


def _read_and_compare(gold: str, answer: str, comparison: Comparison) -> tuple[Result, Reading, Reading]:
    first, second = read_gold(gold), read(answer)
    result = _compare(comparison, first, second)
    if not result.equal and (first.has_log or second.has_log):
        # A logarithm without a base is natural in some books, decimal in others.
        decimal = _compare(comparison._replace(log10=True), read_gold(gold, True), read(answer, True))
        if decimal.equal:
            result = decimal._replace(rule="logarithm to base 10")
    return result, first, second


def _compare(comparison: Comparison, first: Reading, second: Reading) -> Result:
    try:
        return comparison.readings(first, second)
    except pool.Undecided as error:
        return Result(False, "undecided", str(error))
    except VerifyError as error:
        return Result(False, "limit", str(error))
    except (RecursionError, OverflowError, MemoryError) as error:
        return Result(False, "limit", f"{type(error).__name__}: {error}")


def _shown(reading: Reading | None, text: str) -> tuple[str, str]:
    """Canonical text, and why it is no mathematics."""
    try:
        reading = reading or read(text)
        return show_answer(reading.answer), reading.reason
    except Exception as error:  # as in _decide
        return text, f"{type(error).__name__}: {error}"


def _squeezed(text: str) -> str:
    text = text.strip().rstrip(".").strip()
    if "\\" in text or "$" in text:
        for old, new in _SAME:
            if old in text:
                text = text.replace(old, new)
    return _IDLE_BLANK.sub("", text) if " " in text else text


def _unreadable(reading: Reading) -> str:
    words = [a for a in _parts(reading.answer) if isinstance(a, Words)]
    if not words:
        return ""
    text = reading.text
    # A name or a short phrase is an answer; what has digits, signs or many words was meant as something else.
    if re.fullmatch(r"[^\d\\=+*/^<>_$]{1,60}", text) and len(text.split()) <= 6:
        return ""
    return reading.reason or "text"


def _parts(answer: Answer) -> list[Answer]:
    if isinstance(answer, Group):
        return [p for i in answer.items for p in _parts(i)]
    if isinstance(answer, Matrix):
        return [p for row in answer.rows for i in row for p in _parts(i)]
    if isinstance(answer, Named):
        return _parts(answer.answer)
    return [answer]

"""Agreement and speed of the verifier on the labelled suite, beside math-verify's in the same run.

    python benchmarks/verifier.py [--peer-hostile]

math-verify is no dependency of this project. To see its figures too, install it into a folder of its own:

    pip install --target /tmp/math-verify math-verify
    PYTHONPATH=/tmp/math-verify python benchmarks/verifier.py
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rewards import verify, verify_many  # noqa: E402 - the suite stands beside the package, not in it
from rewards.verify.reader import read_gold  # noqa: E402
from tests.rewards.verify.cases import Case, labelled_cases  # noqa: E402
from tests.rewards.verify.hostile import GOLD, hostile_answers  # noqa: E402

Judge = Callable[[str, str], bool]
PEER_SECONDS = 5.0


def ours(gold: str, answer: str) -> bool:
    """Without remembered gold answers, so that every call pays for both sides."""
    read_gold.cache_clear()
    return verify(gold, answer)


def peer() -> Judge | None:
    """math-verify's own way: parse both sides (as LaTeX where they have none of its delimiters), then compare."""
    if importlib.util.find_spec("math_verify") is None:
        return None
    logging.disable(logging.CRITICAL)
    from math_verify import parse
    from math_verify import verify as peer_verify

    def wrapped(text: str) -> str:
        return text if "$" in text or "\\boxed" in text or "\\(" in text or "\\[" in text else f"${text}$"

    def judge(gold: str, answer: str) -> bool:
        return bool(peer_verify(parse(wrapped(gold)), parse(wrapped(answer))))

    return judge


def measure(name: str, judge: Judge, cases: list[Case], repeats: int) -> float:
    """Print agreement and time a call; return the median in seconds. The best of `repeats` calls of each case."""
    right = false_positives = false_negatives = 0
    seconds = []
    for case in cases:
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            said = judge(case.gold, case.answer)
            best = min(best, time.perf_counter() - start)
        seconds.append(best)
        right += said == case.equal
        false_positives += said and not case.equal
        false_negatives += case.equal and not said
    seconds.sort()
    median = statistics.median(seconds)
    print(
        f"{name:12} {right / len(cases):7.2%} right ({false_negatives} false negatives, {false_positives} false "
        f"positives), median {median * 1e6:8.1f} µs, p99 {seconds[int(0.99 * len(seconds))] * 1e6:9.1f} µs"
    )
    return median


def hostile() -> None:
    """Print how long the worst hostile answer takes and what the suite costs in memory."""
    answers = hostile_answers()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    worst = 0.0
    paid = 0
    for answer in answers:
        start = time.perf_counter()
        paid += ours(GOLD, answer)
        worst = max(worst, time.perf_counter() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"hostile      {len(answers)} answers, {paid} paid for, worst {worst * 1e3:.0f} ms, {grown:.0f} MB more memory"
    )


def peer_hostile(judge: Judge) -> None:
    """The same for the other verifier, each answer in a process that is killed after some seconds."""
    running = paid = 0
    answers = hostile_answers()
    context = multiprocessing.get_context("fork")
    for answer in answers:
        queue = context.SimpleQueue()
        process = context.Process(target=_judge_into, args=(judge, answer, queue))
        process.start()
        process.join(PEER_SECONDS)
        if process.is_alive():
            running += 1
            process.kill()
            process.join()
        elif process.exitcode == 0:
            paid += queue.get()
    late = f"{running} still running after {PEER_SECONDS:.0f} s"
    print(f"math-verify  {len(answers)} hostile answers, {late}, {paid} paid for")


def _judge_into(judge: Judge, answer: str, queue) -> None:
    queue.put(judge(GOLD, answer))


def batch(cases: list[Case], size: int = 4096) -> None:
    """Print the time of verify_many on pairs of the suite."""
    pairs = [(case.gold, case.answer) for case in cases]
    pairs = (pairs * (size // len(pairs) + 1))[:size]
    verify_many(pairs)  # starts the workers
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        verify_many(pairs)
        seconds.append(time.perf_counter() - start)
    print(f"verify_many  {size} pairs in {min(seconds):.3f} s (best of 5)")


def importing() -> None:
    """Print what `import rewards` costs a fresh interpreter."""
    code = "import time; start = time.perf_counter(); import rewards; print(time.perf_counter() - start)"
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT) for _ in range(5)]
    print(f"import       {min(float(run.stdout) for run in runs) * 1e3:.0f} ms (best of 5)")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="calls of each case, the best counts (default: 5)")
    parser.add_argument(
        "--peer-hostile", action="store_true", help="give math-verify the hostile answers too (minutes)"
    )
    arguments = parser.parse_args()
    cases = list(labelled_cases())
    print(f"{len(cases)} labelled cases in {len({c.category for c in cases})} categories")
    verify(r"\cos\frac{\pi}{5}", r"\frac{1+\sqrt5}{4}", timeout=20)  # starts a sympy process
    mine = measure("rlzero", ours, cases, arguments.repeats)
    other = peer()
    if other is None:
        print("math-verify  not installed; the head of this file says how to see its figures")
    else:
        theirs = measure("math-verify", other, cases, 1)
        print(f"             {theirs / mine:.0f} times faster at the median")
        if arguments.peer_hostile:
            peer_hostile(other)
    hostile()
    batch(cases)
    importing()


if __name__ == "__main__":
    main()

"""Does the program that the model wrote pass the tests? It runs in `rewards.sandbox`.

Two kinds of test, in the column `tests`, a list per row:
- `{"input": text, "output": text}`: the program reads standard input and prints; compared line by line, white
  space at the ends of lines aside.
- Python text, best `assert f(2, 3) == 5`. Where one side is a literal, the sandbox only computes the other
  side and the comparison happens out here, so that a program cannot pass by exiting early, by objects that
  equal everything, or by reading the expected value. Any other test text runs beside the program, which then
  could cheat.
"""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rewards.locate import RewardError
from rewards.sandbox import Limits, isolation, run_python
from rewards.turn import response

Tests = Sequence[str | Mapping[str, str]] | str | None

_FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)

# Results go where the program's own prints do not: to the original standard output.
_DRIVER = """\
import json, os, runpy, sys
_channel = os.dup(1)
os.dup2(2, 1)
_token = sys.stdin.readline().strip()
_names = runpy.run_path("solution.py", run_name="solution")
_results = []
for _case in range({count}):
    try:
        _value = runpy.run_path(f"case_{{_case}}.py", init_globals={{**_names, "_token": _token}})["_value"]
        _results.append(repr(_value))
    except BaseException as _error:
        _results.append(None)
os.write(_channel, json.dumps(_results).encode())
"""


def code(
    prompts: list[str],
    completions: list[str],
    tests: list[Tests],
    *,
    seconds: float = 5.0,
    memory_mb: int = 512,
    partial: bool = False,
    **columns: Any,
) -> list[float | None]:
    """1.0 where the program passes all its tests, else 0.0; with `partial`, the share that it passes.

    The program is the last ```python block of the response, or the whole `<answer>`. tests: as above; a row
    may hold the list as JSON text. seconds, memory_mb: limits of each run of the program. None for a row
    without
    tests: another kind of problem.
    """
    limits = Limits(seconds=seconds, memory_bytes=memory_mb << 20)
    isolation()  # found out, and any warning given, once before the threads
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        shares = list(pool.map(lambda row: _share(row[0], row[1], limits), zip(completions, tests, strict=True)))
    return [share if partial or share is None else float(share == 1.0) for share in shares]


def program_of(completion: str) -> str | None:
    """The Python program that a completion hands in: the last fenced block, else all of the response."""
    text = response(completion)
    blocks = _FENCE.findall(text)
    source = blocks[-1] if blocks else text
    return source if source.strip() else None


def _share(completion: str, tests: Tests, limits: Limits) -> float | None:
    if tests is None:
        return None
    if isinstance(tests, str):
        tests = json.loads(tests)
    if not tests:
        raise RewardError("code needs at least one test per row, got an empty list; leave such problems out")
    source = program_of(completion)
    if source is None:
        return 0.0
    asserts = [test for test in tests if isinstance(test, str)]
    dialogues = [test for test in tests if not isinstance(test, str)]
    passed = _passed_asserts(source, asserts, limits) if asserts else 0
    passed += sum(_passes_dialogue(source, test, limits) for test in dialogues)
    return passed / len(tests)


def _passes_dialogue(source: str, test: Mapping[str, str], limits: Limits) -> bool:
    if "input" not in test or "output" not in test:
        raise RewardError(f'a test is Python text or {{"input": …, "output": …}}, got {dict(test)!r:.200}')
    outcome = run_python(source, test["input"], limits)
    return outcome.returncode == 0 and _lines(outcome.stdout) == _lines(test["output"])


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _passed_asserts(source: str, asserts: Sequence[str], limits: Limits) -> int:
    """How many of the tests the program passes; all of them in one run."""
    token = secrets.token_hex(16)
    cases = [_case(test, token) for test in asserts]
    files = {f"case_{i}.py": text for i, (text, _) in enumerate(cases)}
    files["solution.py"] = source
    outcome = run_python(_DRIVER.format(count=len(cases)), token + "\n", limits, files)
    try:
        results = json.loads(outcome.stdout)
        return sum(
            isinstance(result, str) and ast.literal_eval(result) == expected
            for result, (_, expected) in zip(results, cases, strict=True)
        )
    # What stands there may be anything that the program cared to write.
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return 0


def _case(test: str, token: str) -> tuple[str, Any]:
    """What runs in the sandbox, and what it must come to."""
    try:
        statements = ast.parse(test).body
    except SyntaxError as error:
        raise RewardError(f"a test of code must be Python, got {test!r:.200}: {error}") from error
    match statements:
        case [ast.Assert(test=ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]))]:
            for computed, literal in ((left, right), (right, left)):
                try:
                    expected = ast.literal_eval(literal)
                except ValueError:
                    continue
                return f"_value = ({ast.unparse(computed)})\n", expected
    return f"{test}\n_value = _token\n", token

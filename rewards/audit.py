"""`python -m rewards audit TARGET`: does a reward function survive what training will throw at it?

Every call happens in a child process with a deadline, so that neither a hang nor a crash of the reward stops
the audit. Exit code 0: passed; 1: it has faults, or pays for a hack; 2: it cannot be loaded or applied.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import inspect
import json
import math
import os
import pickle
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rewards.audit_corpus import SAMPLES, Sample, answer_hacks, form_hacks, hostile, turn
from rewards.registry import Reward, RewardError, load_reward, probe, score

_LOAD_SECONDS = 120.0  # a dotted name may import torch
_TOLERANCE = 0.1  # of the difference between a right and a wrong answer: rewards may also look at length
_MEMORY_BYTES = 4 << 30  # beyond what the process has when a probe starts


class AuditError(Exception):
    """The target cannot be audited; the message says why."""


class Died(Exception):
    """A child process did not answer: it ran past its deadline, or ended without a result."""


@dataclass(frozen=True)
class Report:
    """faults: what goes wrong, by probe. paid: the value that each hack earned, by hack. right, wrong: what a
    right and a wrong answer in good form earn. low, high: the range of all values seen."""

    target: str
    sample: str
    probes: int
    right: float
    wrong: float
    low: float
    high: float
    faults: Mapping[str, str] = field(default_factory=dict)
    hacks: int = 0
    paid: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.faults and not self.paid


def main(argv: Sequence[str]) -> int:
    """The command. Prints the report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rewards audit", description=__doc__)
    parser.add_argument("target", help="path/to/file.py:function, a dotted name, or a shipped reward's name")
    parser.add_argument("--seconds", type=float, default=10.0, help="deadline of each call (default: 10)")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a further column that the reward needs, the value as JSON or text; may be repeated",
    )
    arguments = parser.parse_args(argv)
    try:
        columns = dict(_column(text) for text in arguments.column)
        report = audit(arguments.target, arguments.seconds, columns)
    except AuditError as error:
        print(f"rewards audit: {error}", file=sys.stderr)
        return 2
    print(render(report))
    return 0 if report.passed else 1


def audit(target: str, seconds: float = 10.0, columns: Mapping[str, Any] | None = None) -> Report:
    """Audit one reward. seconds: deadline of a call. columns: one value for each further column it needs.

    Raises AuditError where the target cannot be loaded, or applies to none of the sample problems.
    """
    try:
        # Loaded once beside us first, because importing a stranger's file may hang or end the process.
        in_child(lambda: load_reward(target).name, _LOAD_SECONDS)
        reward = load_reward(target)
    except (RewardError, Died) as error:
        raise AuditError(str(error)) from error
    reward, sample, right, wrong = _applicable(reward, columns or {}, seconds)
    values = [right, wrong]
    faults: dict[str, str] = {}
    paid: dict[str, float] = {}
    probes = {"two in a batch": [turn(sample.right), turn(sample.wrong)], "seven in a batch": [turn("7")] * 7}
    probes |= {name: [turn(sample.right), text] for name, text in hostile().items()}
    for name, completions in probes.items():
        try:
            values += _values(reward, sample, completions, seconds)
        except (RewardError, Died) as error:
            faults[name] = str(error)
    hacks = _applicable_hacks(reward, sample, right, wrong, seconds)
    # A reward that judges the answer must not pay clearly more for a hack than for a wrong answer in good
    # form; one that judges the form alone must not pay for a hack what it pays for good form.
    bound = wrong + _TOLERANCE * (right - wrong) if right > wrong else math.nextafter(right, -math.inf)
    for name, text in hacks.items():
        try:
            value = _values(reward, sample, [text], seconds)[0]
        except (RewardError, Died) as error:
            faults[name] = str(error)
            continue
        values.append(value)
        if not math.isnan(value) and value > bound:
            paid[name] = value
    if right < wrong:
        paid["a wrong answer"] = wrong
    known = [value for value in values if not math.isnan(value)]
    return Report(target, sample.name, len(probes), right, wrong, min(known), max(known), faults, len(hacks), paid)


def render(report: Report) -> str:
    """The report as text."""
    lines = [
        f"audit of {report.target} on the sample problem {report.sample!r}",
        f"  a right answer earns {report.right:g}, a wrong one {report.wrong:g}; all values lie between "
        f"{report.low:g} and {report.high:g}",
        f"  {report.probes} probes with hostile text: {len(report.faults)} faults",
        *(f"    FAULT {name}: {fault[:300]}" for name, fault in report.faults.items()),
        f"  {report.hacks} known hacks: pays for {len(report.paid)}",
        *(f"    PAYS {value:g} for {name}" for name, value in report.paid.items()),
        "PASS" if report.passed else "FAIL",
    ]
    if not report.hacks:
        lines.insert(-1, "    (good form and a right answer earn no more than nothing, so no hack applies)")
    return "\n".join(lines)


def _column(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise AuditError(f"--column takes NAME=VALUE, got {text!r}")
    with contextlib.suppress(ValueError):
        return name, json.loads(value)
    return name, value


def _applicable(reward: Reward, columns: Mapping[str, Any], seconds: float) -> tuple[Reward, Sample, float, float]:
    """The sample problem on which a right answer earns more than a wrong one, else the first that applies."""
    reasons = []
    usable = []
    for sample in SAMPLES:
        sample = replace(sample, columns={**sample.columns, **columns})
        required = {
            name
            for name, parameter in inspect.signature(reward.function).parameters.items()
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        }
        lacking = required - set(sample.columns) - {"prompts", "completions", "completion_ids", "solution"}
        if lacking:
            name = sorted(lacking)[0]
            reasons.append(
                f"it needs {name!r}; give it as --column {name}=VALUE, or in the spec, {reward.name}({name}=VALUE)"
            )
            continue
        try:
            messages = in_child(functools.partial(_takes_messages, reward, sample), seconds)
            found = Reward(reward.name, reward.function, messages=messages)
            right, wrong = _values(found, sample, [turn(sample.right), turn(sample.wrong)], seconds)
        except (RewardError, Died) as error:
            reasons.append(str(error))
            continue
        if not math.isnan(right) and not math.isnan(wrong):
            usable.append((found, sample, right, wrong))
            if right > wrong:
                return usable[-1]
        else:
            reasons.append("it returns None for an answer in good form")
    if not usable:
        raise AuditError(f"{reward.name} cannot be applied to any sample problem: {reasons[0]}")
    return usable[0]


def _takes_messages(reward: Reward, sample: Sample) -> bool:
    columns = {key: [value] for key, value in sample.columns.items()}
    return probe(reward, [sample.prompt], [turn(sample.right)], columns).messages


def _applicable_hacks(reward: Reward, sample: Sample, right: float, wrong: float, seconds: float) -> dict[str, str]:
    if right != wrong:
        return answer_hacks(sample)
    with contextlib.suppress(RewardError, Died):
        if right > _values(reward, sample, ["no form at all"], seconds)[0]:
            return form_hacks(sample)
    return {}


def _values(reward: Reward, sample: Sample, completions: list[str], seconds: float) -> list[float]:
    """The values of a batch, NaN for None. Called twice, in a process of its own. Raises RewardError, Died."""

    def twice() -> list[float | None]:
        columns = {key: [value] * len(completions) for key, value in sample.columns.items()}
        before = copy.deepcopy(columns)
        ids = [list(text.encode(errors="surrogatepass")[:4096]) for text in completions]
        prompts = [sample.prompt] * len(completions)
        first = score([reward], prompts, completions, columns, ids)[reward.name]
        if columns != before:
            raise RewardError("it changes the columns that it is given, which other rewards read after it")
        second = score([reward], prompts, completions, columns, ids)[reward.name]
        if first != second:
            raise RewardError(f"it is not deterministic: {first} and then {second} for the same batch")
        return first

    return [math.nan if value is None else value for value in in_child(twice, 2 * seconds)]


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

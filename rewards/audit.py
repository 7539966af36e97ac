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
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rewards.audit_corpus import SAMPLES, Sample, answer_hacks, form_hacks, hostile, turn
from rewards.in_child import Died, in_child
from rewards.registry import Reward, RewardError, load_reward, probe, score

_LOAD_SECONDS = 120.0  # a dotted name may import torch
_TOLERANCE = 0.1  # of the difference between a right and a wrong answer: rewards may also look at length


class AuditError(Exception):
    """The target cannot be audited; the message says why."""


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
    try:
        reward, sample, right, wrong = _applicable(reward, columns or {}, seconds)
    except (RewardError, Died) as error:
        # Not even an ordinary answer is scored: there is nothing to compare anything with.
        faults = {"an answer in good form": str(error)}
        return Report(target, "any", 1, math.nan, math.nan, math.nan, math.nan, faults)
    values = [right, wrong]
    faults = {}
    paid: dict[str, float] = {}
    probes = {"two in a batch": [turn(sample.right), turn(sample.wrong)], "seven in a batch": [turn("7")] * 7}
    probes |= {name: [turn(sample.right), text] for name, text in hostile().items()}
    for name, found in _each(reward, sample, probes, seconds).items():
        if isinstance(found, str):
            faults[name] = found
        else:
            values += found
    hacks = _applicable_hacks(reward, sample, right, wrong, seconds)
    # A reward that judges the answer must not pay clearly more for a hack than for a wrong answer in good
    # form; one that judges the form alone must not pay for a hack what it pays for good form.
    bound = wrong + _TOLERANCE * (right - wrong) if right > wrong else math.nextafter(right, -math.inf)
    for name, found in _each(reward, sample, {name: [text] for name, text in hacks.items()}, seconds).items():
        if isinstance(found, str):
            faults[name] = found
            continue
        values += found
        if not math.isnan(found[0]) and found[0] > bound:
            paid[name] = found[0]
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
    if not report.hacks and report.probes > 1:
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
    """The sample problem on which a right answer earns more than a wrong one, else the first that applies.

    Raises AuditError where none applies, and what the reward raised where it fails on those that do.
    """
    reasons = []
    usable = []
    failed: RewardError | Died | None = None
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
            failed = failed or error
            continue
        if not math.isnan(right) and not math.isnan(wrong):
            usable.append((found, sample, right, wrong))
            if right > wrong:
                return usable[-1]
        else:
            reasons.append("it returns None for an answer in good form")
    if failed and not usable:
        raise failed
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


def _each(
    reward: Reward, sample: Sample, probes: Mapping[str, list[str]], seconds: float
) -> dict[str, list[float] | str]:
    """The values of each probe, or what went wrong."""
    with contextlib.suppress(RewardError, Died):
        # Nearly always nothing goes wrong, and one process is enough.
        together = in_child(lambda: [_twice(reward, sample, batch) for batch in probes.values()], 2 * seconds)
        return dict(zip(probes, together, strict=True))
    found: dict[str, list[float] | str] = {}
    for name, batch in probes.items():
        try:
            found[name] = _values(reward, sample, batch, seconds)
        except (RewardError, Died) as error:
            found[name] = str(error)
    return found


def _values(reward: Reward, sample: Sample, completions: list[str], seconds: float) -> list[float]:
    """`_twice` in a process of its own. Raises RewardError, Died."""
    return in_child(functools.partial(_twice, reward, sample, completions), 2 * seconds)


def _twice(reward: Reward, sample: Sample, completions: list[str]) -> list[float]:
    """The values of a batch, NaN for None, which must be the same twice."""
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
    return [math.nan if value is None else value for value in first]

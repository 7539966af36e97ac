"""The audit finds what it looks for, and passes what is sound."""

from __future__ import annotations

import textwrap
import time

import pytest

from rewards.audit import AuditError, audit, main, render
from rewards.in_child import Died, in_child
from rewards.registry import RewardError


def write(folder, body):
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(body))
    return f"{path}:f"


@pytest.mark.parametrize("name", ["accuracy", "countdown", "choice", "instructions", "format", "format_graded"])
def test_shipped_reward_has_no_fault_and_pays_for_no_hack(name):
    report = audit(name)
    assert report.passed, render(report)
    assert (report.right, report.probes > 80, report.hacks >= 10) == (1.0, True, True)


@pytest.mark.parametrize(
    "name",
    [
        "language_consistency",
        "repetition",
        "overlong(max_completion_length=1000, cache=100)",
        "length_cosine(max_completion_length=1000)",
    ],
)
def test_shaping_reward_has_no_fault(name):
    report = audit(name)
    assert report.passed, render(report)


@pytest.mark.slow
def test_code_reward_has_no_fault_and_pays_for_no_hack():
    report = audit("code(seconds=2)")
    assert report.passed, render(report)


def test_tag_count_pays_for_the_hacks_that_its_page_names():
    report = audit("tag_count")
    assert not report.faults
    assert {"tags without content", "tags in the wrong order"} <= set(report.paid)


def test_random_reward_is_found_to_pay_for_hacks():
    assert len(audit("coin").paid) > 3


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return [1.0]", "1 values for"),
        ("return None", "must return a list"),
        ("return [float('nan') if not c else float(answer[0] in c) for c in completions]", "got nan"),
        ("return [float(c[0] == '<' and answer[0] in c) for c in completions]", "IndexError"),
        ("import random; return [random.random() + (answer[0] in c) for c in completions]", "not deterministic"),
        ("answer[0] = '7'; return [0.0 for _ in completions]", "changes the columns"),
        ("import os; return [os._exit(3) if '\\0' in c else 0.0 for c in completions]", "exit status 3"),
        ("import time; return [time.sleep(60) if '44**19' in c else 0.0 for c in completions]", "hangs"),
        ("return [float(bool(bytearray((c == '') << 40))) for c in completions]", "MemoryError"),
    ],
)
def test_fault_is_found(tmp_path, body, says):
    target = write(tmp_path, f"def f(completions, answer, **columns):\n    {body}")
    report = audit(target, seconds=0.5)
    assert says in " ".join(report.faults.values())
    assert "FAULT" in render(report)
    assert not report.passed


@pytest.mark.parametrize(
    ("body", "hack"),
    [
        ("answer[0] in completion", "several answers, the right one first"),
        ("completion.rpartition('<answer>')[2].startswith(answer[0])", "two answer tags, the right one last"),
        ("answer[0] in completion.split('</answer>')[0]", "a copy of the prompt"),
    ],
)
def test_paid_hack_is_named(tmp_path, body, hack):
    target = write(
        tmp_path,
        f"def f(completions, answer, **columns):\n    return [float({body}) for completion in completions]",
    )
    report = audit(target)
    assert hack in report.paid
    assert f"PAYS 1 for {hack}" in render(report)
    assert not report.passed


def test_reward_that_prefers_wrong_answers_fails(tmp_path):
    target = write(
        tmp_path,
        "def f(completions, answer, **columns):\n    return [float(answer[0] not in c) for c in completions]",
    )
    assert "a wrong answer" in audit(target).paid


def test_exit_code_says_pass_fail_or_not_applicable(tmp_path, capsys):
    assert main(["format"]) == 0
    assert capsys.readouterr().out.endswith("PASS\n")
    assert main(["tag_count"]) == 1
    assert capsys.readouterr().out.endswith("FAIL\n")
    assert main(["no_such_file.py:f"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["overlong"]) == 2
    assert "overlong(cache=VALUE)" in capsys.readouterr().err


def test_target_that_does_not_import_says_why(tmp_path):
    with pytest.raises(AuditError, match="ZeroDivisionError"):
        audit(write(tmp_path, "1 / 0\ndef f(completions): ..."))
    with pytest.raises(AuditError, match="ended the process"):
        audit(write(tmp_path, "import os; os._exit(5)"))


def test_further_columns_can_be_given(tmp_path, capsys):
    target = write(
        tmp_path,
        "def f(completions, level, **columns):\n    return [float(l) for l in level]",
    )
    with pytest.raises(AuditError, match="--column level=VALUE"):
        audit(target)
    assert audit(target, columns={"level": 2}).high == 2.0
    assert main([target, "--column", "level=3"]) == 0
    assert "between 3 and 3" in capsys.readouterr().out
    assert main([target, "--column", "level"]) == 2


def test_conversational_reward_is_audited_as_it_will_be_called(tmp_path):
    target = write(
        tmp_path,
        "def f(completions, **kwargs):\n    return [float(c[0]['content'].startswith('<think>')) for c in completions]",
    )
    assert not audit(target).faults


def test_child_that_hangs_is_killed_with_its_children():
    started = time.monotonic()
    with pytest.raises(Died, match="hangs"):
        in_child(lambda: time.sleep(60), 0.3)
    assert time.monotonic() - started < 30
    with pytest.raises(RewardError, match="ValueError: no"):
        in_child(lambda: (_ for _ in ()).throw(ValueError("no")), 5)

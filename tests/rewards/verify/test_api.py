"""verify, explain, verify_many and check_gold keep their promises on any input."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rewards import Verdict, check_gold, explain, extract_answer, verify, verify_many


@pytest.mark.parametrize("value", [None, 42, 4.2, b"42", ["42"]])
def test_a_wrong_type_is_a_type_error_that_names_the_argument(value):
    with pytest.raises(TypeError, match=f"gold must be a str, got {type(value).__name__}"):
        verify(value, "42")
    with pytest.raises(TypeError, match=f"answer must be a str, got {type(value).__name__}"):
        explain("42", value)
    with pytest.raises(TypeError, match="answer must be a str"):
        verify_many([("42", value)])


def test_explain_gives_canonical_forms_rule_and_time():
    verdict = explain(r"\frac{\sqrt{8}}{2}", "2^{1/2}")
    assert verdict == Verdict(True, "exact form", "2^(1/2)", "2^(1/2)", verdict.seconds, "")
    assert verdict.seconds > 0


@pytest.mark.parametrize(
    ("gold", "answer", "rule", "reason"),
    [
        ("42", "", "empty", "no text"),
        ("42", "forty three or so", "kind", "words against mathematics"),
        ("42", "9^{9^{9}}", "kind", "an exponent of more than 20000"),
        ("42", "((((((", "kind", "the end where a value should be"),
        ("42", "1/0", "kind", "division by zero"),
        ("5 cm", "5 kg", "units", "different units"),
        ("1,2", "1,2,3", "number of answers", "2 answers against 3"),
        ("x=5", "y=5", "assignment", "x against y"),
    ],
)
def test_a_false_verdict_says_why(gold, answer, rule, reason):
    verdict = explain(gold, answer)
    assert not verdict.equal
    assert verdict.rule == rule
    assert reason in verdict.reason


def test_an_answer_without_text_is_never_right():
    assert not verify("", "")
    assert not verify(" ", " ")
    assert not verify("", "42")


def test_numbers_are_exact_unless_the_benchmarks_rule_allows_a_tolerance():
    assert not verify("3.14", r"\pi")
    assert verify("3.14", r"\pi", abs_tol=0.01)
    assert not verify("3.14", "3.16", abs_tol=0.01)
    assert verify("1500", "1512", rel_tol=0.01)
    assert not verify("1500", "1520", rel_tol=0.01)
    assert verify("(1, 3.14)", r"(1, \pi)", abs_tol=0.01)
    assert verify_many([("3.14", r"\pi"), ("3.14", "4")], abs_tol=0.01) == [True, False]


def test_verify_many_agrees_with_verify_in_order():
    pairs = [("42", "42"), ("42", "43"), (r"\cos\frac{\pi}{5}", r"\frac{1+\sqrt5}{4}"), ("x", ""), ("1/2", "0.5")]
    assert verify_many(iter(pairs), timeout=20) == [True, False, True, False, True]
    assert verify_many([]) == []


def test_gold_answers_that_cannot_be_read_are_counted_and_shown():
    report = check_gold(["42", r"\frac12", "Evelyn", "(C)", r"t(0,4]", "$221,$8$", None, r"\int_0^1 f", "Monday"])  # type: ignore[list-item]
    assert (report.total, report.unreadable) == (9, 4)
    assert [position for position, _, _ in report.examples] == [4, 5, 6]
    assert "4 of 9 gold answers" in str(report)
    assert str(check_gold(["1", "2"])) == "all 2 gold answers can be read"


def test_importing_rewards_imports_neither_torch_nor_sympy():
    heavy = "[m for m in ('torch', 'sympy', 'mpmath', 'numpy', 'transformers') if m in sys.modules]"
    code = f"import sys, rewards; rewards.verify('1/2', '0.5'); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_extract_answer_finds_can_be_verified():
    assert verify("42", extract_answer("<think>6·7</think><answer>$42$</answer>") or "")


def test_the_command_line_prints_the_verdict_and_exits_with_it():
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "rewards", *words], capture_output=True, text=True, check=False)

    same = run("verify", r"\frac12", "0.5")
    assert (same.returncode, same.stdout.splitlines()[0]) == (0, "equal")
    other = run("verify", "5 cm", "5 kg")
    assert (other.returncode, other.stdout.splitlines()[0]) == (1, "not equal")
    assert "different units" in other.stdout
    assert run().returncode == 2

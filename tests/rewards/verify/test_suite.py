"""The labelled suite: at least 99% agreement, and never "equal" for what is not."""

from __future__ import annotations

import pytest

from rewards import explain
from tests.rewards.verify.cases import labelled_cases

CASES = list(labelled_cases())


def _judged(category: str):
    return [(case, explain(case.gold, case.answer, timeout=20)) for case in CASES if case.category == category]


@pytest.mark.parametrize("category", list(dict.fromkeys(case.category for case in CASES)))
def test_labelled_cases_are_judged_as_a_person_judges_them(category):
    wrong = [
        f"{case.gold} | {case.answer}: {verdict}" for case, verdict in _judged(category) if verdict.equal != case.equal
    ]
    assert not wrong, "\n".join(wrong)


def test_the_suite_is_large_and_balanced_enough_to_mean_something():
    assert len(CASES) >= 600
    assert len({(c.gold, c.answer) for c in CASES}) == len(CASES)
    assert sum(not c.equal for c in CASES) >= 200


def test_no_label_of_the_suite_depends_on_which_side_is_the_gold_answer():
    wrong = [
        f"{case.gold} | {case.answer}"
        for case in CASES
        if explain(case.answer, case.gold, timeout=20).equal != case.equal
    ]
    assert not wrong, "\n".join(wrong)

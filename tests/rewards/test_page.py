"""docs/rewards.md says what is so."""

from __future__ import annotations

import pytest

from rewards.locate import SHIPPED
from tests.docs_examples import ROOT, run_examples

PAGE = (ROOT / "docs" / "rewards.md").read_text()


def test_every_example_runs_and_prints_what_the_page_says(tmp_path):
    assert run_examples(PAGE, tmp_path) >= 6


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_reward_is_in_the_table(name):
    assert f"\n| `{name}` | " in PAGE


def test_an_example_that_does_not_hold_is_found_out(tmp_path):
    with pytest.raises(AssertionError):
        run_examples("```python\nprint(1)\n#> 2\n```\n", tmp_path)
    with pytest.raises(AssertionError):
        run_examples("```console\n$ python -c 'print(1)'\n2\n```\n", tmp_path)

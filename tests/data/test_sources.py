"""Problem sources by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.arithmetic import Arithmetic
from data.countdown import Countdown
from data.sources import load_source
from data.table import Table


def test_generators_are_found_by_name_and_take_options() -> None:
    assert load_source("arithmetic", options={"max_term": 9}) == Arithmetic(max_term=9)
    assert load_source("countdown") == Countdown()


def test_an_existing_file_is_a_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{i}", "answer": "1"}) + "\n" for i in range(9)))
    assert isinstance(load_source(str(path)), Table)


@pytest.mark.parametrize("name", ["arithmetic", "countdown"])
def test_unknown_options_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}' has no option 'dificulty': it knows .*phrasing"):
        load_source(name, options={"dificulty": 3})


def test_values_that_a_generator_cannot_use_are_refused() -> None:
    with pytest.raises(ValueError, match="countdown: count=9"):
        load_source("countdown", options={"count": 9})


def test_a_name_that_is_nothing_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'aritmetic', did you mean 'arithmetic'\?.*gym:<task>"):
        load_source("aritmetic")


def test_table_settings_do_not_apply_to_generators() -> None:
    with pytest.raises(ValueError, match="prompt_column does not apply"):
        load_source("arithmetic", prompt_column="question")


def test_options_do_not_apply_to_tables(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "q", "answer": "1"}\n')
    with pytest.raises(ValueError, match="a table of problems takes no options, so max_term does not apply"):
        load_source(str(path), options={"max_term": 1})

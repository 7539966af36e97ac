"""Reads the labelled suite."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SUITE = Path(__file__).with_name("cases.txt")


class Case(NamedTuple):
    """equal: whether the answer says the same as the gold answer, as a person judges."""

    category: str
    gold: str
    answer: str
    equal: bool


def labelled_cases(path: Path = SUITE) -> Iterator[Case]:
    """The cases in their order. ValueError on a line that is no case."""
    category = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        heading = re.fullmatch(r"# \[(.+)\]", line)
        if heading:
            category = heading[1]
        elif line and not line.startswith("#"):
            match = re.fullmatch(r"(.+?)  (==|!=)  (.+)", line)
            if match is None:
                raise ValueError(
                    f"{path.name}, line {number} is no case: {line!r}. Write GOLD  ==  ANSWER or GOLD  !=  ANSWER."
                )
            yield Case(category, match[1], match[3], match[2] == "==")

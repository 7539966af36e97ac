"""Problem sources by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from data.arithmetic import Arithmetic
from data.countdown import Countdown
from data.gym import Gym
from data.problem import ProblemSource
from data.table import load_table
from rlzero.models.load import may_be_hub_id

GENERATORS: Mapping[str, Callable[..., ProblemSource]] = {"arithmetic": Arithmetic, "countdown": Countdown}


def load_source(
    name: str,
    *,
    config_name: str | None = None,
    split: str = "train",
    eval_split: str | None = None,
    revision: str | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ProblemSource:
    """The problems that `name` stands for: a generator (`arithmetic`, `countdown`), a task of reasoning-gym
    (`gym:<task>`), an existing file or folder, or a hub data set (`owner/name`).

    options: parameters of a generator or a gym task. The other arguments describe tables only.
    Raises ValueError, whose message names what is unknown or missing.
    """
    options = dict(options or {})
    table_only = {
        "config_name": config_name,
        "eval_split": eval_split,
        "revision": revision,
        "prompt_column": prompt_column,
        "answer_column": answer_column,
    }
    is_table = name not in GENERATORS and not name.startswith("gym:")
    given = sorted(options) if is_table else [key for key, value in table_only.items() if value is not None]
    if given:
        kind = "a table of problems takes no options" if is_table else f"{name} generates its problems"
        raise ValueError(f"data set {name!r}: {kind}, so {', '.join(given)} does not apply. Leave it out.")
    if name.startswith("gym:"):
        return Gym(name.removeprefix("gym:"), options)
    if name in GENERATORS:
        return _generator(name, options)
    if not Path(name).exists() and not may_be_hub_id(name):
        close = get_close_matches(name, GENERATORS, n=1)
        raise ValueError(
            f"unknown data set {name!r}{f', did you mean {close[0]!r}?' if close else ''}: name "
            f"{', '.join(GENERATORS)}, gym:<task>, an existing file or folder, or a hub id (owner/name)."
        )
    return load_table(
        name,
        config_name=config_name,
        split=split,
        eval_split=eval_split,
        revision=revision,
        prompt_column=prompt_column,
        answer_column=answer_column,
    )


def _generator(name: str, options: Mapping[str, Any]) -> ProblemSource:
    maker = GENERATORS[name]
    known = {f.name for f in fields(maker) if f.init} - {"name"}  # type: ignore[arg-type]
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"data set {name!r} has no option {', '.join(map(repr, unknown))}: it knows {', '.join(sorted(known))}."
        )
    try:
        return maker(**options)
    except TypeError as error:
        raise ValueError(f"data set {name!r} cannot use the options {dict(options)!r}: {error}") from error

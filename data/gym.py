"""Any task of the optional package reasoning-gym as a problem source, scored by the task itself."""

from __future__ import annotations

import io
import itertools
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from copy import copy
from dataclasses import dataclass, field, fields
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from data.problem import Problem
from data.split import distinct, in_heldout_share, question_digest

# Tasks of reasoning-gym 0.1.25 that are not fit for training, mostly because model text is hostile input.
_EVAL = "its scorer hands the model's text to Python's eval"
_SYMPY = "its scorer hands the model's text to sympy's parse_expr, which is an eval"
_HASH_SEED = "its problems depend on Python's hash seed, so that two processes would draw different ones"
REFUSED: Mapping[str, str] = {
    "binary_matrix": _EVAL,
    "n_queens": _EVAL,
    "spiral_matrix": _EVAL,
    "string_insertion": _EVAL,
    "countdown": f"{_SYMPY}, and never gives 0; rlzero's own source `countdown` checks the same task exactly",
    "intermediate_integration": _SYMPY,
    "polynomial_multiplication": _SYMPY,
    "puzzle24": _SYMPY,
    "simple_integration": _SYMPY,
    "coin_flip": "its scorer makes a fraction of the model's text, and `1e999999999` fills the memory",
    "rubiks_cube": "its scorer repeats a move as often as the text says, and `R999999999` fills the memory",
    "game_of_life_halting": "its scorer gives 1.0 to every answer that is not empty",
    "isomorphic_strings": _HASH_SEED,
    "ransom_note": _HASH_SEED,
    "composite": "it can contain refused tasks; name its tasks one by one",
}
# A task so narrow that nearly all its questions are held out would be redrawn for ever.
_MAX_DRAWS = 1000


@dataclass(frozen=True)
class Gym:
    """Problem source over one task of reasoning-gym.

    task: its name there. options: the fields of its own configuration there, without `seed`. A few tasks draw
    all their questions up front: for those, `size` is how many.
    Held out is a hash share of the question texts (`data.split`): a training draw that falls into it is drawn
    again, so the two sides are disjoint whatever the seeds.
    """

    task: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_dataset(self.task, self.options)

    @property
    def name(self) -> str:
        return f"gym:{self.task}"

    def train(self, seed: int, index: int) -> Problem:
        for attempt in range(_MAX_DRAWS):
            problem = self._draw(f"train {seed} {index} {attempt}")
            if not in_heldout_share(problem.prompt):
                return problem
        raise ValueError(
            f"{self.name}: {_MAX_DRAWS} draws in a row fell into the held-out share, so the task has too few "
            f"distinct questions with options {dict(self.options)!r}. Widen its parameters."
        )

    def heldout(self, count: int, seed: int = 0) -> list[Problem]:
        positions = itertools.count()
        return distinct(
            draw=lambda: self._draw(f"held out {seed} {next(positions)}"),
            key=lambda problem: question_digest(problem.prompt),
            wanted=lambda problem: in_heldout_share(problem.prompt),
            count=count,
        )

    def _draw(self, key: str) -> Problem:
        # Tasks draw from Random(seed + index), so neighbouring seeds would share their problems: hash the
        # sum instead. 31 bits, because some seed numpy with it. The index stays within the size they check.
        total = int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "little") >> 1
        dataset = copy(make_dataset(self.task, self.options))
        index = total % len(dataset)
        dataset.seed = total - index
        with _process_state_kept(total):
            entry = dataset[index]
        return Problem(
            prompt=entry["question"],
            answer="" if entry["answer"] is None else str(entry["answer"]),
            columns={"gym_task": self.task, "gym_entry": entry, "gym_options": dict(self.options)},
            scorer="gym",
        )


def make_dataset(task: str, options: Mapping[str, Any]) -> Any:
    """The package's own object for a task. Raises ValueError for a task or option that cannot be used."""
    return _make_dataset(task, json.dumps(dict(options), sort_keys=True))


def usable_tasks() -> list[str]:
    """The names that `Gym` accepts."""
    return sorted(set(_registered()) - set(REFUSED))


@lru_cache(maxsize=64)
def _make_dataset(task: str, options_json: str) -> Any:
    options = json.loads(options_json)
    registered = _registered()
    if task in REFUSED:
        raise ValueError(f"reasoning-gym task {task!r} is refused: {REFUSED[task]}. Choose another task.")
    if task not in registered:
        raise ValueError(f"unknown reasoning-gym task {task!r}: choose one of {', '.join(usable_tasks())}.")
    dataset_class, config_class = registered[task]
    known = {f.name for f in fields(config_class)} - {"seed"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"gym:{task} has no option {', '.join(map(repr, unknown))}: it knows {', '.join(sorted(known))}."
        )
    try:
        config = config_class(**options, seed=0)
        return dataset_class(config=config)  # which validates the configuration
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"gym:{task} refuses the options {options!r}: {error}") from error


def _registered() -> dict[str, tuple[type, type]]:
    try:
        import reasoning_gym  # noqa: F401  (fills the registry)
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ValueError(
            "tasks named gym:<task> need the package reasoning-gym, which is not installed. "
            "Install the extra: pip install 'rlzero[gym]'"
        ) from error
    return DATASETS


@contextmanager
def _process_state_kept(seed: int) -> Iterator[None]:
    """Some tasks draw from the process-wide generators or seed them, and some print: none of it gets out."""
    import numpy as np

    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])

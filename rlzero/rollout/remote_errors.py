"""Exceptions on their way from an engine's process to the trainer's."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from typing import Any

# What both processes know under the same name; other types may not even import in the trainer's.
_KNOWN = ("builtins", "rlzero", "rewards", "data")


@dataclass(frozen=True)
class Told:
    """kind: the type, None where the trainer may not know it. args, state: what an exception is made of. story: the
    traceback, as text."""

    kind: type[BaseException] | None
    args: tuple[Any, ...]
    state: dict[str, Any]
    story: str


def told(error: BaseException) -> Told:
    """What can be sent of an exception."""
    story = "".join(traceback.format_exception(error))
    if type(error).__module__.partition(".")[0] in _KNOWN:
        found = Told(type(error), error.args, vars(error), story)
        try:
            pickle.loads(pickle.dumps(found))
            return found
        except Exception:  # what it holds cannot be sent, for one of many reasons
            pass
    return Told(None, (), {}, story)


def as_raised(found: Told) -> BaseException:
    """The exception again, with its traceback as a note; a RuntimeError that has it as its message where the type is
    neither Python's nor ours."""
    if found.kind is None:
        return RuntimeError(f"the rollout engine raised in its own process:\n{found.story}")
    # Not by calling the type: that may ask for other arguments than `args`.
    error = found.kind.__new__(found.kind, *found.args)
    error.__dict__.update(found.state)
    error.add_note(f"It was raised in the process of the rollout engine:\n{found.story}")
    return error

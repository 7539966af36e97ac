"""What every dataclass of settings shares: typed fields with a help text, and refusals by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A setting that cannot work. Recipes print it and exit with code 2 before anything long starts."""


def choose(option: str, value: str, known) -> None:
    """Refuse a name that does not exist, naming those that do."""
    if value not in known:
        raise ConfigError(f"{option}={value!r} does not exist; choose one of: {', '.join(sorted(known))}.")


def at_least(option: str, value: float, least: float, why: str = "") -> None:
    if value < least:
        raise ConfigError(f"{option}={value} must be at least {least}{': ' + why if why else ''}.")


def above(option: str, value: float, bound: float, why: str = "") -> None:
    if not value > bound:
        raise ConfigError(f"{option}={value} must be above {bound:g}{': ' + why if why else ''}.")


def acts_only_with(concern: Concern, switch: str, on: bool, names: Sequence[str]) -> None:
    """Refuse settings that were changed and would do nothing, since what they belong to is off.

    switch: what would have to be set, as the message says it.
    """
    defaults = {f.name: f.default for f in fields(concern)}
    for name in names:
        if not on and getattr(concern, name) != defaults[name]:
            raise ConfigError(
                f"{name}={getattr(concern, name)!r} would do nothing without {switch}: set that, or leave {name} out."
            )


def option(default: Any, text: str, **kwargs: Any) -> Any:
    """A documented field; mutable defaults are copied."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata={"help": text, **kwargs})
    return field(default=default, metadata={"help": text, **kwargs})


def as_declared(name: str, value: Any, hint: Any) -> Any:
    """The value in the declared type. YAML has no types to check: `8.5`, `"yes"` or null can stand anywhere.

    A single value stands for a list of one, and YAML's `1e-6`, which is a text there, for the number.
    """
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = kinds[0]
    if get_origin(kind) is list:
        values = value if isinstance(value, list | tuple) else [value]
        return [as_declared(name, item, get_args(kind)[0]) for item in values]
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool)):
        return value
    if kind is Options and isinstance(value, dict):
        return Options(value)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Options: "a mapping"}
    raise ConfigError(f"{name}={value!r} is a {type(value).__name__} and must be {words[kind]}.")


class Options(dict):
    """A dictionary that the command line may give as JSON."""

    def __init__(self, value: Any = ()) -> None:
        super().__init__(json.loads(value) if isinstance(value, str) else value)


@dataclass
class Concern:
    """Settings of one kind. Types are checked first, so that `check` can compare values."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name in (f.name for f in fields(self)):
            setattr(self, name, as_declared(name, getattr(self, name), hints[name]))
        self.check()

    def check(self) -> None:
        """Raise ConfigError for values that cannot work."""

"""From YAML and command line to a `Recipe`, as TRL users expect: `--config file.yaml`, then `--name value`."""

from __future__ import annotations

import difflib
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlzero.grpo.concern import choose
from rlzero.grpo.config import (
    ConfigError,
    DataConfig,
    GRPOConfig,
    ModelConfig,
    Recipe,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SelectionConfig,
)
from rlzero.grpo.objective_config import CorrectionConfig, ObjectiveConfig, ReferenceConfig
from rlzero.grpo.presets import PRESETS, options_beside

if TYPE_CHECKING:
    from trl import TrlParser

# In the order of the fields of `Recipe`.
CONCERNS = (
    ModelConfig, DataConfig, RewardConfig, RolloutConfig, SelectionConfig, ObjectiveConfig, ReferenceConfig,
    CorrectionConfig, GRPOConfig, RunConfig,
)  # fmt: skip


def parse_recipe(argv: Sequence[str], default_config: Path) -> Recipe:
    """The settings of a GRPO run: defaults, then the preset that is named, then YAML, then the command line."""
    return Recipe(*parse_settings(argv, default_config, CONCERNS, presets=True))


def parse_settings(
    argv: Sequence[str], default_config: Path, concerns: Sequence[type], presets: bool = False
) -> tuple[Any, ...]:
    """One filled dataclass per concern. `--config` defaults to `default_config`; the command line wins over it.

    Raises ConfigError for an unknown key (with the nearest that exists) and for values that cannot work.
    """
    from trl import TrlParser

    # TrlParser knows the two words only.
    arguments = [word for a in argv for word in (a.split("=", 1) if a.startswith("--config=") else [a])]
    if "--config" not in arguments:
        arguments += ["--config", str(default_config)]
    if arguments[-1] == "--config":
        raise ConfigError("--config must be followed by a YAML file, and nothing follows it.")
    parser = TrlParser(concerns, allow_abbrev=False)
    parser.error = _refuse  # argparse would print all its usage and exit
    try:
        if presets:
            parser.set_defaults_with_config(**_preset(parser, arguments))
        return tuple(parser.parse_args_and_config(arguments))
    except OSError as error:
        raise ConfigError(
            f"config file {error.filename!r} cannot be read ({error.strerror}); give --config a YAML file."
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"the config file is not valid YAML: {error}") from None
    except ConfigError:
        raise
    except ValueError as error:
        unknown = re.search(r"\[(.*)\]", str(error))
        if unknown is None:
            raise ConfigError(str(error)) from None
        raise ConfigError(_unknown_keys(unknown[1], concerns)) from None


def _preset(parser: TrlParser, arguments: Sequence[str]) -> dict[str, Any]:
    """The settings of the preset that the command line names, or else the YAML file, as far as they go with the other
    settings there; none without a preset."""
    with open(arguments[arguments.index("--config") + 1]) as file:
        named = yaml.safe_load(file)
    given = {str(key): value for key, value in named.items()} if isinstance(named, dict) else {}
    unsaid = dict.fromkeys(f.name for concern in CONCERNS for f in fields(concern))
    said = vars(parser.parse_known_args(arguments, Namespace(**unsaid | given))[0])
    name = said["preset"]
    if name is None:
        return {}
    choose("preset", str(name), PRESETS)
    return options_beside(name, {option: value for option, value in said.items() if value is not None})


def _refuse(message: str) -> None:
    raise ConfigError(f"{message}. --help lists the settings.")


def _unknown_keys(found: str, concerns: Sequence[type]) -> str:
    known = [f.name for concern in concerns for f in fields(concern)]
    names = [name.lstrip("-") for name in re.findall(r"'(--[^']*)'", found)] or [found]
    parts = []
    for name in names:
        close = difflib.get_close_matches(name, known, n=1)
        parts.append(f"{name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
    return f"unknown setting {', '.join(parts)}; --help lists those that exist."

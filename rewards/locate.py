"""From a reward's spec in a configuration to the function it names."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
import inspect
import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

# Name in a configuration -> where the function is. Imported when asked for.
SHIPPED = {
    "accuracy": "rewards.accuracy:accuracy",
    "format": "rewards.format:format",
    "format_graded": "rewards.format:format_graded",
    "tag_count": "rewards.tag_count:tag_count",
    "countdown": "rewards.countdown:countdown",
    "choice": "rewards.choice:choice",
    "code": "rewards.code:code",
    "instructions": "rewards.instructions:instructions",
    "language_consistency": "rewards.language_consistency:language_consistency",
    "overlong": "rewards.overlong:overlong",
    "repetition": "rewards.repetition:repetition",
    "length_cosine": "rewards.length_cosine:length_cosine",
    "gym": "rewards.gym:gym",
    "coin": "rewards.coin:coin",
}

_PARAMETERS = re.compile(r"(?P<target>.*?\w)\((?P<parameters>[^()]*)\)", re.DOTALL)


class RewardError(ValueError):
    """What is wrong with a reward. `reward` and `sample` name the function and the sample's index where
    known.
    """

    def __init__(self, message: str, reward: str | None = None, sample: int | None = None) -> None:
        super().__init__(message)
        self.reward = reward
        self.sample = sample


def find(spec: str) -> tuple[str, Callable[..., Any]]:
    """The name and the function of a spec; parameters in parentheses are bound. Raises RewardError."""
    if not isinstance(spec, str) or not spec.strip():
        raise RewardError(f"a reward is named by text, got {spec!r}; {_choices()}")
    spec = spec.strip()
    match = _PARAMETERS.fullmatch(spec)
    target = match["target"] if match else spec
    parameters = _literals(spec, match["parameters"]) if match else {}
    if target in SHIPPED:
        name, function = target, _attribute(spec, SHIPPED[target])
    elif ".py:" in target:
        name = target.rpartition(":")[2]
        function = _from_file(spec, target)
    elif "." in target:
        name = target.rpartition(".")[2]
        function = _attribute(spec, ":".join(target.rpartition(".")[::2]))
    else:
        close = difflib.get_close_matches(target, SHIPPED, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise RewardError(f"unknown reward {target!r}.{hint} {_choices()}")
    if not callable(function):
        raise RewardError(f"reward {spec!r} must name a function, but it is a {type(function).__name__}")
    return name, _bind(spec, function, parameters) if match else function


def _choices() -> str:
    return (
        f"Shipped rewards: {', '.join(sorted(SHIPPED))}. Your own is named path/to/file.py:function or by "
        "its dotted name, package.module.function"
    )


def _literals(spec: str, text: str) -> dict[str, Any]:
    """`a=1, b="x"` as a dictionary. Parsed, never evaluated."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):
        raise RewardError(
            f"the parameters of reward {spec!r} must be literals with their names, like ngram_size=3, got {text!r}"
        ) from None


def _bind(spec: str, function: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    """A reward with its parameters set, or what a maker of rewards (`get_…`) makes with them."""
    signature = inspect.signature(function)
    samples = ("prompts", "completions", "completion_ids")
    is_reward = any(name in signature.parameters for name in samples)
    known = {name for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
    unknown = [name for name in parameters if name not in known or name in samples]
    if unknown:
        names = ", ".join(sorted(known - set(samples))) or "none"
        raise RewardError(f"reward {spec!r} has no parameter {unknown[0]!r}; it has: {names}")
    if is_reward:
        return functools.partial(function, **parameters)
    try:
        made = function(**parameters)
    except Exception as error:
        raise RewardError(f"making the reward {spec!r} raised {type(error).__name__}: {error}") from error
    if not callable(made):
        raise RewardError(f"{spec!r} must make a reward function, but made a {type(made).__name__}")
    return made


def _attribute(spec: str, location: str) -> Any:
    """`module:name`, imported."""
    module_name, name = location.split(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise RewardError(
            f"reward {spec!r} must name a function that can be imported, but importing {module_name} raised "
            f"{type(error).__name__}: {error}. Check the name, or install the package; a function in a "
            "file is named path/to/file.py:function"
        ) from error
    return _named(spec, module, module_name, name)


def _from_file(spec: str, target: str) -> Any:
    path_text, _, name = target.rpartition(":")
    path = Path(path_text).expanduser().resolve()
    if not path.is_file():
        raise RewardError(f"reward {spec!r} names the file {path}, which does not exist; check the path")
    # The name is unique to the path, so that two users' `rewards.py` do not replace each other or ours.
    module_name = f"user_reward_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    module = sys.modules.get(module_name)
    if module is None:
        specification = importlib.util.spec_from_file_location(module_name, path)
        if specification is None or specification.loader is None:
            raise RewardError(f"reward {spec!r} names {path}, which is not a Python file; it must end in .py")
        module = importlib.util.module_from_spec(specification)
        sys.modules[module_name] = module
        try:
            specification.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[module_name]
            if not isinstance(error, Exception | SystemExit):
                raise
            raise RewardError(
                f"reward {spec!r}: importing {path} raised {type(error).__name__}: {error}. The file must "
                "import by itself; try `python path/to/file.py`"
            ) from error
    return _named(spec, module, path.name, name)


def _named(spec: str, module: ModuleType, place: str, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        functions = [
            key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")
        ]
        names = ", ".join(functions) or "none"
        raise RewardError(
            f"reward {spec!r}: {place} has no function {name!r}; its public functions are: {names}"
        ) from None

"""Calling a reward function with TRL's signature, and checking what it returns."""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rewards.locate import RewardError

if TYPE_CHECKING:
    from rewards.registry import Reward

_EXCERPT = 200  # characters of a completion that an error message shows


def call(
    reward: Reward,
    prompts: list[str],
    completions: list[str],
    columns: Mapping[str, list],
    completion_ids: list | None,
) -> list[float | None]:
    """The values of one reward for a batch, as `rewards.registry.score` describes. Raises RewardError."""
    try:
        result = _run(reward, prompts, completions, columns, completion_ids)
    except RewardError:
        raise
    except Exception as error:
        culprit = _culprit(reward, prompts, completions, columns, completion_ids)
        where = traceback.extract_tb(error.__traceback__)[-1]
        sample = "the batch, though on no sample alone" if culprit is None else _sample(culprit, completions)
        raise RewardError(
            f"reward {reward.name!r} raised {type(error).__name__}: {error} (line {where.lineno} of "
            f"{where.filename}) on {sample}. A reward must return a number or None for any text",
            reward=reward.name,
            sample=culprit,
        ) from error
    return _checked(reward.name, result, completions)


def _arguments(
    reward: Reward,
    prompts: list[str],
    completions: list[str],
    columns: Mapping[str, list],
    completion_ids: list | None,
) -> dict[str, Any]:
    """What the function accepts of the samples and the columns."""
    given: dict[str, Any] = dict(columns)
    given["prompts"] = [_message("user", text) for text in prompts] if reward.messages else list(prompts)
    given["completions"] = (
        [_message("assistant", text) for text in completions] if reward.messages else list(completions)
    )
    if completion_ids is not None:
        given["completion_ids"] = completion_ids
    parameters = inspect.signature(reward.function).parameters
    if "solution" in parameters and "solution" not in given and "answer" in given:
        # TRL and open-r1 call the gold answer `solution` and read it as LaTeX between dollar signs.
        given["solution"] = [answer if "$" in answer else f"${answer}$" for answer in given["answer"]]
    for bound in getattr(reward.function, "keywords", {}):
        given.pop(bound, None)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        given = {key: value for key, value in given.items() if key in parameters}
    required = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    missing = [name for name in required if name not in given]
    if missing:
        names = ", ".join(sorted(columns)) or "none"
        raise RewardError(
            f"reward {reward.name!r} needs {missing[0]!r}, which is neither a column of the data (columns: "
            f"{names}) nor given in its spec. Map a column to that name, or write "
            f"{reward.name}({missing[0]}=…)"
        )
    return given


def _message(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def _run(
    reward: Reward,
    prompts: list[str],
    completions: list[str],
    columns: Mapping[str, list],
    completion_ids: list | None,
) -> Any:
    result = reward.function(**_arguments(reward, prompts, completions, columns, completion_ids))
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def _culprit(
    reward: Reward,
    prompts: list[str],
    completions: list[str],
    columns: Mapping[str, list],
    completion_ids: list | None,
) -> int | None:
    """The first sample on which the function raises when it is called with that sample alone."""
    for i in range(len(prompts)):
        ids = None if completion_ids is None else completion_ids[i : i + 1]
        one = {key: values[i : i + 1] for key, values in columns.items()}
        try:
            _run(reward, prompts[i : i + 1], completions[i : i + 1], one, ids)
        except Exception:
            return i
    return None


def _checked(name: str, result: Any, completions: list[str]) -> list[float | None]:
    if hasattr(result, "tolist"):  # numpy arrays and tensors
        result = result.tolist()
    count = len(completions)
    if not isinstance(result, list | tuple):
        raise RewardError(
            f"reward {name!r} must return a list with one number or None per sample ({count} here), got "
            f"{type(result).__name__} {str(result)[:80]!r}",
            reward=name,
        )
    if len(result) != count:
        raise RewardError(
            f"reward {name!r} must return one value per sample: got {len(result)} values for {count} "
            "samples. Return a list as long as `completions`, with None where the reward does not apply",
            reward=name,
        )
    return [_number(name, i, value, completions) for i, value in enumerate(result)]


def _number(name: str, i: int, value: Any, completions: list[str]) -> float | None:
    if value is None:
        return None
    number = math.nan
    if hasattr(value, "__float__"):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number):
        raise RewardError(
            f"reward {name!r} must return a finite number or None per sample, got {value!r} on "
            f"{_sample(i, completions)}. Return None where it does not apply, 0.0 where nothing is earned",
            reward=name,
            sample=i,
        )
    return number


def _sample(i: int, completions: list[str]) -> str:
    return f"sample {i}, whose completion begins {completions[i][:_EXCERPT]!r}"

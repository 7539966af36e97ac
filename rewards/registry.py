"""Reward functions by name: loading, calling with TRL's signature, and checking what they return.

A reward is `def f(prompts, completions, **columns) -> list[float | None]`, called with keyword arguments;
`None` says that the reward does not apply to a sample. What a reward gets wrong (a value too few, NaN, an
exception) is an error that names the reward and the sample: nothing is broadcast, dropped or scored 0 in
silence.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards.call import call
from rewards.locate import SHIPPED, RewardError, find

__all__ = ["SHIPPED", "Reward", "RewardError", "load_reward", "load_rewards", "probe", "score", "total"]

_TRL_ARGUMENTS = ("prompts", "completions", "completion_ids")


@dataclasses.dataclass(frozen=True)
class Reward:
    """A reward function, ready to be called by `score`.

    name: its column in logs and in the dictionary that `score` returns.
    weight: its factor in `total`.
    messages: it wants conversational samples, `[{"role": "assistant", "content": text}]`, as TRL's and
        open-r1's own functions do; otherwise plain strings.
    """

    name: str
    function: Callable[..., Any]
    weight: float = 1.0
    messages: bool = False


def load_reward(spec: str, weight: float = 1.0) -> Reward:
    """The reward that `spec` names: a shipped name (`accuracy`), `path/to/file.py:function`, or a dotted name
    (`trl.rewards.think_format_reward`). Parameters may follow in parentheses, as literals with their names:
    `repetition(ngram_size=4)`; a maker of rewards (TRL's `get_…`) is called with them.

    Raises RewardError: no such name, file or function, wrong parameters, or a signature that cannot be called
    as `(prompts, completions, **columns)`.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise RewardError(f"the weight of reward {spec!r} must be a finite number, got {weight!r}")
    name, function = find(spec)
    _check_signature(spec, function)
    annotation = inspect.signature(function).parameters.get("completions")
    # TRL annotates `list[list[dict[str, str]]]`; without an annotation `probe` finds out.
    messages = annotation is not None and "dict" in str(annotation.annotation).lower()
    return Reward(name, function, float(weight), messages)


def load_rewards(specs: Sequence[str], weights: Sequence[float] | None = None) -> tuple[Reward, ...]:
    """All rewards of a run, each with its weight (1.0 where `weights` is None)."""
    if not specs:
        raise RewardError("a run needs at least one reward; add for example `reward_funcs: [accuracy, format]`")
    if isinstance(specs, str):
        raise RewardError(f"rewards are a list of names, got the text {specs!r}; write [{specs}]")
    if weights is None:
        weights = [1.0] * len(specs)
    if len(weights) != len(specs):
        raise RewardError(
            f"there must be one weight per reward: got {len(specs)} rewards ({', '.join(specs)}) and "
            f"{len(weights)} weights ({', '.join(map(str, weights))})"
        )
    rewards = [load_reward(spec, weight) for spec, weight in zip(specs, weights, strict=True)]
    names = [reward.name for reward in rewards]
    # Two files may both have a function called `reward`: then the whole spec is the name.
    rewards = [
        dataclasses.replace(reward, name=spec) if names.count(reward.name) > 1 else reward
        for reward, spec in zip(rewards, specs, strict=True)
    ]
    names = [reward.name for reward in rewards]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RewardError(f"reward {twice[0]!r} is named twice; name it once and give it the sum of the weights")
    return tuple(rewards)


def probe(
    reward: Reward,
    prompts: list[str],
    completions: list[str],
    columns: Mapping[str, list],
    completion_ids: list | None = None,
) -> Reward:
    """Call the reward on real samples before anything is trained, and find out which form of sample it takes.

    One sample is repeated three times, so that a function that always returns one value is found out. Without
    `completion_ids`, every byte of a completion stands for a token. Returns the reward with `messages`
    settled; raises RewardError as `score` does.
    """
    if completion_ids is None:
        completion_ids = [list(completion.encode()) for completion in completions]
    if len(prompts) == 1:
        prompts, completions, completion_ids = prompts * 3, completions * 3, completion_ids * 3
        columns = {key: list(values) * 3 for key, values in columns.items()}
    try:
        score([reward], prompts, completions, columns, completion_ids)
        return reward
    except RewardError as error:
        # `completion[0]["content"]` on a string fails with one of these.
        indexing = isinstance(error.__cause__, TypeError | KeyError | IndexError | AttributeError)
        if reward.messages or not indexing:
            raise
        conversational = dataclasses.replace(reward, messages=True)
        try:
            score([conversational], prompts, completions, columns, completion_ids)
        except RewardError as second:
            # A function that indexes text as a message has its real fault in the second call.
            wants_messages = "string ind" in str(error.__cause__)
            raise (second if wants_messages else error) from None
        return conversational


def score(
    rewards: Sequence[Reward],
    prompts: list[str],
    completions: list[str],
    columns: Mapping[str, list],
    completion_ids: list | None = None,
) -> dict[str, list[float | None]]:
    """Every reward of every sample: `{reward.name: [value per sample]}`.

    prompts, completions: N strings each, a completion being the assistant's whole turn, the template's
    prefill included and the end-of-sequence token left out. columns: N values each. completion_ids: N lists
    of token ids.
    Raises RewardError when a function raises, or returns anything but N values that are finite numbers or
    None.
    """
    count = len(prompts)
    given = {"completions": completions, **columns}
    if completion_ids is not None:
        given["completion_ids"] = completion_ids
    for key, values in given.items():
        if len(values) != count:
            raise RewardError(f"prompts and {key} must have one value per sample: got {count} and {len(values)} values")
    return {
        reward.name: call(reward, prompts, completions, columns, completion_ids) if count else [] for reward in rewards
    }


def total(rewards: Sequence[Reward], values: Mapping[str, Sequence[float | None]]) -> list[float]:
    """The weighted sum of each sample's rewards. None does not count; a sample where all are None is an
    error.
    """
    count = len(values[rewards[0].name])
    sums = []
    for i in range(count):
        row = [(reward.weight, values[reward.name][i]) for reward in rewards]
        applicable = [weight * value for weight, value in row if value is not None]
        if not applicable:
            names = ", ".join(reward.name for reward in rewards)
            raise RewardError(
                f"every sample needs one reward that applies, but all of them ({names}) returned None for "
                f"sample {i}; add a reward for this kind of problem, or leave such problems out",
                sample=i,
            )
        sums.append(math.fsum(applicable))
    return sums


def _check_signature(spec: str, function: Callable[..., Any]) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise RewardError(
            f"reward {spec!r} must be a Python function, got {function!r}, which shows no signature"
        ) from None
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is inspect.Parameter.empty]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if positional or not (takes_any or any(p.name in _TRL_ARGUMENTS for p in parameters)):
        raise RewardError(
            "a reward function is called with keyword arguments, as `def f(prompts, completions, "
            f"**columns)`; {spec!r} has the signature {inspect.signature(function)}. Rename its "
            "parameters, and take what it does not use as **columns"
        )

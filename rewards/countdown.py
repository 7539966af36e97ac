"""Reach a target from given numbers, each used exactly once: the task of TinyZero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards import extract_answer
from rewards.expression import ExpressionError, evaluate


def countdown(
    prompts: list[str],
    completions: list[str],
    target: list[int | None],
    numbers: list[Sequence[int] | None],
    **columns: Any,
) -> list[float | None]:
    """1.0 where the answer is an expression of exactly the given numbers with the target as its exact value.

    The answer may be `expression` or `expression = target`. None for a row without target or numbers: another
    kind of problem.
    """
    return [
        None if goal is None or given is None else float(is_solution(completion, goal, given))
        for completion, goal, given in zip(completions, target, numbers, strict=True)
    ]


def is_solution(completion: str, target: int, numbers: Sequence[int]) -> bool:
    """Whether the completion's final answer reaches `target` with each of `numbers` used once."""
    answer = extract_answer(completion)
    if answer is None:
        return False
    expression, equals, stated = answer.partition("=")
    if equals and stated.strip() != str(target):
        return False
    try:
        result = evaluate(expression)
    except ExpressionError:
        return False
    return result.value == target and sorted(result.numbers) == sorted(numbers)

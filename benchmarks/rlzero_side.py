"""GRPO steps of rlzero, for versus_trl.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from versus_sides import Clock, Report, Settings, Wait, lengths_of, make_recipe


def run(engine: str, settings: Settings, wait: Wait, report: Report) -> None:
    """GRPOTrainer of rlzero, as `recipes/r1_zero.py` sets it up."""
    import rlzero.grpo.trainer
    from rlzero.grpo.setup import set_up

    with tempfile.TemporaryDirectory() as folder:
        trainer, clock = set_up(make_recipe(engine, settings, folder)).trainer, Clock()
        # Rewards are computed while others are generated.
        clock.wrap(rlzero.grpo.trainer, "generate_and_score", "generate")
        clock.wrap(trainer.engine, "sync", "sync")
        take = (_end_builtin if engine == "builtin" else _end_vllm)(trainer.engine)
        while wait():
            take(lengths_of(settings, trainer.done).tolist())
            clock.restart()
            result = trainer.step()
            figures = clock.figures()
            rollouts = [rollout for scored in result.groups for rollout in scored.group.rollouts]
            tokens = [sum(len(r.prompt_ids) for r in rollouts), sum(len(r.completion_ids) for r in rollouts)]
            report(figures | {"tokens": tokens})
        trainer.close()


def _end_builtin(engine: Any) -> Callable[[list[int]], None]:
    """End its answers by limits alone. Returns what takes the lengths of a step."""
    lengths: list[int] = []
    sample = engine._sample_rows

    def limited(rows: Sequence[Any], prompts: Any, sampling: Any, *rest: Any) -> Any:
        rows = [replace(row, max_tokens=lengths[row.prompt * sampling.n + row.sample]) for row in rows]
        return sample(rows, prompts, sampling, *rest)

    def take(wanted: list[int]) -> None:
        lengths[:] = wanted

    engine._eos_token_ids = np.array([], dtype=np.int64)
    engine._sample_rows = limited
    return take


def _end_vllm(engine: Any) -> Callable[[list[int]], None]:
    """The same. A request is made for each prompt in turn, and from it one for each answer."""
    from vllm.v1.engine.parallel_sampling import ParentRequest

    left: list[int] = []
    make = ParentRequest.get_child_info

    def limited(parent: ParentRequest, index: int) -> tuple[str, Any]:
        name, params = make(parent, index)
        params = copy(params)
        params.max_tokens = left.pop(0)
        return name, params

    engine._eos_token_ids = []
    ParentRequest.get_child_info = limited
    return left.extend

"""What the rivals of versus_trl.py share: each makes steps in a process of its own, one whenever it is told to.

A side is the function `run(engine, settings, wait, report)` of rlzero_side.py or trl_side.py: it loads, then calls
`wait()` before and `report(figures)` after every step. All seconds are what the process gets of the CPU.

Both are made to end answers at the lengths that `drawn.py` says, the same in every round: the built-in engine and both
vLLM by a limit of tokens for each answer, `generate` of transformers by a logits processor that forbids the end before
and forces it there (a column and the rows that are due; a small part of a step).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from drawn import GROUP, LONGEST, draw_lengths

ROOT = Path(__file__).resolve().parents[1]
RATE = 1e-6  # learning rate: no step differs from the one before
SEED = 0
TOKENS_OF_A_ROW = 64  # on average, with its share of the prompt: then both sides have about as many microbatches

Wait = Callable[[], bool]
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """model: a folder. recipe: the YAML that says how it is asked. rows: answers in a microbatch, about."""

    model: str
    recipe: str
    prompts: int
    steps: int
    rows: int


class Clock:
    """CPU seconds by phase, of what is wrapped."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.start = time.process_time()

    def wrap(self, owner: Any, method: str, phase: str) -> None:
        inner = getattr(owner, method)

        @wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[phase] += time.process_time() - start

        # Past the guard of a frozen dataclass.
        object.__setattr__(owner, method, timed)

    def restart(self) -> None:
        self.seconds.clear()
        self.start = time.process_time()

    def figures(self) -> dict[str, float]:
        """step: all of it. train: what was not wrapped."""
        step = time.process_time() - self.start
        return {"step": step, "train": step - sum(self.seconds.values()), **self.seconds}


def serve(side: str, engine: str, settings: Settings, log: str, pipe: Connection) -> None:
    """The process of a side: an order in, a dictionary out; an error is a dictionary too. What libraries say: `log`."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # A core and a thread: vLLM would take all that it may.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    def wait() -> bool:
        # VmHWM begins anew, where the kernel lets it: loading is no part of a step's peak.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        pipe.send({"loaded": _memory("VmRSS")})
        return bool(pipe.recv())

    def report(figures: dict[str, Any]) -> None:
        pipe.send(figures | {"peak": _memory("VmHWM")})

    try:
        import_module(f"{side}_side").run(engine, settings, wait, report)
    except Exception as error:
        pipe.send({"error": f"{type(error).__name__}: {error}"})
        raise


def _memory(name: str) -> int:
    """Bytes that this process holds (VmRSS) or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def lengths_of(settings: Settings, step: int) -> np.ndarray:
    """int64[prompts × GROUP]: how long the answers of a step are, prompt by prompt."""
    return draw_lengths(np.random.default_rng((SEED, step)), settings.prompts * GROUP)


def make_recipe(engine: str, settings: Settings, folder: str) -> Any:
    from rlzero.grpo.parse import parse_recipe

    options = {
        "model_name_or_path": settings.model, "dtype": "float32", "bf16": "false", "rollout": engine,
        "num_generations": GROUP, "max_completion_length": LONGEST, "prompts_per_step": settings.prompts,
        "tokens_per_microbatch": settings.rows * TOKENS_OF_A_ROW, "max_steps": settings.steps, "learning_rate": RATE,
        "reward_funcs": f"{ROOT}/benchmarks/drawn.py:reward", "reward_weights": 1, "sync_check_every": 0,
        "seed": SEED, "report_to": "none", "output_dir": f"{folder}/run",
    }  # fmt: skip
    return parse_recipe([word for k, v in options.items() for word in (f"--{k}", str(v))], Path(settings.recipe))

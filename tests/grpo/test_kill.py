"""`kill -9` and `--resume`, on the real recipe in its own process, as often as it takes."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rlzero.report.run_dir import read_metrics
from tests.conftest import TinyRun
from tests.grpo.launching import start_two
from tests.grpo.test_resume import STATEFUL, assert_same_run
from tests.grpo.test_run import SIGNAL

# Kills are spread over the first steps, so that a fast machine has not finished before the last of them.
STEPS, SPREAD, KILLS = 66, 44, 10
SETTINGS = {**STATEFUL, "max_steps": STEPS, "eval_steps": 6}
SHORT = {
    **SIGNAL, "max_steps": 40, "steps_per_generation": 2, "beta": 0.05, "learning_rate": 0.01, "save_steps": 4,
    "save_total_limit": 2,
}  # fmt: skip
# A rollout is in flight whenever it is killed.
AHEAD = {**SHORT, "max_async_level": 1, "lora_r": 4}
TOGETHER = {**SHORT, "prompts_per_step": 4, "dynamic_sampling": True, "curriculum": "failures", "curriculum_pool": 512}

Start = Callable[..., subprocess.Popen]


def recorded(run: TinyRun) -> int:
    """The last step in the record; 0 where there is none."""
    path = run.output / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    return rows[-1]["step"] if rows else 0


def killed(
    run: TinyRun, ready: Callable[[], bool], delay: float, look: float = 0.05, settings: dict = SETTINGS,
    start: Start = TinyRun.start,
) -> int:  # fmt: skip
    """Start or resume the run, and kill it so many seconds after it is ready, which is looked for every `look` seconds.

    Returns how many processes were still there to be killed: it and what it had started. One that was killed before it
    began has nothing to go on with, and begins.
    """
    exists = (run.output / "config.json").exists() and (run.output / "metrics.jsonl").exists()
    process = start(run, *(["--resume"] if exists else []), **settings)
    try:
        while process.poll() is None and not ready():
            time.sleep(look)
        time.sleep(delay)
        alive = process.poll() is None
        everybody = [process, *psutil.Process(process.pid).children(recursive=True)] if alive else []
        for each in everybody:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        out, err = process.communicate(timeout=60)
        assert alive or process.returncode == 0, (out, err)
    finally:
        process.kill()
    return len(everybody)


def finish(run: TinyRun, settings: dict = SETTINGS, start: Start = TinyRun.start) -> None:
    """Start the run, or resume it where it has begun, and let it end."""
    process = start(run, *(["--resume"] if run.output.exists() else []), **settings)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, (out, err)


def at_step(run: TinyRun, step: int) -> Callable[[], bool]:
    """Whether the record is there, made by a process that is started from now on, which writes its configuration
    first."""
    begun, config = time.time(), run.output / "config.json"
    return lambda: config.exists() and config.stat().st_mtime > begun and recorded(run) >= step


def unfinished(run: TinyRun) -> list[Path]:
    return list((run.output / "checkpoints").glob("*.unfinished"))


@pytest.fixture(scope="module")
def whole(tiny_model_dir, tmp_path_factory) -> Path:
    run = TinyRun(tiny_model_dir, tmp_path_factory.mktemp("unharmed") / "run")
    finish(run)
    return run.output


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_run_killed_at_ten_random_moments_is_bit_for_bit_the_run_that_was_not(whole, tiny_run):
    """The first moment is anywhere from the start of the process on; the others are spread over the steps."""
    rng = random.Random(13)
    assert killed(tiny_run, lambda: True, rng.uniform(0, 8))
    reached = 0
    for kill in range(1, KILLS):
        step = rng.randrange(kill * SPREAD // (KILLS + 1), (kill + 1) * SPREAD // (KILLS + 1))
        assert killed(tiny_run, at_step(tiny_run, step), rng.uniform(0, 0.3))
        reached = recorded(tiny_run)
    assert SPREAD // 2 <= reached < STEPS
    finish(tiny_run)
    assert_same_run(tiny_run.output, whole)
    assert unfinished(tiny_run) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_run_killed_while_it_saves_is_bit_for_bit_the_run_that_was_not(whole, tiny_run):
    """The moment is when the folder of a checkpoint that is being written appears, and a little later each time."""
    hit = 0
    for kill in range(4):
        for left in unfinished(tiny_run):
            shutil.rmtree(left)
        wanted = f"step-{4 + 10 * kill:06d}"
        # The folder of an old checkpoint that is being removed has a lower number.
        assert killed(
            tiny_run, lambda name=wanted: any(p.name > name for p in unfinished(tiny_run)), kill * 0.004, look=0.002
        )
        hit += len(unfinished(tiny_run))
    # Most of them came in time.
    assert hit >= 2
    finish(tiny_run)
    assert_same_run(tiny_run.output, whole)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("settings", "start", "processes", "steps"),
    [(AHEAD, TinyRun.start, 1, (2, 9, 16)), (TOGETHER, start_two, 3, (5, 14))],
    ids=["a rollout ahead with adapters", "two processes and their launcher"],
)
def test_run_of_many_parts_killed_and_resumed_is_bit_for_bit_the_run_that_was_not(
    settings, start, processes, steps, tiny_run
):
    """Minibatches and a reference in both; a rollout in flight and adapters in one, in the other dynamic sampling and a
    curriculum over two processes, whose random states are two."""
    unharmed = TinyRun(tiny_run.model, tiny_run.output.parent / "unharmed")
    finish(unharmed, settings, start)
    rng = random.Random(13)
    for step in steps:
        ready, delay = at_step(tiny_run, step), rng.uniform(0, 0.1)
        assert killed(tiny_run, ready, delay, look=0.02, settings=settings, start=start) >= processes
        assert step <= recorded(tiny_run) < settings["max_steps"]
    finish(tiny_run, settings, start)
    assert_same_run(tiny_run.output, unharmed.output)

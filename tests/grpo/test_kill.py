"""`kill -9` and `--resume`, on the real recipe in its own process, as often as it takes."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlzero.report.run_dir import read_metrics
from tests.conftest import TinyRun
from tests.grpo.test_resume import STATEFUL, assert_same_run

# Kills are spread over the first steps, so that a fast machine has not finished before the last of them.
STEPS, SPREAD, KILLS = 66, 44, 10
SETTINGS = {**STATEFUL, "max_steps": STEPS, "eval_steps": 6}


def recorded(run: TinyRun) -> int:
    """The last step in the record; 0 where there is none."""
    path = run.output / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    return rows[-1]["step"] if rows else 0


def killed(run: TinyRun, ready: Callable[[], bool], delay: float, look: float = 0.05) -> bool:
    """Start or resume the run, and kill it so many seconds after it is ready, which is looked for every `look` seconds.

    Returns whether it was still there to be killed. One that was killed before it began has nothing to go on with, and
    begins.
    """
    exists = (run.output / "config.json").exists() and (run.output / "metrics.jsonl").exists()
    process = run.start(*(["--resume"] if exists else []), **SETTINGS)
    try:
        while process.poll() is None and not ready():
            time.sleep(look)
        time.sleep(delay)
        alive = process.poll() is None
        process.kill()
        out, err = process.communicate(timeout=60)
        assert alive or process.returncode == 0, (out, err)
    finally:
        process.kill()
    return alive


def finish(run: TinyRun) -> None:
    outcome = run.in_subprocess("--resume", **SETTINGS)
    assert outcome.code == 0, outcome.err


def unfinished(run: TinyRun) -> list[Path]:
    return list((run.output / "checkpoints").glob("*.unfinished"))


@pytest.fixture(scope="module")
def whole(tiny_model_dir, tmp_path_factory) -> Path:
    run = TinyRun(tiny_model_dir, tmp_path_factory.mktemp("unharmed") / "run")
    outcome = run.in_subprocess(**SETTINGS)
    assert outcome.code == 0, outcome.err
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
        begun = time.time()

        def there(step=step, begun=begun) -> bool:
            """Made by this process, which writes its configuration first."""
            config = tiny_run.output / "config.json"
            return config.exists() and config.stat().st_mtime > begun and recorded(tiny_run) >= step

        assert killed(tiny_run, there, rng.uniform(0, 0.3))
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

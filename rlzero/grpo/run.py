"""A whole run: evaluate the base, train, evaluate again, and leave a record."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from rich.console import Console

from data.template_file import save_template
from rewards.registry import RewardError
from rlzero.grpo.alarms import Alarms
from rlzero.grpo.checkpoint import forget_after, save_checkpoint
from rlzero.grpo.config import ConfigError, Recipe, as_plain_config
from rlzero.grpo.ending import Failure, fail, leave, several
from rlzero.grpo.parse import parse_recipe
from rlzero.grpo.record import rollout_rows, step_metrics
from rlzero.grpo.setup import Run, check, describe, set_up
from rlzero.grpo.trainer import derived_seed, passed
from rlzero.grpo.update import StuckError, TrainingError
from rlzero.measure.evaluate import EvalResult, evaluate
from rlzero.measure.statistics import paired_difference
from rlzero.models.adapter import merged_state
from rlzero.report.curves import plot_curves
from rlzero.report.progress import Progress
from rlzero.report.records import as_plain, seconds_to_reach
from rlzero.report.run_dir import read_metrics
from rlzero.report.tables import show_header, show_samples, show_summary
from rlzero.rollout.request import RequestError
from rlzero.rollout.sync_check import SyncError
from rlzero.rollout.types import EngineLost, Sampling

INTERRUPTED = 130  # exit code of a run that Ctrl-C ended, as shells have it
SAME_PRESS = 1.0  # seconds
GOAL = 0.9  # the accuracy whose time of arrival the summary reports
# What ends a run with a message. The state is whole: the failed step changed nothing, or was done.
FAILURES = (RewardError, RequestError, TrainingError, SyncError, EngineLost)


def main(argv: Sequence[str], default_config: Path) -> int:
    """Exit code: 0 done, 2 settings that cannot work, 1 a run that failed underway, 130 interrupted."""
    with ExitStack() as closing:
        try:
            return run_recipe(argv, default_config, closing)
        except Failure as failure:
            return fail(str(failure), failure.code, closing.close)
        except Exception:
            if not several():
                raise
            return fail(traceback.format_exc(), 1, closing.close)


def run_recipe(argv: Sequence[str], default_config: Path, closing: ExitStack) -> int:
    """From settings to summary. Returns the exit code of a run that did not fail, or raises Failure.

    closing: what is to be closed in any case.
    """
    start = time.perf_counter()
    transformers.utils.logging.disable_progress_bar()
    try:
        recipe = parse_recipe(argv, default_config)
        if recipe.run.dry_run:
            show_header("dry run: every name and combination is right", describe(recipe, check(recipe)))
            return 0
        run = set_up(recipe)
    except (ValueError, EngineLost) as error:
        raise Failure(f"error: {error}", 2) from error
    closing.callback(close, run)
    try:
        code = train(run, start)
        # None goes while another may still need it.
        run.accelerator.wait_for_everyone()
    except (*FAILURES, FloatingPointError) as error:
        step = run.trainer.done + (0 if isinstance(error, SyncError | StuckError) else 1)
        raise Failure(f"error in step {step}: {error}", 2 if isinstance(error, RewardError) else 1) from error
    except KeyboardInterrupt:
        raise Failure("Stopped at once; what was not saved is lost.", INTERRUPTED) from None
    closing.close()
    leave(run.accelerator)
    return code


def close(run: Run) -> None:
    """The engine, the trackers, and the record."""
    run.trainer.close()
    run.directory.close()
    for tracker in run.accelerator.trackers:
        tracker.finish()


@dataclass
class Interruption:
    """Whether Ctrl-C was pressed. The step underway is finished first; a second Ctrl-C stops at once."""

    asked: bool = field(default=False)
    since: float = field(default=0.0)

    @contextmanager
    def watched(self) -> Iterator[Interruption]:
        before = signal.signal(signal.SIGINT, self._note)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)

    def _note(self, *_: object) -> None:
        # A launcher passes the same Ctrl-C on to its processes: what comes with the first is no second one.
        if self.asked and time.monotonic() - self.since > SAME_PRESS:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.since = True, time.monotonic()


def train(run: Run, start: float) -> int:
    """From base evaluation to summary. Returns the exit code."""
    recipe, trainer, directory = run.recipe, run.trainer, run.directory
    main_process = run.accelerator.is_main_process
    start -= run.elapsed
    if main_process:
        if recipe.run.resume:
            directory.truncate_after(trainer.done, ("trained",) if trainer.done else ("base", "trained"))
            forget_after(directory.checkpoints, trainer.done)
        header = describe(recipe, run.checked) | {
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "engine": trainer.engine.name,
            "device": f"{run.accelerator.num_processes} × {run.accelerator.device}",
        }
        show_header("rlzero: GRPO", header)
    if run.accelerator.log_with:
        run.accelerator.init_trackers("rlzero")
    base = evaluate_heldout(run, recipe.run.eval_problems, recipe.run.eval_samples) if trainer.done == 0 else None
    history, evaluations = read_metrics(directory.metrics), read_metrics(directory.evaluations)
    alarms = Alarms(history)
    console = None if main_process else Console(quiet=True)
    shown = Progress(recipe.grpo.max_steps, history, evaluations, console)
    log_evaluation(run, shown, base, start, kind="base")
    stopped = False
    for note in run.notes:
        shown.message(note)
    for name, (then, now) in directory.config_changes.items():
        shown.message(f"{name} was {then!r} when the run began and is {now!r} from here on.")
    with Interruption().watched() as interruption, shown:
        try:
            while trainer.done < recipe.grpo.max_steps and not stopped:
                one_step(run, shown, alarms, start)
                stopped = anywhere(run.accelerator, interruption.asked)
        except FAILURES:
            # Other processes may not have failed: they cannot be asked to save with this one.
            if run.accelerator.num_processes == 1:
                save_state(run, shown, start, "Stopped by an error.")
            raise
    try:
        if not stopped:
            finish(run, shown, base, start)
            return 0
    except KeyboardInterrupt:
        if run.accelerator.num_processes > 1:
            raise
    save_state(run, shown, start, "Interrupted.")
    return INTERRUPTED


def anywhere(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any process. All of them ask, and all get the same answer."""
    flags = torch.tensor([float(flag)], device=accelerator.device)
    return bool(accelerator.reduce(flags, "sum").item())


def save_state(run: Run, shown: Progress, start: float, why: str) -> None:
    """A checkpoint out of turn, and how to go on from it."""
    saved = save(run, start)
    if run.accelerator.is_main_process:
        again = f"{sys.argv[0]} --config {run.directory.config_yaml} --resume"
        shown.message(f"{why} The state after step {run.trainer.done} is in {saved}. Go on with: {again}")


def save(run: Run, start: float) -> Path:
    """A checkpoint of the state as it is, and all that was recorded up to it on disk."""
    if run.accelerator.is_main_process:
        run.directory.to_disk()
    keep = run.recipe.run.save_total_limit
    return save_checkpoint(run.trainer, run.directory.checkpoints, keep, time.perf_counter() - start)


def one_step(run: Run, shown: Progress, alarms: Alarms, start: float) -> None:
    """Train on one rollout and record it; now and then evaluate and save."""
    trainer, settings, before = run.trainer, run.recipe.run, run.trainer.done
    rate = trainer.scheduler.get_last_lr()[0]
    result = trainer.step()
    rows = rollout_rows(result, run.checked.rewards, run.accelerator)
    metrics = step_metrics(result, rows, rate, time.perf_counter() - start, run.recipe.rollout.num_generations)
    if run.accelerator.is_main_process:
        run.directory.write_rollouts(result.step, rows)
        run.directory.log_metrics(metrics)
        shown.update(metrics)
        # As it is read again after a resume: a figure that is not finite is unknown.
        for message in alarms.observe(as_plain(metrics)):
            shown.message(message)
    run.accelerator.log({k: v for k, v in metrics.items() if v is not None}, step=result.step)
    trainer.check_going_on()
    if passed(settings.eval_steps, before, trainer.done) and trainer.done < run.recipe.grpo.max_steps:
        quick = evaluate_heldout(run, settings.eval_quick_problems, settings.eval_quick_samples)
        log_evaluation(run, shown, quick, start, kind="quick")
    if passed(settings.save_steps, before, trainer.done):
        save(run, start)


def evaluate_heldout(run: Run, problems: int, samples: int) -> EvalResult | None:
    """The policy as it is now on held-out problems. Every process does the same, so that none waits or differs."""
    if not problems:
        return None
    rollout = run.recipe.rollout
    sampling = Sampling(
        n=samples,
        max_tokens=rollout.max_completion_length,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        seed=derived_seed(run.recipe.run.seed, "evaluation"),
    )
    chosen = run.heldout[:problems]
    return evaluate(run.trainer.engine, run.tokenizer, chosen, run.checked.template, sampling, run.checked.rewards)


def log_evaluation(run: Run, shown: Progress, result: EvalResult | None, start: float, kind: str) -> None:
    """Record and show an evaluation; nothing where there was none."""
    if result is not None and run.accelerator.is_main_process:
        figures = result_figures(result) | {"shares": result.accuracies}  # by problem: what pairs two evaluations
        row = {"step": run.trainer.done, "kind": kind, "wall_seconds": time.perf_counter() - start, **figures}
        run.directory.log_evaluation(row)
        shown.evaluated(row)


def result_figures(result: EvalResult) -> dict[str, Any]:
    """`pass@1`, `pass@k`, `format`, `length`, each with its 95% interval beside it."""
    figures: dict[str, Any] = {}
    for name, estimate in result.estimates().items():
        figures[name] = estimate.value
        figures[f"{name}_interval"] = [estimate.low, estimate.high]
    return figures


def finish(run: Run, shown: Progress, base: EvalResult | None, start: float) -> None:
    """Last evaluation, the model, the summary, the curves; and three completions before and after."""
    settings, directory = run.recipe.run, run.directory
    trained = evaluate_heldout(run, settings.eval_problems, settings.eval_samples)
    log_evaluation(run, shown, trained, start, kind="trained")
    wall_seconds = time.perf_counter() - start
    state = run.accelerator.get_state_dict(run.trainer.model)
    if not run.accelerator.is_main_process:
        return
    model = run.accelerator.unwrap_model(run.trainer.model)
    model.save_pretrained(directory.model, state_dict=merged_state(model, state))
    run.tokenizer.save_pretrained(directory.model)
    save_template(run.checked.template, directory.model)
    metrics, evaluations = read_metrics(directory.metrics), read_metrics(directory.evaluations)
    plot_curves(metrics, evaluations, directory.curves)
    if trained is None:
        return
    first = next((row for row in evaluations if row["kind"] == "base"), None)
    summary = {
        "base": {k: v for k, v in (first or {}).items() if k not in ("step", "kind", "wall_seconds", "shares")},
        "trained": result_figures(trained),
        "wall_seconds": wall_seconds,
        "seconds_to_goal": seconds_to_reach(GOAL, evaluations),
        "goal": GOAL,
        "steps": run.trainer.done,
        "parameters": sum(p.numel() for p in run.trainer.model.parameters()),
        "engine": run.trainer.engine.name,
        "config": as_plain_config(run.recipe),
    }
    shares = (first or {}).get("shares", [])
    if len(shares) == len(trained.accuracies):  # a resume may ask other problems
        gain = paired_difference(shares, trained.accuracies)
        summary["gain"] = {"pass@1": gain.value, "pass@1_interval": [gain.low, gain.high]}
    if base is not None:
        show_samples(sample_rows(base), sample_rows(trained))
    directory.write_summary(summary)
    show_summary(summary, path=directory.path)


def sample_rows(result: EvalResult, count: int = 3) -> list[dict[str, Any]]:
    """The first completion of the first problems."""
    return [
        {"prompt": p.prompt, "answer": p.answer, "completion": row[0].text, "correct": row[0].right}
        for p, row in list(zip(result.problems, result.samples, strict=True))[:count]
    ]


__all__ = ["ConfigError", "Recipe", "main"]

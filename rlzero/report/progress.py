"""The run as one watches it: a live display in a terminal, one plain line per step anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlzero.report.records import as_plain
from rlzero.report.text import (
    as_count,
    as_duration,
    as_figure,
    as_interval,
    is_number,
    make_console,
    sparkline,
)

_MAX_WIDTH = 120  # beyond this, lines are too long to take in at a glance
_WIDE = 100  # from here on there is room for the minor figures
_PARTS = {"generate": "cyan", "reward": "yellow", "train": "magenta", "sync": "green"}
_MANY_TRUNCATED = 0.3
_RECENT = 20  # steps that the remaining time is guessed from


class Progress:
    """Shows a run of `total_steps` while it happens. A context manager; every method is cheap.

    history, evaluations: what a resumed run already recorded, so that its curves go on.
    console: default stdout. Is stdout no terminal (CI, nohup, a pipe), there is one line per step and not a
    single control character.
    """

    def __init__(
        self,
        total_steps: int,
        history: Sequence[Mapping[str, Any]] = (),
        evaluations: Sequence[Mapping[str, Any]] = (),
        console: Console | None = None,
    ) -> None:
        self.console = console or make_console()
        self._total = total_steps
        self._history = list(history)
        self._evaluations = list(evaluations)
        self._phase = ""
        self._started = time.monotonic()
        self._ends = [self._started]
        self._live: Live | None = None
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self.console,
                refresh_per_second=4,
                vertical_overflow="crop",
            )

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        self._ends = [self._started]
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase = "" if kind is None else "stopped"
        if self._live:
            self._live.stop()

    def phase(self, name: str) -> None:
        """What is happening now ("generate", "train", "evaluate"); shown in the live display only."""
        self._phase = name

    def update(self, metrics: Mapping[str, Any]) -> None:
        """A step is done: show its metrics line."""
        self._history.append(as_plain(metrics))
        self._ends.append(time.monotonic())
        self._phase = ""
        if self._live:
            self._live.refresh()
        else:
            self._print_line(self._step_line(self._history[-1]))

    def evaluated(self, evaluation: Mapping[str, Any]) -> None:
        """A held-out evaluation is done."""
        self._evaluations.append(as_plain(evaluation))
        if self._live:
            self._live.refresh()
        else:
            figures = [_heldout_accuracy(evaluation), *_heldout_rest(evaluation)]
            self._print_line("  ".join([f"step {evaluation['step']}/{self._total}", *figures]))

    def message(self, text: str) -> None:
        """A line of plain text above the live display: a warning, a checkpoint written."""
        self.console.print(Text(text), soft_wrap=True)

    def _print_line(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.console.file.flush()

    def _step_line(self, metrics: Mapping[str, Any]) -> str:
        figures = [f"{name} {value}" for name, value in _figures(metrics)]
        figures += [f"{name} {value}" for name, value in (*_other_rewards(metrics), *_details(metrics))]
        seconds, shares = _time_split(metrics)
        split = " ".join(f"{name} {share:.0%}" for name, share in shares.items())
        figures.append(f"{seconds:.2f} s ({split})" if seconds else "")
        figures.append(f"eta {self._remaining()}")
        return "  ".join([f"step {metrics['step']}/{self._total}", *filter(None, figures)])

    def _remaining(self) -> str:
        recent = self._ends[-_RECENT - 1 :]
        if len(recent) < 2:
            return "–"
        # A line may stand for several steps.
        steps = [0, *(row["step"] for row in self._history)][-len(recent) :]
        return as_duration((recent[-1] - recent[0]) / (steps[-1] - steps[0]) * max(0, self._total - steps[-1]))

    def _render(self) -> RenderableType:
        width = min(self.console.width, _MAX_WIDTH)
        rows: list[RenderableType] = [self._bar()]
        if self._history:
            rows += ["", self._curves(width - 4), "", *self._last_step()]
        return Panel(Group(*rows), title="GRPO", title_align="left", border_style="blue", width=width)

    def _bar(self) -> Table:
        done = self._history[-1]["step"] if self._history else 0
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        elapsed = as_duration(time.monotonic() - self._started)
        grid.add_row(
            Text.assemble(("step ", "bold"), (f"{done}/{self._total}", "bold")),
            ProgressBar(total=max(1, self._total), completed=done, complete_style="blue", finished_style="green"),
            Text.assemble(
                (f"{self._phase} · " if self._phase else "", "yellow"),
                elapsed,
                (" elapsed · ", "dim"),
                self._remaining(),
                (" left", "dim"),
            ),
        )
        return grid

    def _curves(self, width: int) -> Table:
        """One row per figure: its name, its value now, its course over the run."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(style="bold", justify="right", no_wrap=True)
        grid.add_column(no_wrap=True)
        span = max(8, width - 18)
        last = self._history[-1]
        for name, key, form, low, color in (
            ("accuracy", "accuracy", ".3f", 0.0, "green"),
            ("format", "format", ".3f", 0.0, "cyan"),
            ("length", "completion_length", ".1f", None, "magenta"),
            ("reward", "reward", ".3f", None, "blue"),
        ):
            series = [row.get(key) for row in self._history]
            grid.add_row(name, as_figure(last.get(key), form), Text(sparkline(series, span, low), color))
        return grid

    def _last_step(self) -> list[RenderableType]:
        last = self._history[-1]
        rows: list[RenderableType] = []
        if self._evaluations:
            rows.append(Text(self._heldout_line(), "bold", no_wrap=True, overflow="ellipsis"))
        for figures in filter(None, (_other_rewards(last), _details(last))):
            line = Text(no_wrap=True, overflow="ellipsis")
            for name, value in figures:
                line.append(" · " if line else "").append(f"{name} ", "dim").append(value)
            rows.append(line)
        if (last.get("truncated") or 0) > _MANY_TRUNCATED:
            rows.append(Text("Many completions are cut off: raise max_completion_length.", "yellow"))
        seconds, shares = _time_split(last)
        if seconds:
            split = Text.assemble((f"{seconds:.3g} s a step ", "dim"), no_wrap=True, overflow="ellipsis")
            for name, share in shares.items():
                split.append("━" * round(14 * share), _PARTS[name])
            for name, share in shares.items():
                split.append(f" {name} ", _PARTS[name]).append(f"{share:.0%}")
            rows.append(split)
        return rows

    def _heldout_line(self) -> str:
        first, last = self._evaluations[0], self._evaluations[-1]
        known = [_heldout_accuracy(last), f"step {last['step']}"]
        if first["step"] == 0 and last is not first:
            known.append(f"base {as_figure(first.get('pass@1'), '.3f')}")
        return " · ".join(known + (_heldout_rest(last) if self.console.width >= _WIDE else []))


def _heldout_accuracy(evaluation: Mapping[str, Any]) -> str:
    interval = as_interval(evaluation.get("pass@1_interval"), ".3f")
    return f"held-out pass@1 {as_figure(evaluation.get('pass@1'), '.3f')} {interval}".rstrip()


def _heldout_rest(evaluation: Mapping[str, Any]) -> list[str]:
    figures = (("format", ".3f"), ("length", ".1f"))
    return [f"{name} {as_figure(evaluation[name], form)}" for name, form in figures if name in evaluation]


def _figures(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = (
        ("reward", "reward", ".3f"),
        ("accuracy", "accuracy", ".3f"),
        ("format", "format", ".3f"),
        ("length", "completion_length", ".1f"),
    )
    return [(name, as_figure(metrics.get(key), form)) for name, key, form in named if key in metrics]


def _other_rewards(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rewards of a user's own functions, which have no row of their own."""
    names = sorted(key for key in metrics if key.startswith("reward/"))
    shown = ("reward/accuracy", "reward/format")
    return [(name, as_figure(metrics[name], ".3f")) for name in names if name not in shown]


def _details(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = (
        ("entropy", "entropy", ".3f"),
        ("grad norm", "grad_norm", ".3f"),
        ("Δlogp", "logprob_diff", ".1e"),
    )
    details = [(name, as_figure(metrics.get(key), form)) for name, key, form in named if key in metrics]
    seconds, _ = _time_split(metrics)
    if seconds and is_number(metrics.get("tokens")):
        details.append(("tok/s", as_count(metrics["tokens"] / seconds)))
    if metrics.get("truncated"):
        details.append(("cut off", as_figure(metrics["truncated"], ".0%")))
    return details


def _time_split(metrics: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
    """Seconds of the step and the share of each part."""
    parts = {name: metrics.get(f"time_{name}") for name in _PARTS}
    seconds = {name: value for name, value in parts.items() if is_number(value)}
    total = sum(seconds.values())
    return total, {name: value / total for name, value in seconds.items()} if total else {}

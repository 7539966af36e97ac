"""What stands before and after a run: the header, the summary, samples of the model's thinking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlzero.report.records import as_plain
from rlzero.report.text import (
    as_count,
    as_duration,
    as_figure,
    as_interval,
    cut_middle,
    is_number,
    make_console,
    visible,
)

_MAX_WIDTH = 120
_MAX_CHARACTERS, _MAX_LINES = 600, 12  # of one completion


def show_header(title: str, facts: Mapping[str, Any], console: Console | None = None) -> None:
    """Say what will run. facts: label to value, in the order to show; a whole number of a thousand and more
    is shortened (1.35M)."""
    console = console or make_console()
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in facts.items():
        is_large = isinstance(value, int) and value >= 1000
        grid.add_row(Text(label), Text(as_count(value) if is_large else visible(str(value))))
    console.print(_panel(grid, title, console))


def show_summary(summary: Mapping[str, Any], console: Console | None = None, path: str | Path | None = None) -> None:
    """The table of base against trained, with confidence intervals and the difference.

    summary: {"base": {...}, "trained": {...}, "wall_seconds"} with `pass@k`, `format` and `length`, each with
        `<name>_interval` where known. A difference is colored only where the two intervals do not overlap.
    path: the run directory, named below the table.
    """
    console = console or make_console()
    base, trained = as_plain(summary["base"]), as_plain(summary["trained"])
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    for name in ("", "base", "trained", "difference"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name in _figure_names(base):
        form = ".1f" if name == "length" else ".3f"
        cells = [
            Text.assemble(
                as_figure(side.get(name), form), " ", (as_interval(side.get(f"{name}_interval"), form), "dim")
            )
            for side in (base, trained)
        ]
        table.add_row(Text(name), *cells, _difference(base, trained, name))
    rows: list[Any] = [table]
    if "wall_seconds" in summary:
        rows += ["", Text.assemble(("wall time  ", "dim"), as_duration(summary["wall_seconds"]))]
    if path is not None:
        rows.append(Text.assemble(("everything is in  ", "dim"), str(path)))
    console.print(_panel(Group(*rows), "base against trained", console))


def show_samples(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    console: Console | None = None,
    count: int = 3,
) -> None:
    """What the model wrote to the same problems before and after training.

    before, after: rows with `prompt`, `answer`, `completion`, `correct`, for the same problems in the same
        order; the first `count` are shown.
    """
    console = console or make_console()
    for number, (old, new) in enumerate(zip(before[:count], after[:count], strict=True), start=1):
        if old["prompt"] != new["prompt"]:
            raise ValueError(
                f"samples before and after must be of the same problems, and number {number} is "
                f"{old['prompt']!r} against {new['prompt']!r}. Pass both lists in the same order."
            )
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text("problem", "dim"), _shortened(old["prompt"]))
        grid.add_row(Text("answer", "dim"), _shortened(old["answer"]))
        for name, row in (("before", old), ("after", new)):
            color = "green" if row["correct"] else "red"
            mark = "✓ right" if row["correct"] else "✗ wrong"
            grid.add_row(Text(f"{name:<6} {mark}", color), _shortened(row["completion"]))
        console.print(_panel(grid, f"sample {number}", console))


def _panel(content: Any, title: str, console: Console) -> Panel:
    width = min(console.width, _MAX_WIDTH)
    return Panel(content, title=Text(title), title_align="left", border_style="blue", padding=(0, 1), width=width)


def _figure_names(figures: Mapping[str, Any]) -> list[str]:
    """pass@k by k, then the rest."""
    passes = sorted((name for name in figures if name.startswith("pass@") and name[5:].isdigit()), key=_k)
    return passes + [name for name in ("format", "length") if name in figures]


def _k(name: str) -> int:
    return int(name.removeprefix("pass@"))


def _difference(base: Mapping[str, Any], trained: Mapping[str, Any], name: str) -> Text:
    old, new = base.get(name), trained.get(name)
    if not is_number(old) or not is_number(new):
        return Text("–")
    change = f"×{new / old:.2f}" if name == "length" and old else f"{new - old:+.3f}"
    old_interval, new_interval = base.get(f"{name}_interval"), trained.get(f"{name}_interval")
    if not old_interval or not new_interval:
        return Text(change)
    if new_interval[0] > old_interval[1]:
        return Text(change, "bold green" if name != "length" else "bold")
    if new_interval[1] < old_interval[0]:
        return Text(change, "bold red" if name != "length" else "bold")
    return Text(change, "dim")


def _shortened(text: str) -> Text:
    return Text(cut_middle(visible(text), _MAX_CHARACTERS, _MAX_LINES))

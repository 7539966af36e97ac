"""curves.png: how accuracy, format, response length and reward went. The one file that imports matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlzero.report.records import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, DPI = 10.0, 6.8, 120  # inches and dots per inch: 1200 × 816 pixels
_TRAIN, _HELDOUT, _BASE = "#1f77b4", "#d1495b", "#6b7280"
_REWARDS = ("#2a9d8f", "#e08e1b", "#7b4fa3", "#8c564b", "#c2549d", "#5b8c2a")
_LABEL_SIZE = 10
_LABEL_WIDTH = 12  # characters of a name beside the panel
_LABEL_GAP = 0.085  # the least distance of two labels, as a fraction of the panel's height


@dataclass(frozen=True)
class _Label:
    """The text at the right end of a line. y: in the data's units."""

    text: str
    y: float
    color: str


def plot_curves(
    metrics: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], path: str | Path
) -> None:
    """Draw the four curves of a run into a PNG of 1200 × 816 pixels.

    metrics: the lines of metrics.jsonl, in steps; a missing figure, None or NaN leaves a gap.
        `completion_length_p10` and `completion_length_p90`, where given, are drawn as a band.
    evaluations: held-out figures by step (`pass@1`, `pass@1_interval`, `format`, `length`); the one of step 0
        is the base, drawn as a level.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.045, right=0.875, top=0.895, bottom=0.075, wspace=0.46, hspace=0.36)
    axes = figure.subplots(2, 2).flat
    last_step = max([1.0, *_column(metrics, "step"), *_column(evaluations, "step")])
    _draw_share(axes[0], metrics, evaluations, "accuracy", "pass@1")
    _draw_share(axes[1], metrics, evaluations, "format", "format")
    _draw_length(axes[2], metrics, evaluations)
    _draw_rewards(axes[3], metrics)
    titles = ("Accuracy (pass@1)", "Format", "Response length (tokens)", "Reward")
    for index, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        _dress(axis, title, last_step)
        if index < 2:
            _add_wall_time(axis, metrics, evaluations)
        else:
            axis.set_xlabel("step", fontsize=_LABEL_SIZE, color="#374151")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(Path(path), buffer.getvalue())


def _draw_share(
    axis: Axes,
    metrics: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    train_key: str,
    heldout_key: str,
) -> None:
    """A figure between 0 and 1: train per step, held-out with intervals, the base's level."""
    axis.set_ylim(-0.02, 1.04)
    labels = _draw_line(axis, metrics, train_key, _TRAIN, "train", "{:.2f}")
    labels += _draw_heldout(axis, evaluations, heldout_key, "{:.2f}")
    _draw_base(axis, evaluations, heldout_key, "{:.2f}")
    _place_labels(axis, labels)


def _draw_length(axis: Axes, metrics: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> None:
    steps = _column(metrics, "step")
    low = _column(metrics, "completion_length_p10")
    high = _column(metrics, "completion_length_p90")
    band = np.isfinite(low) & np.isfinite(high)
    if band.any():
        axis.fill_between(steps, low, high, where=list(band), color=_TRAIN, alpha=0.13, linewidth=0)
    labels = _draw_line(axis, metrics, "completion_length", _TRAIN, "train", "{:.1f}")
    labels += _draw_heldout(axis, evaluations, "length", "{:.1f}")
    shown = np.concatenate([_column(metrics, "completion_length"), high, _column(evaluations, "length")])
    axis.set_ylim(0, 1.08 * max([1.0, *shown[np.isfinite(shown)]]))
    _draw_base(axis, evaluations, "length", "{:.1f}")
    if band.sum() > 1:
        index = int(np.flatnonzero(band)[len(np.flatnonzero(band)) // 2])
        _annotate(axis, steps[index], high[index], "10 to 90%", _TRAIN)
    _place_labels(axis, labels)


def _draw_rewards(axis: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    names = sorted({key for row in metrics for key in row if key.startswith("reward/")})
    labels: list[_Label] = []
    for index, key in enumerate(names):
        color = _REWARDS[index % len(_REWARDS)]
        labels += _draw_line(axis, metrics, key, color, key.removeprefix("reward/"), "{:.2f}")
    labels += _draw_line(axis, metrics, "reward", "#111827", "total", "{:.2f}")
    axis.margins(y=0.08)
    _place_labels(axis, labels)


def _draw_line(
    axis: Axes, metrics: Sequence[Mapping[str, Any]], key: str, color: str, name: str, form: str
) -> list[_Label]:
    """The figure of every step, faint, and its running mean; the label for its end."""
    steps, values = _column(metrics, "step"), _column(metrics, key)
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite):
        return []
    smooth = _running_mean(values)
    axis.plot(steps, values, color=color, alpha=0.3, linewidth=1)
    axis.plot(steps, smooth, color=color, linewidth=2, solid_capstyle="round")
    # A point between two gaps has no line that would show it.
    lone = [i for i in finite if not np.isfinite(values[max(i - 1, 0) : i + 2]).sum() > 1]
    axis.plot(steps[lone], values[lone], "o", color=color, markersize=5)
    end = float(smooth[finite[-1]])
    short = name if len(name) <= _LABEL_WIDTH else name[: _LABEL_WIDTH - 1] + "…"
    return [_Label(f"{short} {form.format(end)}", end, color)]


def _draw_heldout(axis: Axes, evaluations: Sequence[Mapping[str, Any]], key: str, form: str) -> list[_Label]:
    steps, values = _column(evaluations, "step"), _column(evaluations, key)
    known = np.isfinite(values)
    if not known.any():
        return []
    steps, values = steps[known], values[known]
    # One problem alone has no interval: its bounds are None.
    given = [row.get(f"{key}_interval") or (None, None) for row, keep in zip(evaluations, known, strict=True) if keep]
    low = [0.0 if i[0] is None else v - i[0] for v, i in zip(values, given, strict=True)]
    high = [0.0 if i[1] is None else i[1] - v for v, i in zip(values, given, strict=True)]
    axis.errorbar(
        steps,
        values,
        yerr=np.maximum([low, high], 0.0),
        color=_HELDOUT,
        marker="o",
        markersize=5,
        linewidth=1.6,
        capsize=3,
        zorder=5,
    )
    return [_Label(f"held-out {form.format(values[-1])}", float(values[-1]), _HELDOUT)]


def _draw_base(axis: Axes, evaluations: Sequence[Mapping[str, Any]], key: str, form: str) -> None:
    """The level that the run started from, written where a rising curve leaves room: at the right, below."""
    base = [_number(row.get(key)) for row in evaluations if row["step"] == 0]
    if not base or not math.isfinite(base[0]):
        return
    axis.axhline(base[0], color=_BASE, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    bottom, top = axis.get_ylim()
    above = base[0] < bottom + 0.15 * (top - bottom)
    axis.annotate(
        f"base {form.format(base[0])}",
        (1, base[0]),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3 if above else -4),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        fontsize=_LABEL_SIZE,
        color=_BASE,
    )


def _place_labels(axis: Axes, labels: list[_Label]) -> None:
    """Write the labels right of the panel, at the height where their lines end, pushed apart."""
    if not labels:
        axis.text(0.5, 0.5, "no data", transform=axis.transAxes, ha="center", color=_BASE, fontsize=11)
        return
    bottom, top = axis.get_ylim()
    axis.set_ylim(bottom, top)
    ordered = sorted(labels, key=lambda label: label.y)
    heights = [(label.y - bottom) / (top - bottom) for label in ordered]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + _LABEL_GAP)
    overshoot = max(0.0, heights[-1] - 1.0)
    heights[-1] -= overshoot
    for index in range(len(heights) - 2, -1, -1):
        heights[index] = min(heights[index], heights[index + 1] - _LABEL_GAP)
    for label, height in zip(ordered, heights, strict=True):
        axis.text(
            1.02,
            height,
            label.text,
            transform=axis.transAxes,
            color=label.color,
            fontsize=_LABEL_SIZE,
            va="center",
        )


def _annotate(axis: Axes, x: float, y: float, text: str, color: str) -> None:
    axis.annotate(
        text,
        (x, y),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=color,
        alpha=0.8,
    )


def _dress(axis: Axes, title: str, last_step: float) -> None:
    axis.set_title(title, loc="left", fontsize=12.5, fontweight="bold", color="#111827", pad=8)
    axis.set_xlim(-0.015 * last_step, last_step * 1.015)
    axis.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.xaxis.get_major_locator().set_params(integer=True, nbins=7)
    axis.tick_params(labelsize=_LABEL_SIZE, color="#9ca3af", labelcolor="#374151")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#9ca3af")


def _add_wall_time(axis: Axes, metrics: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> None:
    """A second x axis with round times: where in the steps they were passed."""
    from matplotlib.ticker import MaxNLocator

    known = {0.0: 0.0}
    for row in (*evaluations, *metrics):
        if math.isfinite(_number(row.get("wall_seconds"))):
            known[_number(row["step"])] = _number(row["wall_seconds"])
    steps = np.array(sorted(known))
    # A resumed run may have counted from zero again: time only goes forward.
    seconds = np.maximum.accumulate([known[step] for step in steps])
    if seconds[-1] <= 0:
        return
    unit, name = next((u, n) for u, n in ((3600, "h"), (60, "min"), (1, "s")) if seconds[-1] >= 3 * u or u == 1)
    marks = np.array(MaxNLocator(5, steps=[1, 2, 3, 5, 6, 10]).tick_values(0, seconds[-1] / unit))
    marks = marks[(marks * unit >= seconds[0]) & (marks * unit <= seconds[-1])]
    places = np.interp(marks * unit, seconds, steps)
    # Steps that got faster or slower crowd the ticks: leave out what would run into its neighbour.
    apart = [i for i in range(len(marks)) if i == 0 or places[i] - places[i - 1] > 0.09 * steps[-1]]
    top = axis.twiny()
    top.set_xlim(axis.get_xlim())
    top.set_xticks(places[apart], [f"{mark:g} {name}" for mark in marks[apart]])
    top.tick_params(labelsize=9, color="#9ca3af", labelcolor=_BASE, length=3, pad=2)
    axis.set_title(axis.get_title(loc="left"), loc="left", pad=24, fontsize=12.5, fontweight="bold")
    axis.set_title("upper axis: wall time", loc="right", pad=24, fontsize=9, color=_BASE)
    for side in ("right", "left", "bottom"):
        top.spines[side].set_visible(False)
    top.spines["top"].set_color("#d1d5db")


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Centered mean over about a twentieth of the run; gaps stay gaps and are not counted."""
    half = len(values) // 40
    smooth = np.full(len(values), np.nan)
    for index in np.flatnonzero(np.isfinite(values)):
        reach = min(half, index, len(values) - 1 - index)
        window = values[index - reach : index + reach + 1]
        smooth[index] = window[np.isfinite(window)].mean()
    return smooth


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """float64[rows], NaN where a row has no finite number."""
    return np.array([_number(row.get(key)) for row in rows], dtype=np.float64)


def _number(value: Any) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rlzero.report.curves import plot_curves

PANELS = {"accuracy": (0, 0), "format": (0, 1), "length": (1, 0), "reward": (1, 1)}


def make_metrics(steps: int):
    return [
        {
            "step": step,
            "accuracy": 0.2 + 0.7 * step / steps,
            "format": 0.7 + 0.3 * step / steps,
            "completion_length": 11 + step,
            "reward": 0.5 + step / steps,
            "reward/accuracy": 0.2 + 0.7 * step / steps,
            "wall_seconds": 1.5 * step,
        }
        for step in range(1, steps + 1)
    ]


EVALUATIONS = [
    {
        "step": 0,
        "wall_seconds": 0.0,
        "pass@1": 0.2,
        "pass@1_interval": [0.15, 0.25],
        "format": 0.7,
        "length": 11,
    },
    {
        "step": 20,
        "wall_seconds": 30.0,
        "pass@1": 0.9,
        "pass@1_interval": [0.87, 0.93],
        "format": 1.0,
        "length": 31,
    },
]


def colored_pixels(path, panel: str) -> int:
    """Pixels in one quarter of the picture that are neither white nor gray: ink of the curves."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    row, column = PANELS[panel]
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    quarter = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
    return int(((quarter.max(axis=-1) - quarter.min(axis=-1)) > 60).sum())


def test_picture_is_1200_pixels_wide_and_every_panel_shows_curves(tmp_path):
    path = tmp_path / "curves.png"
    plot_curves(make_metrics(40), EVALUATIONS, path)
    assert Image.open(path).size == (1200, 816)
    assert all(colored_pixels(path, panel) > 500 for panel in PANELS)
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_of_one_or_two_steps_is_visible(tmp_path, steps):
    path = tmp_path / "curves.png"
    plot_curves(make_metrics(steps), [], path)
    assert all(colored_pixels(path, panel) > 30 for panel in PANELS)


def test_a_step_between_two_gaps_is_visible(tmp_path):
    metrics = make_metrics(9)
    for index, row in enumerate(metrics):
        row["accuracy"] = [None, math.nan, 0.5][index % 3]
    path = tmp_path / "curves.png"
    plot_curves(metrics, [], path)
    assert colored_pixels(path, "accuracy") > 30


def test_missing_figures_leave_an_empty_panel_not_an_error(tmp_path):
    path = tmp_path / "curves.png"
    plot_curves([], [], path)
    assert all(colored_pixels(path, panel) == 0 for panel in PANELS)
    plot_curves([{"step": 1, "reward": None, "accuracy": 0.5}], [{"step": 0, "pass@1": None}], path)
    assert colored_pixels(path, "accuracy") > 30


def test_importing_the_module_does_not_import_matplotlib():
    code = "import sys, rlzero.report.curves; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_evaluation_of_one_problem_which_has_no_interval_is_drawn_without_one(tmp_path):
    lone = [{**row, "pass@1_interval": [None, None]} for row in EVALUATIONS]
    plot_curves(make_metrics(20), lone, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")

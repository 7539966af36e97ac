from __future__ import annotations

import io

import pytest
from rich.console import Console

from rlzero.report.tables import show_header, show_samples, show_summary


def make_console(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def make_sample(**changes):
    return {"prompt": "1+1=?", "answer": "2", "completion": "2", "correct": True} | changes


def test_header_shows_facts_in_order_with_large_numbers_shortened():
    console = make_console()
    show_header("R1-Zero", {"model": "a [b]", "parameters": 1_350_000, "steps": 60}, console)
    text = text_of(console)
    assert "a [b]" in text
    assert "1.35M" in text
    assert text.index("model") < text.index("parameters") < text.index("steps")


@pytest.mark.parametrize("width", [80, 200])
def test_summary_shows_base_trained_interval_and_difference_in_one_line_each(width):
    console = make_console(width)
    base = {"pass@1": 0.2, "pass@1_interval": [0.15, 0.25], "pass@8": 0.8, "format": 0.7, "length": 10.0}
    trained = {"pass@1": 0.95, "pass@1_interval": [0.93, 0.97], "pass@8": 0.9, "format": None, "length": 25.0}
    show_summary({"base": base, "trained": trained, "wall_seconds": 125.0, "config": {}}, console, "runs/zero")
    lines = {line.strip("│ ").split(" ")[0]: line.strip("│ ").split() for line in text_of(console).split("\n")}
    assert lines["pass@1"][1:] == ["0.200", "[0.150,", "0.250]", "0.950", "[0.930,", "0.970]", "+0.750"]
    assert lines["pass@8"][1:] == ["0.800", "0.900", "+0.100"]
    assert lines["format"][1:] == ["0.700", "–", "–"]
    assert lines["length"][1:] == ["10.0", "25.0", "×2.50"]
    assert "2:05" in text_of(console)
    assert "runs/zero" in text_of(console)


@pytest.mark.parametrize("width", [80, 200])
def test_samples_stand_side_by_side_marked_and_within_the_width(width):
    console = make_console(width)
    before = [make_sample(completion="[/bold] [red]x", correct=False)] * 4
    after = [make_sample(completion="word " * 1000)] * 4
    show_samples(before, after, console)
    text = text_of(console)
    assert max(len(line) for line in text.split("\n")) <= width
    assert text.count("✗ wrong") == text.count("✓ right") == 3
    assert text.count("[/bold] [red]x") == 3
    assert "characters left out" in " ".join(text.replace("│", " ").split())


def test_samples_of_different_problems_are_refused():
    with pytest.raises(ValueError, match="same problems"):
        show_samples([make_sample()], [make_sample(prompt="2+2=?")], make_console())

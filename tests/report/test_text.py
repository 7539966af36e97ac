from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from rlzero.report.text import as_count, as_duration, as_figure, cut_middle, sparkline, visible


@given(st.text())
def test_visible_text_cannot_steer_a_terminal(text):
    shown = visible(text)
    assert len(shown) == len(text)
    assert all(unicodedata.category(c) != "Cc" or c in "\n\t" for c in shown)
    assert "\u202e" not in shown


@given(st.lists(st.one_of(st.none(), st.floats(allow_infinity=True, width=32))), st.integers(0, 40))
def test_sparkline_fits_its_width_for_any_series(values, width):
    assert len(sparkline(values, width)) == min(width, len(values))


def test_sparkline_climbs_from_the_lowest_to_the_highest_block_and_shows_gaps():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0.0, None, 1.0], 3) == "▁ █"
    assert sparkline([0.5, 1.0], 2, low=0.0) == "▅█"
    assert sparkline([3.0, 3.0], 2) == "▁▁"


def test_long_text_keeps_its_beginning_and_its_end_and_says_what_is_missing():
    text = "a" * 500 + "b" * 500
    short = cut_middle(text, 300, 10)
    assert short.startswith("a" * 200)
    assert short.endswith("b" * 100)
    assert "700 characters left out" in short
    lines = "\n".join(str(i) for i in range(100))
    assert cut_middle(lines, 10_000, 9).split("\n") == [
        *"012345",
        "… 91 lines left out …",
        *("97", "98", "99"),
    ]
    assert cut_middle("short", 300, 10) == "short"


def test_figures_are_short_and_absent_ones_are_dashes():
    assert [as_count(n) for n in (999, 1_350_000, 30_500_000_000)] == ["999", "1.35M", "30.5B"]
    assert [as_duration(s) for s in (4.2, 65, 3725)] == ["0:04", "1:05", "1:02:05"]
    assert [as_figure(v, ".1f") for v in (None, float("nan"), 0.25, "x")] == ["–", "–", "0.2", "–"]

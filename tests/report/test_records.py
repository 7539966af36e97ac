"""Figures read from the records of a run."""

from __future__ import annotations

from rlzero.report.records import seconds_to_reach


def test_time_to_a_goal_counts_from_the_end_of_the_base_evaluation():
    rows = [
        {"kind": "base", "pass@1": 0.25, "wall_seconds": 12.0},
        {"kind": "quick", "pass@1": 0.8, "wall_seconds": 30.0},
        {"kind": "quick", "pass@1": 0.9, "wall_seconds": 41.0},
        {"kind": "trained", "pass@1": 0.95, "wall_seconds": 60.0},
    ]
    assert seconds_to_reach(0.9, rows) == 29.0
    assert seconds_to_reach(0.99, rows) is None
    assert seconds_to_reach(0.9, rows[1:]) == 41.0  # nothing was measured before training

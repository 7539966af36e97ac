"""Run directory, progress display, plots."""

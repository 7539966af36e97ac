"""Benchmarks and the evaluation command, `python -m eval`."""

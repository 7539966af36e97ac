"""Measuring a model: sampling it on problems, scoring what it says, and how sure the figures are."""

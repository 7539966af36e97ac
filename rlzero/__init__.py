"""rlzero: R1-Zero-style reinforcement learning for reasoning."""

__version__ = "0.1.0"

"""Rule-based rewards: the verifier and the reward functions. Imports neither torch nor sympy."""

from __future__ import annotations

from .verify import GoldReport, Verdict, check_gold, explain, extract_answer, verify, verify_many

__all__ = ["GoldReport", "Verdict", "check_gold", "explain", "extract_answer", "verify", "verify_many"]

"""Verification of answers: text → tokens → typed tree → exact canonical form → comparison; sympy, in a process of
its own, only for what exact forms leave open. Imports nothing of the project and, in this process, not sympy.
"""

from __future__ import annotations

from .api import GoldReport, Verdict, check_gold, explain, verify, verify_many
from .extract import extract_answer

__all__ = ["GoldReport", "Verdict", "check_gold", "explain", "extract_answer", "verify", "verify_many"]

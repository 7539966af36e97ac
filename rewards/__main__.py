"""The command line: `python -m rewards verify GOLD ANSWER` and `python -m rewards audit TARGET`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rewards import explain


def main(argv: Sequence[str]) -> int:
    """Run one command. verify: 0 equal, 1 not. audit: 0 passed, 1 not. 2: wrong usage."""
    if argv and argv[0] == "audit":
        from rewards import audit  # not for those who only verify

        return audit.main(list(argv[1:]))
    parser = argparse.ArgumentParser(prog="python -m rewards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="compare an answer with a gold answer and say which rule decided")
    verify.add_argument("gold", help="the gold answer")
    verify.add_argument("answer", help="the answer to judge; write -- before one that begins with a minus sign")
    verify.add_argument("--timeout", type=float, default=1.0, help="seconds that sympy may take (default: 1)")
    verify.add_argument("--abs-tol", type=float, default=0.0, help="accept a number this close (default: exact)")
    verify.add_argument("--rel-tol", type=float, default=0.0, help="the same, relative to the larger number")
    commands.add_parser("audit", help="throw hostile and hacked completions at a reward function", add_help=False)
    arguments = parser.parse_args(argv)
    verdict = explain(
        arguments.gold,
        arguments.answer,
        timeout=arguments.timeout,
        abs_tol=arguments.abs_tol,
        rel_tol=arguments.rel_tol,
    )
    print("equal" if verdict.equal else "not equal")
    print(f"  rule    {verdict.rule}")
    print(f"  gold    {verdict.gold}")
    print(f"  answer  {verdict.answer}")
    if verdict.reason:
        print(f"  reason  {verdict.reason}")
    print(f"  time    {verdict.seconds * 1e6:.0f} µs")
    return 0 if verdict.equal else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

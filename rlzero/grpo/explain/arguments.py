"""`rlzero explain recipe.yaml [--any_option value]`: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
import json
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="YAML file of a GRPO run")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--config_file", help="file of accelerate launch: processes, GPU or CPU, FSDP or DDP")
    parser.add_argument("--num_processes", type=int, help="of accelerate launch; wins over the file")
    parser.add_argument("--completion_length", type=float, help="mean tokens of an answer, where you know it")
    parser.epilog = "Every other option is one of the recipe and wins over its file."


def run(arguments: argparse.Namespace) -> int:
    """arguments.overrides: what was on the command line beside. Exit code: 0; 2 for bad input."""
    from rlzero.grpo.explain.explanation import as_data, explain

    try:
        found = explain(
            arguments.recipe,
            arguments.overrides,
            config_file=arguments.config_file,
            num_processes=arguments.num_processes,
            completion_length=arguments.completion_length,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(as_data(found), indent=2))
        return 0
    from rlzero.grpo.explain.page import show
    from rlzero.report.text import make_console

    console = make_console()
    if not console.is_terminal:
        console.width = 120
    show(found, console)
    return 0

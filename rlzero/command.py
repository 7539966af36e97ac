"""The command line of `rlzero`: one subcommand for each thing that is no run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rlzero.models.overview import CacheSaving, Overview
    from rlzero.models.published import Comparison, Figure

_WIDTH = 140  # of the table of presets: in a file or a pipe there is no terminal to fit


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 2 for bad input, told on stderr."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _parser(argv)
    arguments, rest = parser.parse_known_args(argv)
    if rest and not hasattr(arguments, "recipe"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.overrides = rest
    return arguments.run(arguments)


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """For this command line: a subcommand's own module is imported only where it is called."""
    parser = argparse.ArgumentParser(prog="rlzero", description="Models of the MoE line and recipes: their figures.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    models = commands.add_parser("models", help="the presets, their size and cost, and the published figures")
    models.add_argument("--json", action="store_true", help="as JSON, with sources")
    models.add_argument("--tiny", action="store_true", help="the variants that train on a CPU in minutes")
    models.set_defaults(run=_models)
    convert = commands.add_parser("convert", help="a checkpoint of a native class to ours, or ours to native")
    if argv[:1] == ["convert"]:
        from rlzero.models.convert import add_arguments, run

        add_arguments(convert)
        convert.set_defaults(run=run)
    explain = commands.add_parser(
        "explain", help="what a recipe will do and cost, before anything is loaded", allow_abbrev=False
    )
    if argv[:1] == ["explain"]:
        from rlzero.grpo.explain import arguments

        arguments.add_arguments(explain)
        explain.set_defaults(run=arguments.run)
    return parser


def _models(arguments: argparse.Namespace) -> int:
    from rlzero.models.overview import as_data, cache_savings, overviews

    if arguments.json:
        print(json.dumps(as_data(arguments.tiny), indent=2))
        return 0
    from rlzero.report.text import make_console

    console = make_console()
    if not console.is_terminal:
        console.width = _WIDTH
    _show(overviews(arguments.tiny), cache_savings(), console)
    return 0


def _show(presets: Sequence[Overview], savings: Sequence[CacheSaving], console: Console) -> None:
    """The table, what its columns mean, a remark for each figure that needs one, and V2's cache."""
    from rlzero.models.published import CONTEXT

    remarks = [(preset.name, one) for preset in presets for one in preset.published if one.remark]
    numbers = {one.figure: number for number, (_, one) in enumerate(remarks, start=1)}
    console.print(_table(presets, numbers))
    lines = [
        "Parameters count the input embedding and the head; modules for multi-token prediction stand apart (+). Below "
        "ours: the published figure and how far ours is from it; ≈ where ours rounds to its digits.",
        f"Cache: bytes a token in bfloat16. FLOPs: forward pass of one token that attends to {CONTEXT} positions, or "
        "as many as the model has.",
    ]
    lines += [f"({number}) {name}, {_remark(one)}." for number, (name, one) in enumerate(remarks, start=1)]
    lines += [f"DeepSeek-V2's cache is {_saving(saving)}." for saving in savings]
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _table(presets: Sequence[Overview], numbers: dict[Figure, int]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="bold")
    for name in ("preset, router", "mixer, experts"):
        table.add_column(name, overflow="fold")
    for name in ("total", "active", "cache", "FLOPs"):
        table.add_column(name, justify="right")
    table.add_column("native class, rollouts", overflow="fold")
    for preset in presets:
        table.add_row(*_cells(preset, numbers))
    return table


def _cells(preset: Overview, numbers: dict[Figure, int]) -> list[Text]:
    """One row: ours above, in dim below what belongs to it."""
    of: dict[str, list[str]] = {"total": [], "active": [], "flops": [], "mtp": []}
    for one in preset.published:
        about = "≈" if one.rounds and not one.close else ""
        mark = f" ({numbers[one.figure]})" if one.figure in numbers else ""
        of[one.figure.quantity].append(f"{one.figure.printed} {one.deviation:+.1%}{about}{mark}")
    parameters = preset.parameters
    extra = [f"+{_short(parameters.mtp)} MTP", *of["mtp"]] if parameters.mtp else []
    shared = f" + {preset.shared} shared" if preset.shared else ""
    experts = [f"{preset.chosen} of {preset.routed}{shared}"] if preset.router else []
    bound = [] if preset.cache_per_sequence is None else [f"≤ {_short(preset.cache_per_sequence, 'kMGT')}"]
    return [
        _cell(preset.name, [*preset.aliases, preset.router or "no experts"]),
        _cell(preset.attention, experts),
        _cell(_short(parameters.total), [*of["total"], *extra]),
        _cell(_short(parameters.active), of["active"]),
        _cell(f"{preset.cache_per_token:,}", bound),
        _cell(_short(preset.flops, "kMGT"), of["flops"]),
        _cell(preset.native or "–", [preset.rollout]),
    ]


def _cell(figure: str, below: Sequence[str]) -> Text:
    from rich.text import Text

    return Text.assemble(figure, *((f"\n{line}", "dim") for line in below))


def _remark(one: Comparison) -> str:
    quantity = {"flops": "FLOPs", "mtp": "MTP"}.get(one.figure.quantity, one.figure.quantity)
    return f"{quantity}: ours {_short(one.ours)}, {one.figure.printed} in {one.figure.source}; {one.remark}"


def _saving(saving: CacheSaving) -> str:
    claim = "" if saving.claim is None else f" (published: {saving.claim:.1%})"
    return f"{saving.saved:.1%} smaller than that of {saving.what}{claim}"


def _short(number: float, units: str = "kMBT") -> str:
    """Four digits: 671026404352 is 671B, 15706484224 is 15.71B."""
    for power, unit in reversed([*enumerate(units, start=1)]):
        if number >= 1000**power:
            return f"{number / 1000**power:.4g}{unit}"
    return f"{number:.4g}"

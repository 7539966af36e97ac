"""The page that `rlzero explain` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlzero.report.tables import show_header
from rlzero.report.text import as_count, as_duration, visible

if TYPE_CHECKING:
    from rlzero.grpo.explain.explanation import Explanation
    from rlzero.grpo.explain.objective import Term

_GIB = 2**30


def show(found: Explanation, console: Console) -> None:
    show_header(f"what {found.recipe.run.output_dir} will be", _facts(found), console)
    for title, rows in (
        ("a rollout and its steps", _steps(found)),
        ("tokens of a step", _tokens(found)),
        ("the objective", _objective(found.terms)),
        (f"memory of a process: about {_gib(found.memory.peak)} at the peak", _memory(found)),
        (f"time: about {_duration(found.duration.run)}", _time(found)),
    ):
        console.print(Text(f"\n{title}", "bold"))
        console.print(_grid(rows))


def _facts(found: Explanation) -> dict[str, str]:
    model, parameters = found.architecture, found.architecture.parameters
    active = f", {as_count(parameters.active)} active" if parameters.active != parameters.total else ""
    experts = f"; {model.chosen} of {model.experts} experts a token" if model.experts else ""
    return {
        "model": f"{found.recipe.model.model_name_or_path}: {as_count(parameters.total)} parameters{active}, "
        f"{model.layers} layers of width {model.hidden}, {model.vocabulary:,} words{experts}",
        "trained": "all of them" if model.trained >= parameters.total else f"adapters, {as_count(model.trained)}",
        "problems": found.recipe.data.dataset_name,
        "engine": found.engine,
        "on": found.place.words + (" (none is at hand: its data sheet)" if found.place.assumed else ""),
    }


def _steps(found: Explanation) -> list[tuple[str, str]]:
    plan, grpo, selection = found.plan, found.recipe.grpo, found.recipe.selection
    a_process = f", {plan.prompts_per_process} problems on each of {plan.processes} processes"
    rollout = f"{plan.prompts_per_rollout} problems × {plan.num_generations} completions = "
    rollout += f"{plan.answers_per_rollout:,} answers{a_process if plan.processes > 1 else ''}"
    if selection.dynamic_sampling:
        rollout += f"; dynamic sampling asks at most {plan.prompts_at_most:,} problems until its groups have signal"
    pieces = f"{plan.minibatches} minibatches × {plan.iterations} iterations" if plan.updates_per_rollout > 1 else "one"
    after = "after the one that sampled" if plan.staleness else ": on-policy"
    steps = f"{plan.updates_per_rollout} ({pieces}), each on {plan.prompts_per_step} problems and "
    steps += f"{plan.answers_per_step:,} answers"
    full, quick = plan.full_evaluations, plan.quick_evaluations
    if plan.rollouts_ahead:
        after += ": the next rollout is sampled while this one is trained on"
    return [
        ("a rollout", rollout),
        ("optimizer steps on it", steps),
        ("staleness", f"at most {plan.staleness} optimizer steps {after}" if plan.staleness else f"0{after}"),
        (
            "microbatches of a step",
            f"about {found.work.microbatches} on each process, at most {found.work.microbatches_at_most}, of at most "
            f"{grpo.tokens_per_microbatch:,} tokens each; their gradients accumulate",
        ),
        ("in all", f"{plan.steps:,} steps on {plan.rollouts:,} rollouts, {plan.answers:,} answers"),
        (
            "evaluations",
            f"{full} of {plan.full_samples:,} answers before and after, {quick} of {plan.quick_samples:,} between",
        ),
        ("checkpoints", f"{plan.checkpoints} in turn, the last {found.recipe.run.save_total_limit} kept"),
    ]


def _tokens(found: Explanation) -> list[tuple[str, str]]:
    lengths, work, processes = found.lengths, found.work, found.plan.processes
    shared = "a group's prompt run once" if work.shared else "each answer with its own prompt"
    return [
        ("prompt", f"{lengths.prompt:.0f}, at most {lengths.longest_prompt:,} ({lengths.prompt_source})"),
        ("completion", f"{lengths.completion:.0f}, at most {lengths.limit:,} ({lengths.completion_source})"),
        (
            "of a step",
            f"{as_count(processes * work.prompt_tokens)} of prompts and {as_count(processes * work.completion_tokens)} "
            f"of completions; the model runs {as_count(processes * work.run)} of them ({shared}), at most "
            f"{as_count(processes * work.at_most)}",
        ),
        ("groups with signal", f"{lengths.signal:.0%} of them are trained on, which the time below counts with"),
    ]


def _objective(found: list[Term]) -> list[tuple[str, str]]:
    return [(one.part, f"{one.setting}: {one.formula}\n[{one.where}]") for one in found]


def _memory(found: Explanation) -> list[tuple[str, str]]:
    rows = [(part.name, f"{_gib(part.bytes):>10}  {part.how}") for part in found.memory.parts]
    room = found.place.memory
    if room and found.memory.peak > room:
        rows.append(("too much", f"{_gib(room):>10}  is what {found.place.name} has: cut the model between more "
                     "processes (FSDP), lower tokens_per_microbatch or vllm_gpu_memory_utilization"))  # fmt: skip
    return rows


def _time(found: Explanation) -> list[tuple[str, str]]:
    spent = found.duration
    parts = f"generation {_seconds(spent.generation)}, reward {_seconds(spent.reward)}, training "
    parts += f"{_seconds(spent.training)}, sync {_seconds(spent.sync)}"
    return [
        ("a rollout with its steps", f"{_seconds(spent.rollout)}: {parts}"),
        ("a step", _seconds(spent.step)),
        (
            "the run",
            f"{_duration(spent.run)}: start {_seconds(spent.start)}, {spent.rollouts:,} rollouts "
            f"{_duration(spent.rollouts * spent.rollout)}, evaluations {_duration(spent.evaluations)}",
        ),
        ("how", found.rates.how),
    ]


def _grid(rows: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(label), Text(visible(value)))
    return grid


def _gib(number: float) -> str:
    return f"{number / _GIB:.2f} GiB" if number >= 0.1 * _GIB else f"{number / 2**20:.1f} MiB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else _duration(seconds)


def _duration(seconds: float) -> str:
    return f"{seconds / 86400:.3g} days" if seconds > 2 * 86400 else as_duration(seconds)

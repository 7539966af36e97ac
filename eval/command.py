"""The command line of `python -m eval`: check everything cheap first, then sample, score and report."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from data.template_file import saved_template
from data.templates import Template, get_template
from eval.benchmarks import BENCHMARKS, Loaded, load_benchmarks
from eval.report import TaskReport, show_table, write_results
from rlzero.measure.evaluate import evaluate
from rlzero.measure.text import encode_prompt, unknown_characters
from rlzero.rollout.types import Engine, Sampling

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

DEFAULT_TEMPLATE = "r1_zero"
# Where a model does not say how much text it was made for.
_UNKNOWN_CONTEXT = 4096


class CommandError(ValueError):
    """A wrong argument."""


@dataclass(frozen=True)
class _Plan:
    """Everything that is decided before the weights are loaded.

    context: how many tokens prompt and completion may have together.
    """

    template: Template
    tokenizer: PreTrainedTokenizerBase
    revision: str | None
    dtype: torch.dtype
    tasks: list[Loaded]
    sampling: Sampling
    context: int


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 2 for bad input, told on stderr before anything long starts; 1 for a scorer that fails."""
    arguments = _parser().parse_args(argv)
    try:
        plan = _plan(arguments)
        engine = _engine(arguments, plan)
    except ValueError as error:
        print(f"eval: {error}", file=sys.stderr)
        return 2
    console = Console()
    try:
        reports = [_run(task, engine, plan, console) for task in plan.tasks]
    except ValueError as error:
        print(f"eval: {error}", file=sys.stderr)
        return 1
    finally:
        engine.close()
    show_table(reports, console)
    if arguments.output_dir is not None:
        write_results(reports, _setup(arguments, plan, engine), arguments.output_dir)
        console.print(f"results and samples in {arguments.output_dir}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval",
        description="Sample a model on benchmarks and report pass@1, pass@k and maj@n with 95% intervals "
        "clustered by problem.",
    )
    add = parser.add_argument
    add("--model", required=True, help="folder or hub id of a causal language model")
    add("--revision", help="hub revision of the model")
    add(
        "--tasks",
        required=True,
        help=f"separated by commas, of: {', '.join(BENCHMARKS)}, gym:<task of reasoning-gym>",
    )
    add("--samples", type=int, default=8, help="completions per problem (%(default)s)")
    add("--limit", type=int, help="problems per task: a random choice, the same for the same seed")
    add("--data-dir", type=Path, help="folder with <task>/test.jsonl; without it, problems come from the hub")
    add("--output-dir", type=Path, help="folder for results.json and samples.parquet; replaces those there")
    add("--rollout", default="auto", help="engine: vllm, builtin, or auto, which is vLLM where it imports")
    add(
        "--template",
        help="name, or text with {prompt}; without it the one saved with the model, otherwise r1_zero",
    )
    add("--temperature", type=float, default=1.0, help="0 is greedy (%(default)s)")
    add("--top-p", type=float, default=1.0, help="nucleus sampling; 1 is off (%(default)s)")
    add("--top-k", type=int, default=0, help="0 is off (%(default)s)")
    add("--max-tokens", type=int, help="new tokens per completion; without it, what the context leaves")
    add("--seed", type=int, default=0, help="of sampling and of the choice of problems (%(default)s)")
    add("--dtype", default="auto", help="float32, bfloat16, float16 or auto, which is the checkpoint's")
    add("--max-num-seqs", type=int, default=256, help="sequences decoded at a time (%(default)s)")
    add("--gpu-memory-utilization", type=float, default=0.85, help="vLLM's share of a GPU (%(default)s)")
    add("--trust-remote-code", action="store_true", help="run code that comes with the model")
    return parser


def _plan(arguments: argparse.Namespace) -> _Plan:
    """Check the arguments, cheap things first. Raises ValueError."""
    for name in ("samples", "limit", "max_tokens", "max_num_seqs"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise CommandError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")
    if arguments.temperature < 0 or not 0 < arguments.top_p <= 1 or arguments.top_k < 0:
        raise CommandError(
            "--temperature must be at least 0, --top-p above 0 and at most 1, --top-k at least 0 (off), got "
            f"{arguments.temperature}, {arguments.top_p} and {arguments.top_k}."
        )
    names = list(dict.fromkeys(name.strip() for name in arguments.tasks.split(",") if name.strip()))
    if not names:
        raise CommandError(f"--tasks names no task: choose among {', '.join(BENCHMARKS)}.")
    if arguments.output_dir is not None:
        _check_writable(arguments.output_dir)
    template = _template(arguments)
    tasks = load_benchmarks(
        names, limit=arguments.limit, data_dir=arguments.data_dir, seed=arguments.seed, template=template
    )

    from rlzero.models.load import check_model, context_length, load_tokenizer
    from rlzero.rollout.make import resolve_engine

    resolve_engine(arguments.rollout)
    config = check_model(arguments.model, arguments.trust_remote_code, arguments.revision)
    dtype = _dtype(arguments.dtype, config)
    tokenizer = load_tokenizer(arguments.model, arguments.trust_remote_code, arguments.revision)
    limit = context_length(config)
    lengths = [len(encode_prompt(template, problem.prompt, tokenizer)) for task in tasks for problem in task.problems]
    fitting = [length for length in lengths if limit is None or length < limit]
    if not fitting:
        raise CommandError(
            f"no prompt fits into the model's {limit} tokens: the shortest of {len(lengths)} has "
            f"{min(lengths)}. Choose a shorter --template or a model with a longer context."
        )
    # Each completion also ends where the context does.
    max_tokens = arguments.max_tokens or (limit or _UNKNOWN_CONTEXT) - min(fitting)
    sampling = Sampling(
        n=arguments.samples,
        max_tokens=max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        seed=arguments.seed,
    )
    needed = max(fitting) + max_tokens
    return _Plan(
        template=template,
        tokenizer=tokenizer,
        # Of a hub model, the commit that the branch stands for today.
        revision=getattr(config, "_commit_hash", None) or arguments.revision,
        dtype=dtype,
        tasks=tasks,
        sampling=sampling,
        context=needed if limit is None else min(limit, needed),
    )


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CommandError(
            f"cannot write to the output directory {str(folder)!r}: {error.strerror or error}. "
            "Name another --output-dir."
        ) from error


def _template(arguments: argparse.Namespace) -> Template:
    if arguments.template is not None:
        return get_template(arguments.template)
    return saved_template(arguments.model) or get_template(DEFAULT_TEMPLATE)


def _engine(arguments: argparse.Namespace, plan: _Plan) -> Engine:
    """The engine with the weights in it; vLLM loads them by itself."""
    import torch

    from rlzero.models.load import load_model, model_skeleton
    from rlzero.rollout.make import make_engine, resolve_engine

    path = _at_revision(arguments.model, plan.revision)

    def make(kind: str) -> Engine:
        if kind == "builtin":
            model = load_model(path, plan.dtype, trust_remote_code=arguments.trust_remote_code)
            model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        else:
            model = model_skeleton(path, arguments.trust_remote_code)
        return make_engine(
            kind,
            model=model,
            model_path=path,
            tokenizer=plan.tokenizer,
            max_model_len=plan.context,
            max_num_seqs=arguments.max_num_seqs,
            dtype=plan.dtype,
            seed=arguments.seed,
            gpu_memory_utilization=arguments.gpu_memory_utilization,
        )

    wanted = resolve_engine(arguments.rollout)
    engine = make("builtin" if wanted == "builtin" else arguments.rollout)
    # vLLM is installed but does not import: the built-in engine needs the weights.
    return make("builtin") if engine.name == "builtin" and wanted != "builtin" else engine


def _at_revision(model: str, revision: str | None) -> str:
    """A folder with the model: engines load what they are given, and that must be this revision."""
    if Path(model).is_dir() or revision is None:
        return model
    from huggingface_hub import snapshot_download

    return snapshot_download(model, revision=revision)


def _dtype(name: str, config: PretrainedConfig) -> torch.dtype:
    import torch

    if name == "auto":
        return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise CommandError(f"unknown --dtype {name!r}: choose auto, {', '.join(known)}.")
    return known[name]


def _run(task: Loaded, engine: Engine, plan: _Plan, console: Console) -> TaskReport:
    started = time.perf_counter()
    with console.status(f"{task.name}: {len(task.problems)} problems × {plan.sampling.n} samples"):
        result = evaluate(
            engine, plan.tokenizer, task.problems, plan.template, plan.sampling, max_model_len=plan.context
        )
    unknown = sum(unknown_characters(plan.template, p.prompt, plan.tokenizer) for p in task.problems)
    return TaskReport(task, result, unknown, time.perf_counter() - started)


def _setup(arguments: argparse.Namespace, plan: _Plan, engine: Engine) -> dict[str, Any]:
    return {
        "model": arguments.model,
        "revision": plan.revision,
        "engine": engine.name,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "context": plan.context,
        "seed": arguments.seed,
        "limit": arguments.limit,
    }

"""The benchmarks that `python -m eval` knows: where their problems come from and how a row becomes one.

The project ships no benchmark's text: rows come from a folder of the user's or from the hub at a fixed revision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from data.arithmetic import Arithmetic
from data.countdown import Countdown
from data.gym import Gym
from data.problem import Problem, ProblemSource
from data.table import TableError, gold_text, read_rows
from data.templates import Template

# Held-out problems of a generator, where --limit does not say otherwise.
GENERATED_PROBLEMS = 256
_FILES = ("{name}/test.jsonl", "{name}/test.parquet", "{name}.jsonl", "{name}.parquet")


class BenchmarkError(ValueError):
    """A task that does not exist or whose problems cannot be had."""


@dataclass(frozen=True)
class Hub:
    """A data set of the hub, pinned so that the problems stay the same ones."""

    name: str
    split: str
    revision: str
    config_name: str | None = None


@dataclass(frozen=True)
class Loaded:
    """A benchmark's problems and where they came from, as it goes into the report."""

    name: str
    problems: list[Problem]
    origin: Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """Problems read from rows. problem: what makes a `Problem` of a row, scorer included."""

    name: str
    hub: Hub
    problem: Callable[[Mapping[str, Any]], Problem]

    def load(self, limit: int | None, data_dir: Path | None, seed: int) -> Loaded:
        """All problems, or a random `limit` of them that is the same for the same seed."""
        if data_dir is None:
            hub = self.hub
            try:
                rows = read_rows(hub.name, hub.split, config_name=hub.config_name, revision=hub.revision)
            except TableError as error:
                raise BenchmarkError(
                    f"task {self.name!r}: {error} Without a network, give its file with --data-dir."
                ) from error
            origin: dict[str, Any] = {"hub": hub.name, "split": hub.split, "revision": hub.revision}
        else:
            path = self._file(data_dir)
            rows = read_rows(str(path), "train")
            origin = {"file": str(path)}
        problems = [self.problem(row) for row in rows]
        if limit is not None and limit < len(problems):
            chosen = sorted(Random(f"limit {seed}").sample(range(len(problems)), limit))
            problems = [problems[i] for i in chosen]
        return Loaded(self.name, problems, origin)

    def _file(self, data_dir: Path) -> Path:
        paths = [data_dir / pattern.format(name=self.name) for pattern in _FILES]
        for path in paths:
            if path.is_file():
                return path
        raise BenchmarkError(
            f"task {self.name!r} needs one of the files {', '.join(map(str, paths))}, and none is there. "
            f"Put it there, or leave out --data-dir to take the problems from the hub ({self.hub.name})."
        )


@dataclass(frozen=True)
class Generated:
    """Held-out problems of a generator. source: may depend on the template, which is how it asks."""

    name: str
    source: Callable[[Template], ProblemSource]

    def load(self, limit: int | None, seed: int, template: Template) -> Loaded:
        """`limit` distinct problems that no training stream yields."""
        source = self.source(template)
        problems = source.heldout(limit or GENERATED_PROBLEMS, seed)
        if not problems:
            raise BenchmarkError(
                f"task {self.name!r} has no held-out problems: its questions are too few to split. Choose another task."
            )
        return Loaded(self.name, problems, {"generator": repr(source), "seed": seed})


def load_benchmarks(
    names: Iterable[str], *, limit: int | None, data_dir: Path | None, seed: int, template: Template
) -> list[Loaded]:
    """The problems of every task, in the order named. Raises ValueError before any model is loaded."""
    names = list(names)
    tasks = [find(name) for name in names]
    if data_dir is not None and not data_dir.is_dir():
        raise BenchmarkError(f"data directory {str(data_dir)!r} does not exist. Check the path.")
    return [
        task.load(limit, seed, template) if isinstance(task, Generated) else task.load(limit, data_dir, seed)
        for task in tasks
    ]


def find(name: str) -> Benchmark | Generated:
    """The benchmark of that name. Raises BenchmarkError, which lists those that exist."""
    if name.startswith("gym:"):
        return Generated(name, lambda template: Gym(name.removeprefix("gym:")))
    if name not in BENCHMARKS:
        raise BenchmarkError(
            f"unknown evaluation task {name!r}: choose among {', '.join(BENCHMARKS)}, and gym:<task> for any "
            "task of reasoning-gym."
        )
    return BENCHMARKS[name]


def _countdown(template: Template) -> Countdown:
    # The short words mean nothing to a model that was not trained on them.
    return Countdown(phrasing="short" if template.name == "short" else "tinyzero")


def _question_and_answer(row: Mapping[str, Any]) -> Problem:
    question = row.get("problem") or row.get("question")
    if not question or row.get("answer") is None:
        raise BenchmarkError(f"a row needs a problem or question, and an answer: it has {', '.join(row)}.")
    return Problem(str(question).strip(), gold_text(row["answer"]))


def _aime(row: Mapping[str, Any]) -> Problem:
    problem = _question_and_answer(row)
    return Problem(problem.prompt, str(int(problem.answer)))  # some files write 025


def _minerva(row: Mapping[str, Any]) -> Problem:
    # The hub has the answer by itself, the original files only the worked solution with its box.
    return _question_and_answer({**row, "answer": row.get("answer") or row.get("solution")})


def _olympiad(row: Mapping[str, Any]) -> Problem:
    parts = [row.get("context"), row["question"]]
    kept = ("answer_type", "is_multiple_answer", "unit", "error")
    return Problem(
        prompt="\n".join(str(part).strip() for part in parts if part),
        answer=gold_text(row["final_answer"]),
        columns={key: row.get(key) for key in kept},
    )


def _svamp(row: Mapping[str, Any]) -> Problem:
    body = str(row["Body"]).strip()
    return Problem(
        prompt=f"{body}{'' if body.endswith(('.', '?', '!', ',')) else '.'} {str(row['Question']).strip()}",
        answer=gold_text(row["Answer"]),
    )


BENCHMARKS: Mapping[str, Benchmark | Generated] = {
    benchmark.name: benchmark
    for benchmark in (
        Generated("arithmetic", lambda template: Arithmetic()),
        Generated("countdown", _countdown),
        Benchmark(
            "gsm8k",
            Hub("openai/gsm8k", "test", "740312add88f781978c0658806c59bc2815b9866", "main"),
            _question_and_answer,
        ),
        Benchmark(
            "math500",
            Hub("HuggingFaceH4/MATH-500", "test", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
            _question_and_answer,
        ),
        Benchmark(
            "aime24",
            Hub("HuggingFaceH4/aime_2024", "train", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a"),
            _aime,
        ),
        Benchmark(
            "amc23",
            Hub("math-ai/amc23", "test", "80815d37005feb82cd7f8fbc6901d5d3eff43057"),
            _question_and_answer,
        ),
        Benchmark(
            "minerva_math",
            Hub("math-ai/minervamath", "test", "ee46ddc498933b1977577953250ca5c66be64f96"),
            _minerva,
        ),
        Benchmark(
            "olympiadbench",
            Hub(
                "Hothan/OlympiadBench",
                "train",
                "91184b52131e7fc9455fef848035173aea8cc01a",
                "OE_TO_maths_en_COMP",
            ),
            _olympiad,
        ),
        Benchmark("svamp", Hub("ChilleD/SVAMP", "test", "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef"), _svamp),
    )
}

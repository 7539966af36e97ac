"""Cold-start thoughts: questions with a whole, worked turn of the assistant, to fine-tune on before RL.

Generated for the embedded tasks, read from a user's table, or taken from what a run itself sampled and verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from data.chains import written_out
from data.corpus import ARITHMETIC, clean_chain, search
from data.table import TableError, read_rows
from rlzero.models.load import may_be_hub_id

ROLLOUTS = "rollouts"
_ROLLOUT_COLUMNS = ("step", "prompt", "completion", "finish_reason", "correct", "reward/format")
# So many draws in a row that bring no new question mean that there are no more.
_MAX_REPEATS = 1000


class ThoughtError(ValueError):
    """Thoughts that cannot be used: the message says which, why, and what to do."""


@dataclass(frozen=True)
class Thought:
    """What supervised fine-tuning learns from.

    prompt: the bare question, as in `Problem`; the template is put around it later.
    completion: the assistant's whole turn as reward functions see it, the template's prefill included.
    """

    prompt: str
    completion: str


def load_thoughts(name: str, count: int | None, seed: int, per_problem: int, from_step: int) -> list[Thought]:
    """The thoughts that `name` stands for: an embedded task, a run directory, or a file or hub data set.

    count: how many to generate; of a table or run, how many to draw from it at most (None: all).
    per_problem, from_step: see `verified_samples`. Raises ThoughtError or TableError.
    """
    if name in GENERATORS:
        if count is None:
            raise ThoughtError(f"{name} generates its thoughts without end: say how many with num_thoughts.")
        return generated_thoughts(name, count, seed)
    if not Path(name).exists() and not may_be_hub_id(name):
        raise ThoughtError(
            f"there are no thoughts at {name!r}: name {', '.join(GENERATORS)}, a run directory, an existing "
            "JSONL or Parquet file, or a hub id (owner/name)."
        )
    is_run = (Path(name) / ROLLOUTS).is_dir()
    found = verified_samples(name, per_problem, from_step) if is_run else read_thoughts(name)
    if count is None or count >= len(found):
        return found
    chosen = sorted(Random(f"thoughts of {name} {seed}").sample(range(len(found)), count))
    return [found[i] for i in chosen]


def generated_thoughts(task: str, count: int, seed: int) -> list[Thought]:
    """`count` correct, patient thoughts of an embedded task, all of different questions, none of them held out."""
    found: dict[str, Thought] = {}
    repeats = 0
    for thought in _endless(task, seed):
        repeats = repeats + 1 if thought.prompt in found else 0
        if repeats > _MAX_REPEATS:
            raise ThoughtError(f"{task} has only {len(found)} different questions, and {count} are asked for.")
        found.setdefault(thought.prompt, thought)
        if len(found) == count:
            break
    return list(found.values())


def read_thoughts(name: str) -> list[Thought]:
    """The rows of a table with the columns `prompt` and `completion`, or `messages`. Raises ThoughtError.

    A prompt may be text or one message of the user, a completion text or one message of the assistant;
    `messages` are one of each.
    """
    rows = read_rows(name, "train")
    columns = set(rows.column_names)
    if {"prompt", "completion"} <= columns:
        pairs = [(row["prompt"], row["completion"]) for row in rows.select_columns(["prompt", "completion"])]
    elif "messages" in columns:
        pairs = [_two_messages(name, i, row["messages"]) for i, row in enumerate(rows.select_columns(["messages"]))]
    else:
        raise ThoughtError(
            f"thoughts need the columns prompt and completion, or messages, and {name!r} has "
            f"{', '.join(sorted(columns))}. Rename its columns."
        )
    return [
        Thought(_said(name, i, "user", prompt).strip(), _said(name, i, "assistant", completion))
        for i, (prompt, completion) in enumerate(pairs)
    ]


def verified_samples(run: str | Path, per_problem: int = 1, from_step: int = 0) -> list[Thought]:
    """What a run sampled that was right, well formatted and not cut off: DeepSeek-R1's rejection sampling.

    The same text to the same question counts once. per_problem: thoughts of one problem at most, the newest
    first, since the policy was better then. from_step: leave out what was sampled before this step.
    """
    found: dict[str, dict[str, None]] = {}
    for row in _rollouts(Path(run)):
        if row["step"] < from_step or not row["correct"]:
            continue
        if row["reward/format"] != 1.0 or row["finish_reason"] != "stop":
            continue
        texts = found.setdefault(row["prompt"], {})
        if len(texts) < per_problem:
            texts[row["completion"]] = None
    thoughts = [Thought(prompt, text) for prompt, texts in found.items() for text in texts]
    if not thoughts:
        raise ThoughtError(
            f"run {str(run)!r} has no completion from step {from_step} on that is right, well formatted and "
            "complete. Start from an earlier step, or from a run that got further."
        )
    return thoughts


def _rollouts(run: Path) -> Iterator[Mapping[str, Any]]:
    """The completions of a run, the newest first. Reads one file at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted((run / ROLLOUTS).glob("step-*.parquet"), reverse=True)
    if not files:
        raise ThoughtError(f"run {str(run)!r} has no rollouts in {run / ROLLOUTS}. Name a run that has trained.")
    for file in files:
        try:
            rows = pq.read_table(file, columns=list(_ROLLOUT_COLUMNS)).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise ThoughtError(f"cannot read the rollouts in {str(file)!r}: {error}. Delete this file.") from error
        if rows and len(rows[0]) < len(_ROLLOUT_COLUMNS):
            missing = [name for name in _ROLLOUT_COLUMNS if name not in rows[0]]
            raise ThoughtError(
                f"rollouts need the columns {', '.join(_ROLLOUT_COLUMNS)}, and {str(file)!r} lacks "
                f"{', '.join(missing)}. Name a run that r1_zero.py wrote."
            )
        yield from reversed(rows)


def _two_messages(name: str, index: int, messages: Any) -> tuple[Any, Any]:
    roles = [message.get("role") for message in messages] if isinstance(messages, list) else None
    if roles != ["user", "assistant"]:
        raise ThoughtError(
            f"messages must be one of the user and one of the assistant, since the template holds one question, "
            f"and row {index} of {name!r} has {', '.join(map(str, roles)) if roles else repr(messages)}. "
            "Put a system prompt into a template (--template) and leave out further turns."
        )
    return [messages[0]], [messages[1]]


def _said(name: str, index: int, role: str, value: Any) -> str:
    """The text of a prompt or completion, which TRL's conversational data sets write as a list of messages."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        message = value[0]
        value = message.get("content") if isinstance(message, Mapping) and message.get("role") == role else value
    if not isinstance(value, str) or not value.strip():
        raise ThoughtError(
            f"every row needs text, or one message of the {role}, and row {index} of {name!r} has "
            f"{str(value)[:80]!r}. Remove the row or fill it in."
        )
    return value


def _endless(task: str, seed: int) -> Iterator[Thought]:
    rng = Random(f"thoughts {task} {seed}")
    while True:
        yield GENERATORS[task](rng)


def _arithmetic(rng: Random) -> Thought:
    """The chain worked out, one operation a step."""
    chain = clean_chain(rng)
    question = ARITHMETIC.phrasing.format(expression=chain.text)
    return Thought(question, _turn(written_out(chain), str(chain.value)))


def _countdown(rng: Random) -> Thought:
    """A search that does not give up before it finds the target."""
    question, lines, answer = search(rng, go_on=1.0)
    return Thought(question, _turn(",".join(lines), answer))


def _turn(thought: str, answer: str) -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>"


GENERATORS: Mapping[str, Callable[[Random], Thought]] = {"arithmetic": _arithmetic, "countdown": _countdown}

__all__ = [
    "GENERATORS",
    "TableError",
    "Thought",
    "ThoughtError",
    "generated_thoughts",
    "load_thoughts",
    "read_thoughts",
    "verified_samples",
]

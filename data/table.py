"""Problems from a table: a hub data set, or a local JSONL, JSON or Parquet file or folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from data.problem import Problem
from data.split import in_heldout_share, question_digest
from rewards import check_gold, extract_answer
from rlzero.models.load import may_be_hub_id

if TYPE_CHECKING:
    from datasets import Dataset

PROMPT_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "solution", "final_answer", "target")
# Arguments of reward functions that a column of the data must not take the place of.
_RESERVED = ("prompts", "completions", "completion_ids", "answer")
_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


class TableError(ValueError):
    """A table that cannot be read as problems: the message says what is missing and what there is."""


class Table:
    """Problem source over the rows of a table.

    Training walks a fresh permutation of the rows in every epoch. Held out are the rows of `eval_rows`, or
    where there are none a hash share of the questions (`data.split`); training leaves out every row whose
    question is held out, so that duplicates never straddle.
    """

    def __init__(
        self,
        name: str,
        rows: Dataset,
        eval_rows: Dataset | None = None,
        prompt_column: str | None = None,
        answer_column: str | None = None,
    ) -> None:
        self.name = name
        self._columns = _Columns(name, rows.column_names, prompt_column, answer_column)
        questions = self._columns.questions(rows)
        digests = [question_digest(question) for question in questions]
        if eval_rows is None:
            held_digests = {d for d, q in zip(digests, questions, strict=True) if in_heldout_share(q)}
            # A small table may have nothing in the share: its question of smallest digest then.
            held_digests = held_digests or {min(digests)}
            held = [i for i, digest in enumerate(digests) if digest in held_digests]
            eval_rows, eval_digests = rows, digests
        else:
            self._columns.check(f"{name} (evaluation split)", eval_rows.column_names)
            eval_digests = [question_digest(q) for q in self._columns.questions(eval_rows)]
            held = list(range(len(eval_digests)))
            held_digests = set(eval_digests)
        self._rows, self._eval_rows = rows, eval_rows
        # The first row of each question stands for it; later ones are duplicates.
        self._held = list({eval_digests[i]: i for i in reversed(held)}.values())[::-1]
        self._trained = [i for i, digest in enumerate(digests) if digest not in held_digests]
        if not self._trained:
            raise TableError(
                f"data set {name!r} leaves nothing to train on: all of its {len(rows)} rows ask held-out "
                "questions. Name an evaluation split with other questions, or give more rows."
            )

    def __len__(self) -> int:
        """Number of training rows, which is the length of an epoch."""
        return len(self._trained)

    def train(self, seed: int, index: int) -> Problem:
        epoch, position = divmod(index, len(self._trained))
        row = self._trained[_permutation(len(self._trained), seed, epoch)[position]]
        return self._columns.problem(self._rows[row])

    def heldout(self, count: int, seed: int = 0) -> list[Problem]:
        order = Random(f"table held out {seed}").sample(range(len(self._held)), min(count, len(self._held)))
        return [self._columns.problem(self._eval_rows[self._held[i]]) for i in order]

    @property
    def gold_answers(self) -> list[str]:
        """The gold answers of the training rows."""
        golds = self._columns.answers(self._rows)
        return [golds[i] for i in self._trained]


def load_table(
    name: str,
    *,
    config_name: str | None = None,
    split: str = "train",
    eval_split: str | None = None,
    revision: str | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
) -> Table:
    """The problems of a file, a folder or a hub data set. Raises TableError.

    Gold answers that the verifier cannot read are counted and logged as a warning.
    """
    rows = read_rows(name, split, config_name=config_name, revision=revision)
    eval_rows = read_rows(name, eval_split, config_name=config_name, revision=revision) if eval_split else None
    table = Table(name, rows, eval_rows, prompt_column, answer_column)
    golds = check_gold(table.gold_answers)
    if golds.unreadable:
        logging.getLogger(__name__).warning("data set %r: %s", name, golds)
    return table


def read_rows(name: str, split: str, *, config_name: str | None = None, revision: str | None = None) -> Dataset:
    """One split of a data set as its rows are. A single file has only the split `train`."""
    place = Path(name)
    if not place.exists() and not may_be_hub_id(name):
        raise TableError(
            f"data set {name!r} does not exist: it is no file or folder here, and no hub id (owner/name). "
            "Check the path."
        )
    import datasets

    try:
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            loaded = datasets.load_from_disk(name)
            rows = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        elif place.is_file():
            rows = datasets.load_dataset(_format_of(place), data_files={"train": name}, split=split)
        else:
            rows = datasets.load_dataset(name, config_name, split=split, revision=revision)
    except TableError:
        raise
    # The library raises its own kinds, and those of arrow, fsspec and the hub client.
    except Exception as error:
        cause = str(error).strip().rstrip(".") or type(error).__name__
        raise TableError(
            f"cannot read split {split!r} of data set {name!r}: {cause}. Check the file, the split and the "
            "configuration name."
        ) from error
    if len(rows) == 0:
        raise TableError(f"data set {name!r}, split {split!r}, is empty: it has no row. Check the file.")
    return rows


class _Columns:
    """Which column is the question and which the gold answer, and how a row becomes a problem."""

    def __init__(self, name: str, columns: Sequence[str], prompt_column: str | None, answer_column: str | None) -> None:
        self.prompt = prompt_column or _guess(name, columns, PROMPT_COLUMNS, "prompt_column")
        self.answer = answer_column or _guess(name, columns, ANSWER_COLUMNS, "answer_column")
        self.check(name, columns)

    def check(self, name: str, columns: Sequence[str]) -> None:
        """Refuse a table without the two columns. A dotted name reaches into a column of records."""
        for option, column in (("prompt_column", self.prompt), ("answer_column", self.answer)):
            if column not in columns and column.split(".")[0] not in columns:
                raise TableError(f"data set {name!r} has no column {column!r} ({option}): it has {', '.join(columns)}.")

    def questions(self, rows: Dataset) -> list[str]:
        """Every question, all of them text with something in it; the answers are checked on the way."""
        questions = [_question_text(value) for value in _column(rows, self.prompt)]
        empty = sum(not question for question in questions)
        no_answer = sum(not answer for answer in self.answers(rows))
        for kind, column, count in (("question", self.prompt, empty), ("answer", self.answer, no_answer)):
            if count:
                raise TableError(
                    f"every row must have its {kind}: {count} of {len(questions)} rows have none in column "
                    f"{column!r}. Remove these rows, or name another column."
                )
        return questions

    def answers(self, rows: Dataset) -> list[str]:
        return [gold_text(value) for value in _column(rows, self.answer)]

    def problem(self, row: Mapping[str, Any]) -> Problem:
        used = (self.prompt, self.answer)
        others = {k: v for k, v in row.items() if k not in used and k not in _RESERVED}
        return Problem(
            prompt=_question_text(_cell(row, self.prompt)),
            answer=gold_text(_cell(row, self.answer)),
            columns=others,
        )


def gold_text(value: Any) -> str:
    """A gold answer as text: 27.0 is `27`; of a worked solution, what follows `####` or stands in the box."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if value is None or value != value:  # NaN is how tables say that a number is missing
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        raise TableError(
            f"a gold answer must be text or a number, got {type(value).__name__} {str(value)[:80]!r}. "
            "Name another answer_column; a field of a record is written column.field."
        )
    text = str(value).strip()
    if "####" in text:  # GSM8K
        return text.rpartition("####")[2].strip()
    if "\\boxed" in text:  # MATH
        return extract_answer(text) or ""
    return text


def _question_text(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")  # one message of the user, as TRL's conversational data sets have it
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TableError(
            f"a question must be text, or a list of one message, got {type(value).__name__} "
            f"{str(value)[:80]!r}. Name another prompt_column."
        )
    return value.strip()


def _guess(name: str, columns: Sequence[str], common: Sequence[str], option: str) -> str:
    found = [column for column in common if column in columns]
    if len(found) == 1:
        return found[0]
    reason = f"several are possible ({', '.join(found)})" if found else f"none is called {', '.join(common)}"
    raise TableError(
        f"data set {name!r} has the columns {', '.join(columns)}: {reason}. Name the right one as {option}."
    )


def _column(rows: Dataset, name: str) -> list[Any]:
    if name in rows.column_names:
        return list(rows[name])
    return [_cell({name.split(".")[0]: value}, name) for value in rows[name.split(".")[0]]]


def _cell(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise TableError(f"a row has no field {part!r} of {name!r}: {str(row)[:120]}. Check the column name.")
        value = value[part]
    return value


def _format_of(place: Path) -> str:
    if place.suffix not in _FORMATS:
        raise TableError(
            f"cannot read {str(place)!r}: its ending {place.suffix!r} is none of {', '.join(_FORMATS)}. "
            "Convert the file, or rename it."
        )
    return _FORMATS[place.suffix]


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    order = list(range(count))
    Random(f"table train {seed} {epoch}").shuffle(order)
    return order

"""Problems from tables: mapping, split, and each error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.split import in_heldout_share, question_digest
from data.table import Table, TableError, gold_text, load_table


def write(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sums(count: int) -> list[dict]:
    return [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "level": i % 3} for i in range(count)]


@pytest.fixture
def source(tmp_path: Path) -> Table:
    return load_table(write(tmp_path / "sums.jsonl", sums(100)))


def test_a_row_becomes_a_problem_with_its_other_columns(source: Table) -> None:
    problem = source.train(0, 0)
    number = int(problem.answer) // 2
    assert problem.prompt == f"What is {number} + {number}?"
    assert dict(problem.columns) == {"level": number % 3}
    assert problem.scorer == "accuracy"


def test_every_epoch_is_another_permutation_of_all_training_rows(source: Table) -> None:
    size = len(source)
    epochs = [[source.train(0, e * size + i).prompt for i in range(size)] for e in range(2)]
    assert len(set(epochs[0])) == size
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_a_problem_is_a_function_of_seed_and_index(source: Table, tmp_path: Path) -> None:
    again = load_table(write(tmp_path / "again" / "sums.jsonl", sums(100)))
    indices = [250, 3, 99, 3]
    assert [source.train(1, i) for i in indices] == [again.train(1, i) for i in indices]
    assert [source.train(1, i) for i in range(20)] != [source.train(2, i) for i in range(20)]


def test_held_out_rows_are_never_trained_on(source: Table) -> None:
    held = {p.prompt for p in source.heldout(1000)}
    trained = {source.train(0, i).prompt for i in range(len(source))}
    assert held
    assert not held & trained
    assert len(held) + len(trained) == 100


def test_held_out_problems_are_the_same_for_the_same_seed_and_distinct(source: Table) -> None:
    assert source.heldout(3, seed=5) == source.heldout(3, seed=5)
    prompts = [p.prompt for p in source.heldout(1000, seed=5)]
    assert len(prompts) == len(set(prompts))


def test_duplicates_of_a_question_never_straddle_the_split(tmp_path: Path) -> None:
    rows = sums(60)
    copies = [{**row, "question": row["question"].upper().replace(" ", "  "), "answer": "0"} for row in rows]
    source = load_table(write(tmp_path / "doubled.jsonl", rows + copies))
    held = {question_digest(p.prompt) for p in source.heldout(1000)}
    trained = {question_digest(source.train(0, i).prompt) for i in range(len(source))}
    assert held
    assert not held & trained
    assert len(source.heldout(1000)) == len(held)


def test_a_named_split_is_held_out_and_its_questions_leave_training(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.jsonl", sums(30))
    write(tmp_path / "set" / "test.jsonl", sums(40)[25:])
    source = load_table(str(tmp_path / "set"), eval_split="test")
    assert len(source.heldout(100)) == 15
    assert len(source) == 25


def test_a_table_with_nothing_in_the_hash_share_still_holds_one_question_out(tmp_path: Path) -> None:
    rows = [row for row in sums(40) if not in_heldout_share(row["question"])][:2]
    source = load_table(write(tmp_path / "two.jsonl", rows))
    assert (len(source), len(source.heldout(10))) == (1, 1)


@given(st.text(max_size=40))
def test_spacing_and_case_do_not_decide_the_side(question: str) -> None:
    assert in_heldout_share(question) == in_heldout_share(f"  {question.casefold()}\n")


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_json_and_parquet_read_like_jsonl(tmp_path: Path, suffix: str, source: Table) -> None:
    path = tmp_path / f"sums.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(sums(100)))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(sums(100)), path)
    assert load_table(str(path)).train(0, 7) == source.train(0, 7)


def test_a_data_set_saved_to_disk_reads_too(tmp_path: Path, source: Table) -> None:
    import datasets

    data = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(sums(100)), "test": datasets.Dataset.from_list(sums(4))}
    )
    data.save_to_disk(str(tmp_path / "saved"))
    assert load_table(str(tmp_path / "saved")).train(0, 7) == source.train(0, 7)
    assert len(load_table(str(tmp_path / "saved"), eval_split="test").heldout(9)) == 4
    with pytest.raises(TableError, match="cannot read split 'dev'"):
        load_table(str(tmp_path / "saved"), split="dev")


def test_records_and_single_messages_are_reached_by_dotted_names(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Q{i}"}],
            "reward_model": {"ground_truth": str(i)},
            "data_source": "made up",
        }
        for i in range(20)
    ]
    source = load_table(write(tmp_path / "nested.jsonl", rows), answer_column="reward_model.ground_truth")
    problem = source.train(0, 0)
    assert problem.prompt == f"Q{problem.answer}"
    with pytest.raises(TableError, match=r"no field 'truth' of 'reward_model\.truth'"):
        load_table(str(tmp_path / "nested.jsonl"), answer_column="reward_model.truth")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("He has 3.\n#### 1,234", "1,234"),
        (27.0, "27"),
        (0.5, "0.5"),
        (12, "12"),
        (["\\frac{1}{2}"], "\\frac{1}{2}"),
        ("Thus $x = \\boxed{\\frac{3}{4}}$.", "\\frac{3}{4}"),
        (" 7 ", "7"),
        (None, ""),
        (float("nan"), ""),
    ],
)
def test_a_gold_answer_becomes_text(value: object, text: str) -> None:
    assert gold_text(value) == text


def test_a_missing_path_is_named() -> None:
    with pytest.raises(TableError, match=r"data set '\./nowhere\.jsonl' does not exist"):
        load_table("./nowhere.jsonl")


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\n1,2\n")
    with pytest.raises(TableError, match=r"its ending '\.csv' is none of \.jsonl, \.json, \.parquet"):
        load_table(str(tmp_path / "rows.csv"))


def test_a_broken_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": \n')
    with pytest.raises(TableError, match="cannot read split 'train' of data set"):
        load_table(str(tmp_path / "broken.jsonl"))


def test_a_missing_split_is_told_with_the_splits_there_are(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.jsonl", sums(30))
    with pytest.raises(TableError, match=r"split 'test'.*train"):
        load_table(str(tmp_path / "set"), eval_split="test")


def test_a_missing_column_is_told_with_the_columns_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", sums(9))
    with pytest.raises(TableError, match=r"no column 'query' \(prompt_column\): it has question, answer, level"):
        load_table(path, prompt_column="query")
    with pytest.raises(TableError, match=r"no column 'gold' \(answer_column\)"):
        load_table(path, answer_column="gold")


def test_columns_are_guessed_only_where_one_name_fits(tmp_path: Path) -> None:
    rows = [{"problem": f"p{i}", "question": f"q{i}", "answer": "1"} for i in range(9)]
    path = write(tmp_path / "both.jsonl", rows)
    with pytest.raises(TableError, match=r"several are possible \(problem, question\).*prompt_column"):
        load_table(path)
    assert load_table(path, prompt_column="question").train(0, 0).prompt.startswith("q")
    path = write(tmp_path / "neither.jsonl", [{"text": "a", "answer": "1"}])
    with pytest.raises(TableError, match="none is called problem, question, prompt"):
        load_table(path)


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_data_set_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "empty.jsonl").write_text(content)
    with pytest.raises(TableError, match=r"empty|cannot read"):
        load_table(str(tmp_path / "empty.jsonl"))


def test_empty_answers_are_counted(tmp_path: Path) -> None:
    rows = [*sums(7), {"question": "?", "answer": "", "level": 0}, {"question": "??", "answer": None, "level": 0}]
    with pytest.raises(TableError, match="must have its answer") as error:
        load_table(write(tmp_path / "gaps.jsonl", rows))
    assert "2 of 9 rows have none in column 'answer'" in str(error.value)


def test_gold_answers_that_the_verifier_cannot_read_are_counted_and_told(tmp_path: Path, caplog) -> None:
    broken = [{"question": f"odd {i}", "answer": "$221,$8$", "level": 0} for i in range(30)]
    load_table(write(tmp_path / "clean.jsonl", sums(30)))
    assert not caplog.records
    source = load_table(write(tmp_path / "odd.jsonl", [*sums(30), *broken]))
    unreadable = source.gold_answers.count("$221,$8$")
    assert unreadable > 20
    assert f"{unreadable} of {len(source)} gold answers cannot be read" in caplog.text


def test_one_question_alone_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="leaves nothing to train on"):
        load_table(write(tmp_path / "one.jsonl", sums(1)))


def test_answers_that_are_no_text_are_refused(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": {"a": i}} for i in range(9)]
    with pytest.raises(TableError, match="must be text or a number, got dict"):
        load_table(write(tmp_path / "records.jsonl", rows))

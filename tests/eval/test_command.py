"""`python -m eval` as a user runs it, on a tiny random model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.template_file import save_template
from data.templates import get_template
from eval.command import main

ROOT = Path(__file__).parents[2]
ROWS = [{"question": f"What is {i} + 1?", "answer": f"It is.\n#### {i + 1}"} for i in range(12)]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "data" / "gsm8k" / "test.jsonl").write_text(text)
    return tmp_path / "data"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eval", *map(str, arguments)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"},
    )


def read(folder: Path) -> tuple[dict, list[dict]]:
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "samples.parquet").to_pylist()
    return json.loads((folder / "results.json").read_text()), rows


def test_an_evaluation_prints_a_table_and_leaves_results_and_samples(
    tiny_model: Path, data_dir: Path, tmp_path: Path
) -> None:
    done = run(
        *("--model", tiny_model, "--tasks", "arithmetic,countdown,gsm8k", "--samples", 4, "--limit", 5),
        *("--data-dir", data_dir, "--output-dir", tmp_path / "out", "--rollout", "builtin"),
        *("--max-tokens", 12),
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"task +problems +pass@1 +pass@4 +maj@4 +format +length +cut", done.stdout)
    for task in ("arithmetic", "countdown", "gsm8k"):
        assert re.search(rf"{task} +5 × 4 +0\.\d+", done.stdout)
    results, samples = read(tmp_path / "out")
    assert set(results["tasks"]) == {"arithmetic", "countdown", "gsm8k"}
    assert results["sampling"]["n"] == 4
    assert results["sampling"]["max_tokens"] == 12
    assert results["template"]["name"] == "r1_zero"
    assert (results["engine"], results["seed"], results["limit"]) == ("builtin", 0, 5)
    assert {"python", "torch", "transformers"} <= set(results["versions"])
    gsm8k = results["tasks"]["gsm8k"]
    assert set(gsm8k["figures"]) == {"pass@1", "pass@2", "pass@4", "maj@4", "format", "length", "truncated"}
    assert set(gsm8k["figures"]["pass@1"]) == {"value", "stderr", "low", "high"}
    assert len(samples) == 3 * 5 * 4
    own = [row for row in samples if row["task"] == "gsm8k"]
    assert sum(row["right"] for row in own) / len(own) == gsm8k["figures"]["pass@1"]["value"]
    assert sum(row["truncated"] for row in own) / len(own) == gsm8k["figures"]["truncated"]["value"]
    assert {row["question"] for row in own} <= {row["question"] for row in ROWS}
    assert "reward/format" in own[0]


def arguments_for(model: Path, data_dir: Path, out: Path, /, **changes: object) -> list[str]:
    options: dict[str, object] = {
        "model": model,
        "tasks": "gsm8k",
        "samples": 2,
        "data-dir": data_dir,
        "output-dir": out,
        "rollout": "builtin",
        "max-tokens": 8,
        **changes,
    }
    return [str(part) for key, value in options.items() for part in (f"--{key}", value)]


def test_the_same_seed_gives_the_same_samples(tiny_model: Path, data_dir: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(arguments_for(tiny_model, data_dir, tmp_path / name, seed=seed)) == 0
    texts = {name: [row["completion"] for row in read(tmp_path / name)[1]] for name in "abc"}
    assert texts["a"] == texts["b"] != texts["c"]


def test_special_tokens_of_the_text_survive_and_the_end_token_does_not(
    tiny_model: Path, data_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    changes = {"template": "short", "samples": 64, "max-tokens": 40}
    assert main(arguments_for(tiny_model, data_dir, out, **changes)) == 0
    results, rows = read(out)
    completions = [row["completion"] for row in rows]
    assert all(text.startswith("<think>") for text in completions)  # the template's prefill
    assert any("<think>" in text.removeprefix("<think>") for text in completions)
    assert not any("<eos>" in text for text in completions)
    assert results["tasks"]["gsm8k"]["figures"]["truncated"]["value"] < 1


def test_the_template_saved_with_a_model_is_the_default(tiny_model: Path, data_dir: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    save_template(get_template("short"), model)
    assert main(arguments_for(model, data_dir, tmp_path / "own")) == 0
    assert read(tmp_path / "own")[0]["template"]["name"] == "short"
    assert main(arguments_for(model, data_dir, tmp_path / "named", template="none")) == 0
    assert read(tmp_path / "named")[0]["template"]["name"] == "none"
    (model / "prompt_template.json").write_text("{}")
    assert main(arguments_for(model, data_dir, tmp_path / "broken")) == 2


def test_the_default_limit_is_what_the_context_leaves(tiny_model: Path, data_dir: Path, tmp_path: Path) -> None:
    arguments = arguments_for(tiny_model, data_dir, tmp_path / "out", template="{prompt}", limit=2)
    at = arguments.index("--max-tokens")
    assert main(arguments[:at] + arguments[at + 2 :]) == 0
    results, rows = read(tmp_path / "out")
    shortest = min(len(row["question"]) for row in rows)
    assert results["sampling"]["max_tokens"] == 1024 - shortest


def test_prompts_beyond_the_context_and_unknown_characters_are_told(
    tiny_model: Path, data_dir: Path, tmp_path: Path, capsys
) -> None:
    rows = [*ROWS, {"question": "x" * 2000, "answer": "1"}, {"question": "∑ 1?", "answer": "1"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (data_dir / "gsm8k" / "test.jsonl").write_text(text)
    assert main(arguments_for(tiny_model, data_dir, tmp_path / "out")) == 0
    task = read(tmp_path / "out")[0]["tasks"]["gsm8k"]
    assert (task["too_long"], task["unknown_prompts"]) == (1, 1)
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of 14 prompts do not fit into the model's context and count as never solved" in printed
    assert "1 of 14 prompts hold characters that the tokenizer does not know" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "./nowhere"}, "model folder './nowhere' does not exist"),
        ({"tasks": "gsm9k"}, "unknown evaluation task 'gsm9k': choose among arithmetic, countdown, gsm8k"),
        ({"tasks": ","}, "--tasks names no task"),
        ({"tasks": "svamp"}, "task 'svamp' needs one of the files"),
        ({"data-dir": "./nowhere"}, "data directory 'nowhere' does not exist"),
        ({"samples": 0}, "--samples must be at least 1, got 0"),
        ({"max-tokens": 0}, "--max-tokens must be at least 1"),
        ({"temperature": -1}, "--temperature must be at least 0"),
        ({"top-p": 0}, "--top-p above 0"),
        ({"rollout": "sglang"}, "unknown rollout engine 'sglang'"),
        ({"template": "r2"}, "unknown template 'r2'"),
        ({"template": "chat"}, "needs a tokenizer with a chat template"),
        ({"template": "y" * 2000 + "{prompt}"}, "no prompt fits into the model's 1024 tokens"),
        ({"dtype": "int3"}, "unknown --dtype 'int3'"),
    ],
)
def test_bad_input_is_told_on_stderr_with_code_2(
    tiny_model: Path, data_dir: Path, tmp_path: Path, capsys, changes: dict, message: str
) -> None:
    assert main(arguments_for(tiny_model, data_dir, tmp_path / "out", **changes)) == 2
    assert message in capsys.readouterr().err


def test_an_output_directory_that_cannot_be_written_is_refused_before_the_model_is_read(
    data_dir: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "file").write_text("")
    assert main(arguments_for(Path("./nowhere"), data_dir, tmp_path / "file" / "out")) == 2
    assert "cannot write to the output directory" in capsys.readouterr().err


def test_a_missing_argument_ends_with_code_2() -> None:
    done = run("--tasks", "gsm8k")
    assert done.returncode == 2
    assert "--model" in done.stderr


@pytest.mark.slow
def test_vllm_evaluates_like_the_builtin_engine(tiny_model: Path, data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    figures = {}
    for engine in ("vllm", "builtin"):
        done = run(
            *("--model", tiny_model, "--tasks", "gsm8k", "--samples", 64, "--data-dir", data_dir),
            *("--template", "short", "--output-dir", tmp_path / engine, "--rollout", engine),
            *("--max-tokens", 40),
        )
        assert done.returncode == 0, done.stderr
        results, rows = read(tmp_path / engine)
        assert results["engine"] == engine
        assert not any("<eos>" in row["completion"] for row in rows)
        figures[engine] = results["tasks"]["gsm8k"]["figures"]
    for name in ("length", "truncated"):
        ours, theirs = figures["builtin"][name], figures["vllm"][name]
        assert abs(ours["value"] - theirs["value"]) < 5 * (ours["stderr"] + theirs["stderr"])

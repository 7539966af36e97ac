"""`rlzero explain` from the command line: what it prints, what it refuses, and how near the memory of a real run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlzero.command import main
from rlzero.grpo.explain.explanation import vllm_knows
from rlzero.models.count import count_parameters
from rlzero.models.presets import preset
from tests.conftest import ROOT

TINY = {"dataset_name": "arithmetic", "template": "short", "rollout": "builtin", "prompts_per_step": 4,
        "num_generations": 4, "max_completion_length": 12, "max_steps": 6, "report_to": ["none"]}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A recipe whose model is a configuration and a tokenizer: there are no weights that could be loaded."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model, ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**TINY, "model_name_or_path": str(model), "output_dir": str(tmp_path / "run")}))
    return path


def test_it_says_what_a_run_will_do_without_weights(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps_per_generation", "2", "--num_iterations", "3", "--num_processes", "2"]
    assert main(["explain", str(recipe), *options, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["plan"]["updates_per_rollout"], data["plan"]["staleness"], data["plan"]["processes"]) == (6, 5, 2)
    assert data["plan"]["answers_per_rollout"] == 32
    assert data["engine"] == "builtin"
    assert "measured on 256 problems" in data["lengths"]["prompt_source"]
    assert data["memory"]["peak"] == pytest.approx(sum(part["bytes"] for part in data["memory"]["parts"]))
    duration = data["duration"]
    parts = ("generation", "reward", "training", "sync")
    assert duration["rollout"] == pytest.approx(sum(duration[name] for name in parts))
    assert all(duration[name] > 0 for name in ("generation", "training", "run"))
    assert not (recipe.parent / "run").exists()


def test_the_page_names_every_part(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(recipe), "--loss_type", "gspo", "--beta", "0.1"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for words in (
        "4 problems × 4 completions = 16 answers", "0: on-policy", "6 steps on 6 rollouts", "assumed: a third of",
        "rlzero.grpo.objective.gspo", "kl_estimator=k3", "reference", "activations", "a rollout with its steps",
        "measured here",
    ):  # fmt: skip
        assert words in page


def test_our_own_decoder_is_explained(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MLA, shared experts and V3's router."""
    config = preset("deepseek-v3", tiny=True, architectures=["MoEForCausalLM"])
    config.save_pretrained(tmp_path / "v3")
    assert main(["explain", str(recipe), "--model_name_or_path", str(tmp_path / "v3"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["architecture"]["parameters"]["total"] == count_parameters(config).total
    assert data["duration"]["run"] > 0


def test_auto_is_the_engine_that_can_run_the_model() -> None:
    assert vllm_knows(preset("deepseek-v3", tiny=True))
    assert not vllm_knows(preset("shazeer-2017", tiny=True))  # an LSTM


def test_bad_input_ends_with_a_line_and_code_2(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--num_generation", "4"], "did you mean 'num_generations'"),
        (["--model_name_or_path", "absent/folder/model"], "does not exist"),
        (["--num_processes", "3"], "must be a multiple of the 3 processes"),
        (["--old_logprobs", "policy", "--num_iterations", "2"], "old_logprobs"),
        (["--config_file", "absent.yaml"], "cannot be read"),
        (["--max_completion_length", "100000"], "must fit into the model's"),
        (["--completion_length", "0"], "must be at least 1"),
    ):
        assert main(["explain", str(recipe), *arguments]) == 2
        assert words in capsys.readouterr().err
    assert main(["explain", str(recipe.parent / "absent.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_other_commands_still_refuse_what_they_do_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["models", "--jsn"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --jsn" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["builtin", "vllm"])
def test_the_default_needs_the_memory_that_was_announced(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within 30%. Seconds are printed beside, and not asserted: other work on the machine moves them."""
    if engine == "vllm":
        pytest.importorskip("vllm")
    recipe = str(ROOT / "recipes/r1_zero.yaml")
    options = ["--rollout", engine, "--max_steps", "8", "--output_dir", str(tmp_path / "run"), "--report_to", "none"]
    # In a process of its own, as a user calls it: this one has grown with other tests.
    command = [sys.executable, "-c", "import sys; from rlzero.command import main; sys.exit(main(sys.argv[1:]))"]
    told = subprocess.run([*command, "explain", recipe, *options, "--json"], capture_output=True, text=True, check=True)
    announced = json.loads(told.stdout)
    run = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    run += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    words = [sys.executable, str(ROOT / "recipes/r1_zero.py"), "--config", recipe, *options]
    done = subprocess.run([sys.executable, "-c", run, *words], capture_output=True, text=True, check=True)
    peak = int(done.stdout.split()[-1]) * 1024
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    with capsys.disabled():
        print(f"\n{engine}: {announced['memory']['peak'] / peak:.2f} of the memory measured, "
              f"{announced['duration']['run'] / summary['wall_seconds']:.2f} of the wall seconds")  # fmt: skip
    assert announced["memory"]["peak"] == pytest.approx(peak, rel=0.3)

"""`rlzero` shows the models and converts checkpoints; bad input ends with exit code 2 and a line on stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from rlzero.command import main
from rlzero.models.decoder import MoEForCausalLM
from rlzero.models.presets import PRESETS, preset


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "rich", "numpy", "vllm")
    code = f"import sys, rlzero.command; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_models_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    line = {one["name"]: one for one in data["presets"]}
    assert list(line) == list(PRESETS)
    v3 = line["deepseek-v3"]
    assert v3["aliases"] == ["deepseek-r1"]
    assert (v3["router"], v3["chosen"], v3["routed"], v3["shared"]) == ("noaux_tc", 8, 256, 1)
    assert v3["parameters"]["total"] == 671_026_404_352
    assert v3["cache_per_token"] == 61 * 576 * 2
    total = next(one for one in v3["published"] if one["quantity"] == "total")
    assert total["published"] == 671e9
    assert total["within_tolerance"]
    assert all(figure["source"] for one in line.values() for figure in one["published"])
    assert line["jacobs-1991"]["published"] == []
    assert line["mistral-7b"]["router"] is None
    assert line["mistral-7b"]["cache_per_sequence"] == 4096 * 131_072
    assert [round(one["saved"], 3) for one in data["deepseek_v2_cache"]] == [0.822, 0.933, 0.982]
    rollouts = {name: one["rollout"] for name, one in line.items()}
    assert (rollouts["shazeer-2017"], rollouts["switch"]) == ("built-in", "vLLM, ours")
    assert rollouts["mixtral-8x7b"] == "vLLM, native"


def test_the_table_shows_every_preset_its_figures_and_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    for name in [*PRESETS, "deepseek-r1", "group_limited_greedy", "DeepseekV3ForCausalLM", "built-in"]:
        assert name in out
    words = " ".join(out.split())
    for figure in ("671B +0.0%", "46.7B +0.0%", "12.9B -0.2%", "21B +1.8%≈", "1571B +0.0%", "74.4T +2.0%"):
        assert figure in words
    assert "encoder and decoder; ours is the decoder, counted twice" in words
    assert "82.2% smaller than that of DeepSeek 67B (GQA), both in bfloat16" in words
    assert "93.3% smaller than that of DeepSeek 67B (GQA) in bfloat16" in words
    assert "deployed 6 bits (published: 93.3%)" in words


def test_the_tiny_table_has_no_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--tiny", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert all(one["published"] == [] and one["parameters"]["total"] <= 2_000_000 for one in data["presets"])
    assert {one["context"] for one in data["presets"]} == {512}


def test_convert_writes_a_checkpoint_that_the_native_class_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = MoEForCausalLM(preset("deepseek-llm-7b", tiny=True)).eval()
    ours.save_pretrained(tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "native"), "--to", "native"]) == 0
    assert "tensors read" in capsys.readouterr().out
    native = LlamaForCausalLM.from_pretrained(tmp_path / "native").eval()
    ids_BT = torch.arange(12)[None]
    assert torch.allclose(native(ids_BT).logits, ours(ids_BT).logits, atol=1e-5)


def test_what_cannot_be_converted_ends_with_code_2_and_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(tmp_path / "missing"), str(tmp_path / "new"), "--to", "ours"]) == 2
    assert "missing" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("arguments", [[], ["convert", "a", "b"], ["convert", "a", "b", "--to", "gguf"], ["nothing"]])
def test_a_wrong_command_line_ends_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2

"""Checkpoints go to ours and back bit for bit, compute the same in both forms, and are refused where they cannot."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, PreTrainedModel

from rlzero.models import convert as conversion
from rlzero.models.config import MoEConfig
from rlzero.models.convert import convert
from rlzero.models.decoder import MoEForCausalLM
from rlzero.models.load import ModelError
from rlzero.models.native import ConversionError, to_native_config
from rlzero.models.presets import preset
from rlzero.models.shards import CheckpointError, parse_size, read_checkpoint
from tests.models.test_native import AS_DEEPSEEK, SPARSE, equal_where_known
from tests.models.tiny_natives import CONFIGS, randomise, save_native

Edit = Callable[[Path], None]
# What a published DeepSeek-V3 file holds for the layer after its last, besides the layer itself.
MTP_EXTRAS = {
    "enorm.weight",
    "hnorm.weight",
    "eh_proj.weight",
    "embed_tokens.weight",
    "shared_head.norm.weight",
    "shared_head.head.weight",
}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_same_tensors(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor.view(torch.uint8), second[name].view(torch.uint8)), name


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(4, 64, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(ids).logits


def save_ours(config: MoEConfig, folder: Path) -> MoEForCausalLM:
    model = MoEForCausalLM(config).eval()
    randomise(model)
    model.save_pretrained(folder, max_shard_size="20KB")
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_a_native_checkpoint_computes_the_same_in_our_decoder_and_comes_back_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    native = save_native(CONFIGS[name], tmp_path / "native")
    assert len(list((tmp_path / "native").glob("*.safetensors"))) > 1
    report = convert(tmp_path / "native", tmp_path / "ours", "ours", max_shard_size="10KB")
    assert report.files == len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert isinstance(ours, MoEForCausalLM)
    expected = logits(native)
    assert expected.std() > 0.1
    assert torch.allclose(logits(ours), expected, atol=1e-5)

    back = convert(tmp_path / "ours", tmp_path / "back", "native", max_shard_size="30KB")
    assert (back.tensors_read, back.tensors_written) == (report.tensors_written, report.tensors_read)
    assert_same_tensors(tmp_path / "native", tmp_path / "back")
    equal_where_known(*(AutoConfig.from_pretrained(tmp_path / folder) for folder in ("native", "back")))
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(logits(again), expected)


@pytest.mark.parametrize(
    "name", ["mistral-7b", "mixtral-8x7b", "deepseek-llm-67b", "deepseekmoe-16b", "deepseek-v2", "deepseek-v3"]
)
def test_our_checkpoint_of_a_preset_comes_back_from_its_native_form_bit_for_bit(name: str, tmp_path: Path) -> None:
    config = preset(name, tiny=True, kv_lora_rank=16, vocab_size=300)
    save_ours(config, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "native", "native")
    assert [path.name for path in (tmp_path / "native").glob("model*")] == ["model.safetensors"]
    convert(tmp_path / "native", tmp_path / "back", "ours")
    assert_same_tensors(tmp_path / "ours", tmp_path / "back")
    equal_where_known(*(MoEConfig.from_pretrained(tmp_path / folder) for folder in ("ours", "back")))


@pytest.mark.parametrize("name", AS_DEEPSEEK)
def test_a_router_without_a_class_of_its_own_goes_to_deepseek_and_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    save_ours(MoEConfig(**{**SPARSE, **AS_DEEPSEEK[name]}), tmp_path / "ours")
    report = convert(tmp_path / "ours", tmp_path / "native", "native")
    assert "topk_method" in str(report) or name == "noaux"
    names = tensors(tmp_path / "native").keys()
    assert {"model.layers.2.mlp.experts.3.up_proj.weight", "model.layers.2.mlp.gate.weight"} <= names
    convert(tmp_path / "native", tmp_path / "back", "ours")
    assert_same_tensors(tmp_path / "ours", tmp_path / "back")


def test_two_renormalised_experts_run_in_mixtrals_class_as_in_ours(tmp_path: Path) -> None:
    ours = save_ours(MoEConfig(**SPARSE, topk_method="top2_random"), tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "native", "native")
    native = AutoModelForCausalLM.from_pretrained(tmp_path / "native")
    assert native.config.model_type == "mixtral"
    assert torch.allclose(logits(native), logits(ours), atol=1e-5)


def test_multi_token_prediction_has_the_published_names_and_repeats(tmp_path: Path) -> None:
    save_ours(preset("deepseek-v3", tiny=True, kv_lora_rank=16), tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "native", "native")
    saved = tensors(tmp_path / "native")
    beyond = {name.removeprefix("model.layers.3.") for name in saved if name.startswith("model.layers.3.")}
    layer = {name.removeprefix("model.layers.2.") for name in saved if name.startswith("model.layers.2.")}
    assert beyond == layer | MTP_EXTRAS
    assert torch.equal(saved["model.layers.3.shared_head.head.weight"], saved["lm_head.weight"])
    assert torch.equal(saved["model.layers.3.embed_tokens.weight"], saved["model.embed_tokens.weight"])

    saved["model.layers.3.shared_head.head.weight"][0, 0] += 1
    save_file(saved, tmp_path / "native" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConversionError, match=r"repeat the embedding or the head.*shared_head.head.weight"):
        convert(tmp_path / "native", tmp_path / "back", "ours")


def test_a_prediction_depth_that_the_files_lack_is_said_and_comes_back_in_the_configuration(tmp_path: Path) -> None:
    save_native(CONFIGS["deepseek-v3-halves"], tmp_path / "native")
    report = convert(tmp_path / "native", tmp_path / "ours", "ours")
    assert "num_nextn_predict_layers 1" in report.notes[0]
    assert MoEConfig.from_pretrained(tmp_path / "ours").num_nextn_predict_layers == 0
    convert(tmp_path / "ours", tmp_path / "back", "native")
    assert AutoConfig.from_pretrained(tmp_path / "back").num_nextn_predict_layers == 1


def test_each_tensor_keeps_its_dtype_and_is_aligned_to_it(tmp_path: Path) -> None:
    model = save_native(CONFIGS["deepseek-v3"], tmp_path / "float32").to(torch.bfloat16)
    for name, buffer in model.named_buffers():
        if "e_score" in name:
            buffer.data = buffer.data.float()
    model.save_pretrained(tmp_path / "native")
    convert(tmp_path / "native", tmp_path / "ours", "ours")
    convert(tmp_path / "ours", tmp_path / "back", "native")
    assert {tensor.dtype for tensor in tensors(tmp_path / "ours").values()} == {torch.bfloat16, torch.float32}
    assert_same_tensors(tmp_path / "native", tmp_path / "back")
    for tensor in read_checkpoint(tmp_path / "ours").values():
        header = int.from_bytes(tensor.spans[0].path.read_bytes()[:8], "little")
        assert (tensor.spans[0].start - header - 8) % tensor.itemsize == 0
        assert header % 8 == 0


def test_tokenizer_template_and_generation_files_come_along_and_nothing_else_does(tmp_path: Path) -> None:
    save_native(CONFIGS["llama"], tmp_path / "native")
    beside = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "prompt_template.json", "modeling_x.py"]
    for name in [*beside, "optimizer.pt", "trainer_state.json"]:
        (tmp_path / "native" / name).write_text(name)
    convert(tmp_path / "native", tmp_path / "ours", "ours")
    copied = {path.name for path in (tmp_path / "ours").iterdir()}
    assert copied == {*beside, "generation_config.json", "config.json", "model.safetensors"}
    assert (tmp_path / "ours" / "prompt_template.json").read_text() == "prompt_template.json"


def test_old_rotary_frequencies_and_a_repeated_tied_head_are_left_out(tmp_path: Path) -> None:
    save_native(CONFIGS["llama-tied"], tmp_path / "native", max_shard_size="1GB")
    saved = tensors(tmp_path / "native")
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    head = {"lm_head.weight": saved["model.embed_tokens.weight"].clone()}
    save_file({**saved, **extra, **head}, tmp_path / "native" / "model.safetensors", {"format": "pt"})
    report = convert(tmp_path / "native", tmp_path / "ours", "ours")
    assert "1 rotary frequencies left out" in report.notes[0]
    assert tensors(tmp_path / "ours").keys() == saved.keys()
    save_file({**saved, "lm_head.weight": head["lm_head.weight"] + 1}, tmp_path / "native" / "model.safetensors")
    with pytest.raises(ConversionError, match=r"differ from it: lm_head.weight"):
        convert(tmp_path / "native", tmp_path / "again", "ours")


# Reads the kernel's own high-water mark, set back before: ru_maxrss would count the parent's memory at the fork.
MEMORY_SCRIPT = """
import re, sys
from pathlib import Path
from rlzero.models.convert import convert
def memory(name):
    return 1024 * int(re.search(name + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
source, target = map(Path, sys.argv[1:])
convert(source / "small", target / "small", "ours")
convert(target / "small", target / "small-back", "native")
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
convert(source / "large", target / "large", "ours")
convert(target / "large", target / "large-back", "native")
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_checkpoint_takes_a_small_part_of_its_size_in_memory(tmp_path: Path) -> None:
    save_native(CONFIGS["mixtral"], tmp_path / "small")
    width = {"hidden_size": 1024, "intermediate_size": 1536, "num_hidden_layers": 2, "vocab_size": 64}
    config = MixtralConfig(**width, num_attention_heads=8, num_key_value_heads=8)
    model = AutoModelForCausalLM.from_config(config)
    size = 4 * model.num_parameters()
    assert size > 300e6
    model.save_pretrained(tmp_path / "large")
    del model
    script = [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path), str(tmp_path / "out")]
    grown = int(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
    assert grown < 0.1 * size
    assert_same_tensors(tmp_path / "large", tmp_path / "out" / "large-back")


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixtral")
    save_native(CONFIGS["mixtral"], folder, max_shard_size="1GB")
    return folder


def edit_tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    def apply(folder: Path) -> None:
        saved = tensors(folder)
        edit(saved)
        save_file(saved, folder / "model.safetensors", {"format": "pt"})

    return apply


def edit_config(**values: object) -> Edit:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return apply


def torn(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


EXPERT = "model.layers.1.block_sparse_moe.experts.2.w1.weight"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (edit_tensors(lambda t: t.pop(EXPERT)), f"1 of the model's .* tensors are missing: {EXPERT}"),
        (edit_tensors(lambda t: t.update(x=torch.ones(1))), "1 tensors are none of the model's: x"),
        (
            edit_tensors(lambda t: t.update({EXPERT: t[EXPERT][:-1].clone()})),
            r"experts.2.w1.weight is \[47, 32\] and must be \[48, 32\]",
        ),
        (edit_tensors(lambda t: t.update({EXPERT: t[EXPERT].half()})), "have the dtypes F16, F32"),
        (edit_tensors(lambda t: t.update({EXPERT: t[EXPERT].to(torch.float8_e4m3fn)})), "1 tensors are quantized"),
        (edit_config(quantization_config={"quant_method": "fp8"}), "quantization_config .'fp8'.*fp8_cast_bf16.py"),
        (edit_config(model_type="qwen2"), "must be one of llama, mistral, .* got 'qwen2'"),
        (edit_config(num_attention_heads="many"), "is refused: .*num_attention_heads"),
        (edit_config(num_experts_per_tok=9), "num_experts_per_tok must be at most n_routed_experts, 4, got 9"),
        (edit_config(num_local_experts=5), "experts.4.w1.weight"),
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json"),
        (lambda folder: (folder / "config.json").write_text("["), "config.json is no configuration"),
        (torn, "model.safetensors is torn"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "is torn"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\1" + b"\0" * 9), "no safetensors file"),
        (only_pickled, "only safetensors are read, and .* holds pytorch_model.bin"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds neither model.safetensors nor"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone"}}'),
            "names files that are not there: gone",
        ),
    ],
)
def test_a_checkpoint_that_would_not_convert_whole_is_refused_by_name(
    edit: Edit, words: str, mixtral: Path, tmp_path: Path
) -> None:
    shutil.copytree(mixtral, tmp_path / "native")
    edit(tmp_path / "native")
    with pytest.raises(ModelError, match=f"(?s){words}"):
        convert(tmp_path / "native", tmp_path / "ours", "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["native"]


def test_a_model_that_is_in_the_wanted_form_already_is_refused(mixtral: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="must be one of rlzero_moe, got 'mixtral'"):
        convert(mixtral, tmp_path / "native", "native")
    with pytest.raises(ConversionError, match="to must be one of ours, native, got 'theirs'"):
        convert(mixtral, tmp_path / "x", "theirs")


def test_our_own_configuration_is_checked_before_its_tensors(tmp_path: Path) -> None:
    save_ours(MoEConfig(**SPARSE), tmp_path / "ours")
    edit_config(num_experts_per_tok=9)(tmp_path / "ours")
    with pytest.raises(ConversionError, match="num_experts_per_tok must be at most n_routed_experts, 4, got 9"):
        convert(tmp_path / "ours", tmp_path / "native", "native")


def test_a_configuration_without_a_native_class_leaves_nothing_behind(tmp_path: Path) -> None:
    save_ours(preset("shazeer-2017", tiny=True), tmp_path / "ours")
    with pytest.raises(ConversionError, match="attention_kind is 'lstm'"):
        convert(tmp_path / "ours", tmp_path / "native", "native")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_destination_with_something_in_it_is_refused_and_an_empty_one_is_filled(
    mixtral: Path, tmp_path: Path
) -> None:
    (tmp_path / "ours").mkdir()
    convert(mixtral, tmp_path / "ours", "ours")
    with pytest.raises(ConversionError, match="must not exist or be an empty folder"):
        convert(mixtral, tmp_path / "ours", "ours")
    with pytest.raises(ConversionError, match="must not exist or be an empty folder"):
        convert(mixtral, tmp_path / "ours" / "config.json", "ours")


def test_a_conversion_that_breaks_off_leaves_no_folder(
    mixtral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(MoEConfig, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        convert(mixtral, tmp_path / "ours", "ours")
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_said_before_anything_is_written(
    mixtral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConversionError, match=r"are to be written and 0.0 GB are free"):
        convert(mixtral, tmp_path / "deep" / "ours", "ours")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("1.5 MiB", 1.5 * 2**20), ("10kb", 10**4), (123, 123), ("7B", 7)]
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "4XB", "0", "-1GB", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="max_shard_size must be a positive size such as 4GB"):
        parse_size(text)


def test_the_command_reports_what_it_did_and_returns_two_for_what_it_refuses(
    mixtral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    conversion.add_arguments(parser)
    words = [str(mixtral), str(tmp_path / "ours"), "--to", "ours", "--max_shard_size", "40KB"]
    assert conversion.run(parser.parse_args(words)) == 0
    out = capsys.readouterr().out
    count = len(tensors(tmp_path / "ours"))
    assert f"{len(tensors(mixtral))} tensors read, {count} written" in out
    assert conversion.run(parser.parse_args(words)) == 2
    assert "error: the destination must not exist" in capsys.readouterr().err


def test_our_files_are_read_by_safetensors_and_indexed_as_transformers_does(mixtral: Path, tmp_path: Path) -> None:
    convert(mixtral, tmp_path / "ours", "ours", max_shard_size="20KB")
    index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
    found = {}
    for path in (tmp_path / "ours").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            found |= dict.fromkeys(file.keys(), path.name)
    assert index["weight_map"] == found
    sizes = [tensor.nbytes for tensor in tensors(tmp_path / "ours").values()]
    assert index["metadata"]["total_size"] == sum(sizes)


def test_the_native_configuration_is_the_one_that_is_written(mixtral: Path, tmp_path: Path) -> None:
    convert(mixtral, tmp_path / "ours", "ours")
    expected = to_native_config(MoEConfig.from_pretrained(tmp_path / "ours"))
    convert(tmp_path / "ours", tmp_path / "native", "native")
    equal_where_known(AutoConfig.from_pretrained(tmp_path / "native"), expected)

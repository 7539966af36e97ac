"""A model that cannot be used is refused by name, before anything long starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlzero.models.load import (
    ModelError,
    check_model,
    context_length,
    load_model,
    load_tokenizer,
    may_be_hub_id,
    model_skeleton,
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, **special: str) -> Path:
    raw = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    return folder


def test_a_saved_model_loads_with_its_own_weights(llama: Path) -> None:
    model = load_model(llama)
    saved = load_file(llama / "model.safetensors")
    for name, value in saved.items():
        assert torch.equal(model.state_dict()[name], value)
    assert load_model(llama, "bfloat16").dtype == torch.bfloat16
    assert context_length(model.config) == 128


def test_a_skeleton_has_the_shape_and_no_weights(llama: Path) -> None:
    skeleton = model_skeleton(llama)
    assert {p.device.type for p in skeleton.parameters()} == {"meta"}
    assert sum(p.numel() for p in skeleton.parameters()) == sum(p.numel() for p in load_model(llama).parameters())


def test_a_checkpoint_that_lacks_weights_is_refused_rather_than_filled_at_random(llama: Path, tmp_path: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    with pytest.raises(ModelError, match=r"does not hold 1 of the model's weights \(lm_head.weight\)"):
        load_model(tmp_path)


@pytest.mark.parametrize("load", [load_model, load_tokenizer, check_model])
@pytest.mark.parametrize("name", ["nowhere", "runs/of/mine/model", "./nowhere"])
def test_a_missing_folder_is_told_without_asking_the_hub(load, name: str) -> None:
    with pytest.raises(ModelError, match=f"model folder '{name}' does not exist"):
        load(name)


def test_a_missing_folder_inside_one_that_exists_is_no_hub_id(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert not may_be_hub_id("runs/model")
    assert may_be_hub_id("owner/model")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model: there is no config\.json"):
        check_model(tmp_path)


def test_a_file_is_no_model_folder(llama: Path) -> None:
    with pytest.raises(ModelError, match="is a file, not a folder"):
        check_model(llama / "config.json")


def test_a_configuration_without_weights_is_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    with pytest.raises(ModelError, match="cannot load the weights"):
        load_model(tmp_path)


def test_an_encoder_is_not_taken_for_a_causal_model(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not a causal language model: its architecture is BertForMaskedLM"):
        load_model(tmp_path)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    with pytest.raises(ModelError, match="cannot read the configuration"):
        check_model(tmp_path)


def test_a_field_of_the_wrong_type_is_named(llama: Path, tmp_path: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": "two"}))
    with pytest.raises(ModelError, match=r"'num_hidden_layers'.* expected int, got str"):
        check_model(tmp_path)


def test_an_unknown_dtype_is_refused(llama: Path) -> None:
    with pytest.raises(ModelError, match="unknown dtype 'int3'"):
        load_model(llama, "int3")


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        load_tokenizer(save_tokenizer(tmp_path))


def test_the_end_token_stands_in_for_a_missing_padding_token(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, eos_token="<eos>"))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    assert tokenizer.padding_side == "left"


def test_a_folder_without_a_tokenizer_is_refused(llama: Path) -> None:
    with pytest.raises(ModelError, match="cannot load a tokenizer"):
        load_tokenizer(llama)

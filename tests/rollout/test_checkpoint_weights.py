import pytest
import torch
from safetensors.torch import load_file

from rlzero.rollout.checkpoint_weights import CheckpointWeights

KINDS = ("qwen3_moe", "llama", "llama_tied", "mixtral", "deepseek_v3")


@pytest.mark.parametrize("kind", KINDS)
def test_names_shapes_and_values_are_those_of_a_saved_checkpoint(kind, tiny, tmp_path):
    model = tiny.make_model(kind)
    weights = CheckpointWeights(model)
    tiny.change_weights(model, seed=1)
    tiny.save_model(model, tmp_path)

    saved = load_file(tmp_path / "model.safetensors")
    given = dict(weights)
    assert given.keys() == saved.keys()
    for name, tensor in saved.items():
        torch.testing.assert_close(given[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["deepseek-v3", "gshard"])
def test_our_own_decoders_names_are_those_in_memory(name, tmp_path):
    from rlzero.models.decoder import MoEForCausalLM
    from rlzero.models.presets import preset

    model = MoEForCausalLM(preset(name, tiny=True))
    model.save_pretrained(tmp_path)
    saved, given = load_file(tmp_path / "model.safetensors"), dict(CheckpointWeights(model))

    assert given.keys() == saved.keys() == model.state_dict().keys()
    for tensor_name, tensor in model.state_dict().items():
        assert given[tensor_name].data_ptr() == tensor.data_ptr()
        torch.testing.assert_close(saved[tensor_name], tensor, rtol=0, atol=0)


def test_fused_experts_are_handed_over_without_a_copy(tiny):
    model = tiny.make_model("mixtral")
    fused = model.model.layers[1].mlp.experts.gate_up_proj
    given = dict(CheckpointWeights(model))["model.layers.1.block_sparse_moe.experts.3.w3.weight"]

    assert given.untyped_storage().data_ptr() == fused.untyped_storage().data_ptr()
    assert not given.requires_grad


def test_a_conversion_that_is_not_a_view_still_gives_the_checkpoint(tiny, tmp_path, monkeypatch):
    model = tiny.make_model("mixtral")
    # The plan fails where a converted tensor is a copy, as a concatenation makes it.
    monkeypatch.setattr("rlzero.rollout.checkpoint_weights._plan_views", lambda model: None)
    weights = CheckpointWeights(model)
    tiny.save_model(model, tmp_path)

    saved = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.sum().item() for name, tensor in weights} == {
        name: tensor.sum().item() for name, tensor in saved.items()
    }

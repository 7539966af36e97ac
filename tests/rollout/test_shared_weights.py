"""A model around weights in shared memory computes what the model itself computes."""

import pytest
import torch

from rlzero.models.adapter import add_adapters
from rlzero.rollout.shared_weights import SharedWeights

IDS = torch.tensor([[3, 4, 5, 6], [9, 8, 7, 6]])


def _logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", ["llama_tied", "mixtral", "deepseek_v3"])
def test_model_around_shared_weights_is_the_model_bit_for_bit_and_follows_it(tiny, kind):
    model = tiny.make_model(kind)
    shared = SharedWeights(model)
    rest = shared.without_weights(model)
    around = shared.around(rest)
    before = _logits(model)
    assert torch.equal(_logits(around), before)
    assert [name for name, _ in around.named_parameters()] == [name for name, _ in model.named_parameters()]

    tiny.change_weights(model, seed=1)
    assert torch.equal(_logits(around), before)
    shared.fill(model)
    assert torch.equal(_logits(around), _logits(model))
    assert not torch.equal(_logits(around), before)
    assert len(rest) < 0.1 * sum(p.numel() * p.element_size() for p in model.parameters())


def test_adapters_are_weights_too(tiny):
    model = tiny.make_model("llama")
    add_adapters(model, rank=2, alpha=4.0)
    shared = SharedWeights(model)
    around = shared.around(shared.without_weights(model))
    before = _logits(around)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.lora_B.add_(0.1)
    shared.fill(model)
    assert torch.equal(_logits(around), _logits(model))
    assert not torch.equal(_logits(around), before)


def test_too_little_shared_memory_is_an_error_with_its_remedy(tiny, monkeypatch):
    def refuse(tensor):
        raise RuntimeError("unable to allocate shared memory: No space left on device")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    with pytest.raises(ValueError, match=r"MiB of shared memory.*No space left.*--shm-size"):
        SharedWeights(tiny.make_model("llama"))

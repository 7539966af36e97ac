"""Low-rank adapters: nothing at first, then all that is trained; switched off, and merged for whoever knows none."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from rlzero.models.adapter import AdaptedLinear, adapted_layers, add_adapters, merged_state, without_adapters
from rlzero.rollout.checkpoint_weights import CheckpointWeights
from tests.models.routed import make_model

KINDS = ["llama", "mixtral", "deepseek_v3", "ours_topk_softmax"]
IDS = torch.arange(3, 17)[None]


def adapted(kind: str, trained: bool = True, **settings) -> PreTrainedModel:
    model = make_model(kind).eval()
    add_adapters(model, **{"rank": 3, "alpha": 6.0, **settings})
    if trained:
        torch.manual_seed(0)
        for layer in adapted_layers(model).values():
            torch.nn.init.normal_(layer.lora_B, std=0.2)
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_change_nothing_at_first_and_can_be_left_out_later(kind):
    wanted = logits(make_model(kind).eval())
    assert torch.equal(logits(adapted(kind, trained=False)), wanted)
    model = adapted(kind)
    now = logits(model)
    assert not torch.allclose(now, wanted)
    with without_adapters(model):
        assert torch.equal(logits(model), wanted)
    assert torch.equal(logits(model), now)
    with pytest.raises(KeyError), without_adapters(model):
        raise KeyError
    assert torch.equal(logits(model), now)


def test_layer_adds_its_low_rank_product():
    """h = W x + (alpha / rank) B A x: LoRA (2106.09685), eq. 3."""
    layer = next(iter(adapted_layers(adapted("llama", rank=2, alpha=5.0)).values()))
    hidden = torch.randn(4, layer.in_features)
    wanted = hidden @ layer.weight.T + 5.0 / 2 * (hidden @ layer.lora_A.T) @ layer.lora_B.T
    torch.testing.assert_close(layer(hidden), wanted)
    torch.testing.assert_close(torch.nn.functional.linear(hidden, layer.merged()), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_are_trained(kind):
    model = adapted(kind)
    model(input_ids=IDS).logits.log_softmax(-1)[..., 3].sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if n.endswith(("lora_A", "lora_B"))}
    assert all(model.get_parameter(name).grad.abs().sum() > 0 for name in trained)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_state_is_that_of_a_plain_model_which_computes_the_same(kind):
    model, plain = adapted(kind), make_model(kind).eval()
    state = merged_state(model, model.state_dict())
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict(state)
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_gets_the_merged_weights_under_the_names_of_the_checkpoint(kind):
    """Those of now, whenever they are asked for."""
    model, plain = adapted(kind), make_model(kind)
    weights, theirs = CheckpointWeights(model), CheckpointWeights(plain)
    for _ in range(2):
        plain.load_state_dict(merged_state(model, model.state_dict()))
        found, wanted = dict(weights), dict(theirs)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        for layer in adapted_layers(model).values():
            layer.lora_A.data += 0.1


def test_every_linear_layer_but_the_head_is_adapted_or_those_that_are_named():
    whole, some = adapted("llama"), adapted("llama", targets=["q_proj", "v_proj"])
    assert {name.split(".")[-2] for name in adapted_layers(whole)} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert not isinstance(whole.get_output_embeddings(), AdaptedLinear)
    assert {name.split(".")[-2] for name in adapted_layers(some)} == {"q_proj", "v_proj"}


def test_the_same_seed_makes_the_same_adapters():
    one, other, third = (adapted("llama", trained=False, seed=seed).state_dict() for seed in (1, 1, 2))
    name = "model.layers.0.self_attn.q_proj.lora_A"
    assert torch.equal(one[name], other[name])
    assert not torch.equal(one[name], third[name])
    assert not one[name.replace("lora_A", "lora_B")].any()


def test_layers_that_are_not_there_are_refused_by_name():
    with pytest.raises(ValueError, match=r"linear layers of LlamaForCausalLM \(down_proj, .*\['c_attn'\] are none"):
        adapted("llama", targets=["q_proj", "c_attn"])

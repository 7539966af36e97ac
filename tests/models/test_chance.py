"""A policy computes in training what an engine computes: dropout is off, and what still draws is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import FalconConfig, FalconForCausalLM, GPT2Config, GPT2LMHeadModel, PhimoeConfig, PhimoeForCausalLM

from rlzero.models.chance import remove_chance
from tests.models.routed import make_model

IDS = torch.arange(3, 19)[None]


def shaken(model: nn.Module) -> nn.Module:
    """A random model whose layers matter."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def gpt2() -> nn.Module:
    """With the dropout of 0.1 that its configuration has."""
    sizes = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return shaken(GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)))


def test_model_with_dropout_computes_without_it():
    model = gpt2().train()
    wanted = model.eval()(IDS).logits
    assert not torch.equal(model.train()(IDS).logits, wanted)
    remove_chance(model)
    assert model.training
    assert torch.equal(model(IDS).logits, wanted)


@pytest.mark.parametrize("kind", ["llama", "ours_topk_softmax", "deepseek_v3"])
def test_others_are_left_as_they_are(kind):
    model = make_model(kind).eval()
    wanted, state = model(IDS).logits, torch.get_rng_state()
    remove_chance(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(IDS).logits, wanted)
    assert not model.training


def test_model_that_draws_in_training_mode_all_the_same_is_refused():
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    routed = PhimoeConfig(**sizes, intermediate_size=32, num_key_value_heads=2, num_local_experts=4)
    own_dropout = FalconConfig(**sizes, hidden_dropout=0.3, new_decoder_architecture=False, parallel_attn=False)
    for model in (PhimoeForCausalLM(routed), FalconForCausalLM(own_dropout)):
        with pytest.raises(ValueError, match=f"{type(model).__name__} draws something in training mode"):
            remove_chance(shaken(model))

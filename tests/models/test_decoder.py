"""The decoder as a transformers model: saved and loaded, trained and generated from like any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from rlzero.models.balance import balance_loss
from rlzero.models.config import MoEConfig
from rlzero.models.decoder import MoEForCausalLM, MoEModel
from rlzero.models.load import check_model, load_model, model_skeleton
from rlzero.models.moe import moe_layers
from tests.models.tiny import MIXERS, VOCAB, make_config, make_decoder, tokens

KINDS = tuple(MIXERS)
BALANCED = {"balance": {"switch": 0.3, "z": 0.02}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_decoder_loads_as_it_was(kind, tmp_path: Path) -> None:
    model = make_decoder(kind, num_nextn_predict_layers=1, balance={"switch": 0.1})
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, MoEForCausalLM)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MoEConfig)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    for field, value in model.config.to_dict().items():
        assert field in ("dtype", "_name_or_path") or loaded.config.to_dict()[field] == value, field
    ids = tokens(2, 8)
    torch.testing.assert_close(loaded.eval()(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    assert isinstance(AutoModel.from_pretrained(tmp_path), MoEModel)


def test_our_loader_needs_no_import_of_the_decoder(tmp_path: Path) -> None:
    make_decoder().save_pretrained(tmp_path)
    script = f"""
import sys
import rlzero.models.load as load
assert "torch" not in sys.modules and "transformers" not in sys.modules
print(type(load.check_model({str(tmp_path)!r})).__name__, type(load.load_model({str(tmp_path)!r})).__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["MoEConfig", "MoEForCausalLM"], done.stderr


def test_our_loader_knows_the_decoder(tmp_path: Path) -> None:
    make_decoder().save_pretrained(tmp_path)
    assert check_model(tmp_path).model_type == "rlzero_moe"
    assert {p.device.type for p in model_skeleton(tmp_path).parameters()} == {"meta"}
    half = load_model(tmp_path, "bfloat16")
    assert half.dtype == torch.bfloat16
    assert half(tokens(1, 4)).logits.dtype == torch.bfloat16


def test_a_routers_bias_stays_float32(tmp_path: Path) -> None:
    """A step of 0.001 is lost in bfloat16 beside a bias above 0.25."""
    model = make_decoder("mla")
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, "bfloat16")
    biases = [layer.gate.e_score_correction_bias for layer in moe_layers(loaded)]
    assert len(biases) == 2
    for bias, original in zip(biases, moe_layers(model), strict=True):
        assert bias.dtype == torch.float32
        assert torch.equal(bias, original.gate.e_score_correction_bias)


def test_tied_embeddings_are_one_tensor(tmp_path: Path) -> None:
    make_decoder(tie_word_embeddings=True).save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_a_new_decoder_starts_as_its_configuration_says() -> None:
    torch.manual_seed(0)
    model = MoEForCausalLM(make_config(initializer_range=0.05, hidden_size=64, head_dim=16))
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.ones_like(weight)), name
        elif "embed_tokens" not in name:
            assert 0.03 < weight.std() < 0.07, name
    noisy = MoEForCausalLM(make_config(topk_method="noisy_topk", balance={"load": 0.1}))
    for layer in moe_layers(noisy):
        assert not layer.gate.weight.any()
        assert not layer.gate.noise_weight.any()


@pytest.mark.parametrize("kind", KINDS)
def test_generation_is_greedy_decoding_of_full_passes(kind) -> None:
    model = make_decoder(kind)
    ids = tokens(3, 9)
    mask = torch.ones_like(ids)
    mask[1, :4], mask[2, :7] = 0, 0
    ids = ids * mask
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    whole = model.generate(ids, attention_mask=mask, **options)
    for row, start in enumerate((0, 4, 7)):
        expected = ids[row, start:]
        for _ in range(12):
            with torch.no_grad():
                best = model(expected[None], use_cache=False).logits[0, -1].argmax()
            expected = torch.cat([expected, best[None]])
        assert whole[row, start:].tolist() == expected.tolist()
    assert torch.equal(whole, model.generate(ids, attention_mask=mask, use_cache=False, **options))
    # In training mode too, where a plain forward pass fills no cache.
    assert torch.equal(whole, model.train().generate(ids, attention_mask=mask, **options))
    assert model(ids).past_key_values is None


@pytest.mark.parametrize("kind", KINDS)
def test_beams_and_chunked_prefill_take_their_past_along(kind) -> None:
    model = make_decoder(kind)
    ids = tokens(2, 9)
    options = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    whole = model.generate(ids, use_cache=False, **options)
    assert torch.equal(whole, model.generate(ids, **options))
    assert torch.equal(whole, model.generate(ids, prefill_chunk_size=4, **options))


def test_another_cache_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"its own cache, got cache_implementation='static'\. Leave it out"):
        make_decoder().generate(tokens(1, 3), max_new_tokens=2, cache_implementation="static")


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_only_the_last_logits_where_only_they_are_asked_for(kind) -> None:
    model = make_decoder(kind)
    ids = tokens(2, 8)
    whole = model(ids).logits
    assert whole.shape == (2, 8, VOCAB)
    # Not bit for bit: a matrix product of another shape may be shared out to threads in another way.
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, whole[:, -3:], rtol=1e-5, atol=1e-6)
    chosen = torch.tensor([1, 5])
    torch.testing.assert_close(model(ids, logits_to_keep=chosen).logits, whole[:, chosen], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_hidden_states_are_those_of_each_layer() -> None:
    model = make_decoder()
    ids = tokens(2, 8)
    states = model(ids, output_hidden_states=True).hidden_states
    assert len(states) == 4
    assert torch.equal(states[0], model.model.embed_tokens(ids))
    torch.testing.assert_close(model.lm_head(states[-1]), model(ids).logits)


@pytest.mark.parametrize("given", [{}, {"input_ids": tokens(1, 3), "inputs_embeds": torch.zeros(1, 3, 32)}])
def test_tokens_or_embeddings_and_not_both(given) -> None:
    with pytest.raises(ValueError, match=r"either input_ids or inputs_embeds, got (neither|both)"):
        make_decoder()(**given)


def _likelihood(model, ids: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def test_the_loss_of_training_holds_the_balance_losses_and_that_of_evaluation_does_not() -> None:
    model = make_decoder(**BALANCED)
    ids = tokens(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, labels=ids).loss, _likelihood(model, ids))
        model.train()
        output = model(ids, labels=ids)
        routings = [layer.last for layer in moe_layers(model)]
        assert len(routings) == 2
        sequences = torch.tensor([0] * 8 + [1] * 8)
        expected = balance_loss(routings, model.config, None, sequences)
        assert expected > 0.1
        torch.testing.assert_close(output.aux_loss, expected)
        torch.testing.assert_close(output.loss, _likelihood(model, ids) + expected)


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_a_caller_with_a_loss_of_its_own_is_given_balance_and_logits(training) -> None:
    model = make_decoder(**BALANCED).train(training)
    ids = tokens(2, 8)
    silent = model(ids)
    assert silent.aux_loss is None
    assert silent.router_logits is None
    output = model(ids, output_router_logits=True)
    assert output.loss is None
    assert output.aux_loss > 0.1
    assert [logits.shape for logits in output.router_logits] == [(16, 8)] * 2
    hidden = model(ids, output_hidden_states=True).hidden_states[1]
    layer = model.model.layers[1]
    mixing = model.model.mixing(hidden, None, torch.arange(8)[None])
    inside = hidden + layer.self_attn(layer.input_layernorm(hidden), **mixing)
    expected = layer.post_attention_layernorm(inside).flatten(0, 1) @ layer.mlp.gate.weight.T
    torch.testing.assert_close(output.router_logits[0], expected, rtol=1e-4, atol=1e-5)
    # Asked for once, not from now on.
    assert not model.config.output_router_logits
    assert model(ids).router_logits is None


@torch.no_grad()
def test_padding_and_packing_are_seen_by_the_balance_losses() -> None:
    model = make_decoder(balance={"expert": 0.3}).train()
    ids = tokens(2, 10)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    positions = torch.tensor([[*range(10), *range(6)]])
    padded = model(ids, attention_mask=mask, output_router_logits=True).aux_loss
    packed = model(ids.flatten()[None, :16], position_ids=positions, output_router_logits=True).aux_loss
    torch.testing.assert_close(padded, packed)
    alone = [model(row[None, :n], output_router_logits=True).aux_loss for row, n in zip(ids, (10, 6), strict=True)]
    torch.testing.assert_close(padded, torch.stack(alone).mean())


@torch.no_grad()
def test_in_accumulated_batches_the_balance_losses_count_by_their_targets() -> None:
    model = make_decoder(**BALANCED).train()
    ids = tokens(2, 8)
    output = model(ids, labels=ids, num_items_in_batch=28)
    torch.testing.assert_close(output.loss, (_likelihood(model, ids) + output.aux_loss) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_no_gradient(kind) -> None:
    """Neither the likelihood's nor the balance losses', which are read from the side of the layers; chance included."""
    changes = {"num_nextn_predict_layers": 1, **BALANCED}
    if kind == "gqa":
        changes |= {"topk_method": "noisy_topk", "balance": {"load": 0.3, "importance": 0.2}}
    model = make_decoder(kind, **changes).train()
    ids = tokens(2, 9)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(0)
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    assert sum("gate.weight" in name and gradient.any() for name, gradient in gradients[0].items()) >= 2
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_backward_pass_of_checkpointing_leaves_the_routing_of_the_forward_pass() -> None:
    """Or the recomputed activations would stay in memory with it, one layer after the other."""
    model = make_decoder(**BALANCED).train()
    model.gradient_checkpointing_enable()
    ids = tokens(2, 9)
    loss = model(ids, labels=ids).loss
    routings = [layer.last for layer in moe_layers(model)]
    loss.backward()
    assert all(layer.last is routing for layer, routing in zip(moe_layers(model), routings, strict=True))


def test_reentrant_checkpointing_is_refused_where_it_would_hide_the_balance_losses() -> None:
    model = make_decoder(**BALANCED).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    ids = tokens(2, 9)
    with pytest.raises(ValueError, match="use_reentrant"):
        model(ids, labels=ids)


@pytest.mark.parametrize("dtype", ["autocast", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_lower_precision_stays_close(kind, dtype) -> None:
    """In a padded pass and in one that goes on from its cache."""
    model, lower = make_decoder(kind), make_decoder(kind)
    if dtype == "bfloat16":
        lower = lower.bfloat16()
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    exact = model(ids, attention_mask=mask, position_ids=positions).logits[:, -1]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
        cache = lower(ids[:, :8], attention_mask=mask[:, :8], position_ids=positions[:, :8]).past_key_values
        rounded = lower(ids[:, 8:], attention_mask=mask, position_ids=positions[:, 8:], past_key_values=cache).logits
    assert rounded.dtype == torch.bfloat16
    assert 1e-6 < (exact.softmax(-1) - rounded[:, -1].float().softmax(-1)).abs().mean() < 0.01


def test_the_kernel_of_the_experts_follows_the_hardware_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    for cuda in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        chosen.append(AutoModelForCausalLM.from_config(make_config()).config._experts_implementation)
    assert chosen == ["eager", "grouped_mm"]
    named = AutoModelForCausalLM.from_config(make_config(), experts_implementation="batched_mm")
    assert named.config._experts_implementation == "batched_mm"

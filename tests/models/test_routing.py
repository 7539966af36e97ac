"""The routing of every kind of router can be recorded and replayed, with the gradient of its gates."""

from __future__ import annotations

import pytest
import torch

from rlzero.models.routing import record_routing, replay_routing, router_layers, router_modules
from tests.models.routed import CHOOSING, EXPERTS, LAYERS, OURS, STOCK, make_ids, make_model

KINDS = [*STOCK, *OURS]
FIRST_DENSE = ("deepseek_v2", "deepseek_v3", "ours_group_limited", "ours_noaux_tc")


def logits_of(model, ids=None):
    return model(input_ids=make_ids() if ids is None else ids, use_cache=False).logits


def recorded(model):
    """Logits and int64[L, T, K] of the router's own choice."""
    with torch.no_grad(), record_routing(model) as tape:
        logits = logits_of(model)
    return logits, torch.stack(tape.indices)


def others(indices):
    """As many experts for every token, and none of its own where K ≤ E / 2."""
    return (indices + indices.shape[-1]) % EXPERTS if indices.shape[-1] == 1 else (indices + 1) % EXPERTS


@pytest.mark.parametrize("kind", KINDS)
def test_routers_are_found_in_layer_order_and_without_prediction_heads(kind):
    model = make_model(kind)
    layers = list(range(1 if kind in FIRST_DENSE else 0, LAYERS))
    assert router_layers(model) == layers
    assert router_modules(model) == [model.model.layers[layer].mlp.gate for layer in layers]


def test_dense_model_has_no_router_and_an_empty_tape():
    model = make_model("llama")
    assert router_modules(model) == router_layers(model) == []
    with record_routing(model) as tape, replay_routing(model, torch.empty(0, 18, 2, dtype=torch.int64)):
        logits_of(model)
    assert tape.indices == []


@pytest.mark.parametrize("kind", KINDS)
def test_replayed_routing_gives_the_recorded_forward_bit_for_bit(kind):
    model = make_model(kind)
    logits, indices = recorded(model)
    assert indices.shape == (len(router_modules(model)), 18, model.config.num_experts_per_tok)
    assert indices.dtype == torch.int64
    with replay_routing(model, indices.to(torch.int16)), record_routing(model) as used:
        assert torch.equal(logits_of(model), logits)
    assert torch.equal(torch.stack(used.indices), indices)
    assert torch.equal(used.stacked(), indices.transpose(0, 1))


@pytest.mark.parametrize("kind", CHOOSING)
def test_other_experts_give_other_logits_and_afterwards_the_router_chooses_again(kind):
    model = make_model(kind)
    logits, indices = recorded(model)
    forced = others(indices)
    with record_routing(model) as own, replay_routing(model, forced), record_routing(model) as used:
        changed = logits_of(model)
    assert (changed - logits).abs().max() > 1e-2
    assert torch.equal(torch.stack(used.indices), forced)
    # The first router reads what no router has changed.
    assert torch.equal(own.indices[0], indices[0])
    assert torch.equal(logits_of(model), logits)


@pytest.mark.parametrize("kind", CHOOSING)
def test_minus_one_leaves_a_token_to_the_router(kind):
    model = make_model(kind)
    logits, indices = recorded(model)
    with replay_routing(model, torch.full_like(indices, -1)):
        assert torch.equal(logits_of(model), logits)
    half = indices.clone()
    half[:, 9:] = others(indices)[:, 9:]  # the second row of two
    half[:, :9] = -1
    with replay_routing(model, half):
        mixed = logits_of(model)
    torch.testing.assert_close(mixed[0], logits[0])
    assert not torch.allclose(mixed[1], logits[1], atol=1e-3)


def gates_by_hand(kind, router, logits, indices):
    """The published rule of each class, written out for one token at a time."""
    gates = torch.zeros(indices.shape, dtype=torch.float64)
    for t, row in enumerate(indices.tolist()):
        scores = logits[t].double()
        scores = scores.sigmoid() if kind == "deepseek_v3" else scores.exp() / scores.exp().sum()
        total = sum(scores[e] for e in row)
        for k, e in enumerate(row):
            gate = scores[e] / total if kind in ("mixtral", "qwen3_moe", "deepseek_v3") else scores[e]
            gates[t, k] = gate * (2.5 if kind.startswith("deepseek") else 1)
    return gates


@pytest.mark.parametrize("kind", sorted(STOCK))
def test_gates_of_replayed_experts_follow_the_rule_of_the_class(kind):
    model = make_model(kind)
    _, indices = recorded(model)
    seen = {}
    router = router_modules(model)[0]
    with replay_routing(model, others(indices)):
        handle = router.register_forward_hook(lambda module, args, output: seen.update(output=output))
        logits_of(model)
        handle.remove()
    logits, gates, chosen = seen["output"]
    assert torch.equal(chosen, others(indices)[0])
    torch.testing.assert_close(gates.double(), gates_by_hand(kind, router, logits, chosen), rtol=1e-6, atol=1e-7)


@pytest.fixture
def everything_in_float64(monkeypatch):
    """transformers' norms and routers ask for float32 by these names; finite differences need more digits."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.mark.parametrize("kind", [k for k in CHOOSING if k in STOCK or k in ("ours_switch", "ours_noaux_tc")])
def test_gradient_of_the_router_under_replay_is_its_finite_difference(kind, everything_in_float64):
    model = make_model(kind, _experts_implementation="eager").double()  # grouped_mm knows no float64
    _, indices = recorded(model)
    forced = others(indices)

    def loss():
        with replay_routing(model, forced):
            return logits_of(model).log_softmax(-1)[..., 5].sum()

    loss().backward()
    step = 1e-4
    for router in router_modules(model):
        gradient = router.weight.grad
        at = divmod(int(gradient.abs().argmax()), gradient.shape[1])
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                router.weight[at] += sign * step
                values.append(loss().item())
                router.weight[at] -= sign * step
        difference = (values[0] - values[1]) / (2 * step)
        assert abs(difference) > 1e-3
        assert gradient[at].item() == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3", "ours_noaux_tc"])
def test_gradient_checkpointing_replays_in_the_second_forward_too(kind):
    def gradients(checkpointing):
        model = make_model(kind).train()
        forced = others(recorded(model.eval())[1])
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        with replay_routing(model, forced), record_routing(model) as used:
            logits_of(model).log_softmax(-1)[..., 5].sum().backward()
        assert torch.equal(torch.stack(used.indices), forced)
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)


@pytest.mark.parametrize("kind", ["mixtral", "ours_noaux_tc"])
def test_tape_holds_the_newest_forward_only(kind):
    model = make_model(kind)
    with torch.no_grad(), record_routing(model) as tape:
        logits_of(model)
        logits_of(model, make_ids(rows=1, length=4))
    assert tape.stacked().shape == (4, len(router_modules(model)), 2)


def test_routing_of_another_shape_is_refused():
    model = make_model("mixtral")
    _, indices = recorded(model)
    with (
        pytest.raises(ValueError, match=r"each of the model's 3 routers, got 2 layers. Record it from the same model"),
        replay_routing(model, indices[:2]),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"must have \[18, 2\] experts .* got \[17, 2\]. Give a row for every token"),
        replay_routing(model, indices[:, :17]),
    ):
        logits_of(model)
    # Nothing of a replay that failed stays behind.
    assert all(not router._forward_hooks for router in router_modules(model))

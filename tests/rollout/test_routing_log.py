"""Rollouts of the built-in engine say which experts were run, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.problem import Problem
from rlzero.models.routing import record_routing, replay_routing
from rlzero.rollout.builtin import BuiltinEngine
from rlzero.rollout.types import Sampling
from tests.models.routed import STOCK, VOCABULARY, make_model

EOS = 2
SAMPLING = Sampling(n=4, max_tokens=24, seed=3)


def rollouts_of(model, **options):
    """Answers of different lengths to prompts of different lengths."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, VOCABULARY, size=length).tolist() for length in (5, 1, 14, 9, 5)]
    problems = [Problem(f"problem {i}", "42") for i in range(len(prompts))]
    engine = BuiltinEngine(model, [EOS, 3, 4, 5], **options)
    rollouts = [r for group in engine.generate(problems, prompts, SAMPLING) for r in group.rollouts]
    lengths = {len(r.completion_ids) for r in rollouts}
    assert len(lengths) > 5, "rows leave the batch at different times"
    assert max(lengths) == SAMPLING.max_tokens
    return rollouts


def test_nothing_is_recorded_unless_asked_for():
    assert all(rollout.routing is None for rollout in rollouts_of(make_model("mixtral")))


@pytest.mark.parametrize("kind", [*STOCK, "ours_switch", "ours_topk_softmax", "ours_noaux_tc"])
@pytest.mark.parametrize("max_rows", [512, 7])
def test_recorded_routing_is_that_of_a_forward_pass_over_the_whole_sequence(kind, max_rows):
    model = make_model(kind)
    layers = model.config.num_hidden_layers - getattr(model.config, "first_k_dense_replace", 0)
    for rollout in rollouts_of(model, max_rows=max_rows, record_routing=True):
        ids = np.concatenate([rollout.prompt_ids, rollout.completion_ids])
        assert rollout.routing.shape == (len(ids) - 1, layers, model.config.num_experts_per_tok)
        assert rollout.routing.dtype == np.int16
        with torch.no_grad(), record_routing(model) as tape:
            model(input_ids=torch.from_numpy(ids)[None, :-1], use_cache=False)
        assert np.array_equal(np.sort(rollout.routing, -1), np.sort(tape.stacked().numpy(), -1))


def test_replayed_in_a_forward_pass_it_gives_the_samplers_log_probabilities():
    """The bias is turned round in between, so that only the replay can bring the engine's experts back."""
    model = make_model("deepseek_v3")
    rollouts = rollouts_of(model, record_routing=True)
    for layer in model.model.layers[1:]:
        layer.mlp.gate.e_score_correction_bias.neg_()  # moves the choice, and no gate

    def largest_difference(routing):
        differences = []
        for rollout in rollouts:
            ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.completion_ids]))
            replayed = torch.from_numpy(rollout.routing).transpose(0, 1)
            with torch.no_grad(), replay_routing(model, replayed if routing else torch.full_like(replayed, -1)):
                logprobs = model(input_ids=ids[None, :-1], use_cache=False).logits[0].log_softmax(-1)
            mine = logprobs.gather(-1, ids[1:, None])[len(rollout.prompt_ids) - 1 :, 0]
            differences.append(np.abs(mine.numpy() - rollout.sampler_logprobs).max())
        return max(differences)

    assert largest_difference(routing=True) < 2e-5
    assert largest_difference(routing=False) > 0.1


def test_dense_model_cannot_be_recorded():
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has none of them. Leave router_replay off"):
        BuiltinEngine(make_model("llama"), [EOS], record_routing=True)

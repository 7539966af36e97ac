"""Groups handed out while others are sampled, by the built-in engine; and its own copy of the weights."""

import copy

import numpy as np
import pytest
import torch

from rlzero.rollout.builtin import BuiltinEngine
from rlzero.rollout.types import Sampling

SAMPLING = Sampling(n=4, max_tokens=40, seed=3)
MANY_ENDS = list(range(2, 12))


@pytest.fixture(scope="module")
def model(tiny):
    return tiny.make_model("qwen3_moe")


def _completions(groups):
    return [rollout.completion_ids.tolist() for group in groups for rollout in group.rollouts]


@pytest.mark.parametrize("options", [{}, {"max_rows": 6}, {"record_routing": True}])
def test_every_group_is_handed_out_once_and_returned_in_order(model, problems, prompts, options):
    handed = []
    engine = BuiltinEngine(model, MANY_ENDS, **options)
    groups = engine.generate(problems, prompts, SAMPLING, lambda position, group: handed.append((position, group)))

    assert sorted(position for position, _ in handed) == list(range(len(problems)))
    assert all(groups[position] is group for position, group in handed)
    assert _completions(groups) == _completions(BuiltinEngine(model, MANY_ENDS).generate(problems, prompts, SAMPLING))


def test_a_group_is_handed_out_as_soon_as_its_longest_answer_ends(model, problems, prompts):
    handed, steps = {}, []
    engine = BuiltinEngine(model, MANY_ENDS)
    hook = model.register_forward_hook(lambda *_: steps.append(1))
    groups = engine.generate(problems, prompts, SAMPLING, lambda position, _: handed.update({position: len(steps)}))
    hook.remove()

    # A pass over the prompts gives the first token, every further pass one more.
    assert [handed[i] for i in range(len(groups))] == [max(len(r.completion_ids) for r in g.rollouts) for g in groups]
    assert len(set(handed.values())) > 1


def test_what_the_receiver_raises_ends_the_generation(model, problems, prompts):
    calls = []

    def receive(position, group):
        calls.append(position)
        raise KeyError("enough")

    model.train()
    with pytest.raises(KeyError, match="enough"):
        BuiltinEngine(model, MANY_ENDS).generate(problems, prompts, SAMPLING, receive)
    assert len(calls) == 1
    assert model.training
    model.eval()


def test_an_engine_with_its_own_copy_samples_from_the_weights_of_the_last_sync(tiny, problems, prompts):
    model = tiny.make_model("qwen3_moe")
    engine = BuiltinEngine(copy.deepcopy(model), MANY_ENDS, owns_model=True)
    before = _completions(engine.generate(problems, prompts, SAMPLING))
    tiny.change_weights(model, seed=1)
    assert _completions(engine.generate(problems, prompts, SAMPLING)) == before
    engine.sync(model, 7)
    after = engine.generate(problems, prompts, SAMPLING)
    assert engine.version == 7
    assert _completions(after) == _completions(BuiltinEngine(model, MANY_ENDS).generate(problems, prompts, SAMPLING))
    assert _completions(after) != before
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert np.ptp(engine.score([[5, 6, 7]])[0]) > 0

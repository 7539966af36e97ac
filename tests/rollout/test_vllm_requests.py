"""The requests that vLLM gets: n samples in one, prompts that share a beginning, groups as they finish."""

from contextlib import closing

import numpy as np
import pytest
import torch

from data.problem import Problem
from rlzero.models.logprobs import token_logprobs
from rlzero.rollout.make import make_engine
from rlzero.rollout.types import Sampling

pytest.importorskip("vllm", reason="vLLM is an extra, and is not installed here")

BEGINNING = 140  # more than a block of vLLM's cache on a CPU, 128 tokens


@pytest.fixture(scope="module")
def started(tiny, tokenizer, tmp_path_factory):
    """A Llama model and a vLLM engine with its weights; tests leave the two in step."""
    model = tiny.make_model("llama")
    path = tiny.save_model(model, tmp_path_factory.mktemp("model"))
    with closing(
        make_engine("vllm", model=model, model_path=path, tokenizer=tokenizer, max_model_len=200, max_num_seqs=64)
    ) as engine:
        yield model, engine


@pytest.fixture(scope="module")
def alike():
    """Four problems whose prompts begin with the same 140 tokens."""
    beginning = np.random.default_rng(0).integers(3, 91, BEGINNING).tolist()
    return [Problem(f"problem {i}", "1") for i in range(4)], [[*beginning, 5 + i] for i in range(4)]


def _completions(groups):
    return [[rollout.completion_ids.tolist() for rollout in group.rollouts] for group in groups]


def _largest_difference(model, groups):
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    scored = token_logprobs(model, [np.concatenate([r.prompt_ids, r.completion_ids]) for r in rollouts])
    return max(
        np.abs(values[len(r.prompt_ids) - 1 :] - r.sampler_logprobs).max()
        for values, r in zip(scored, rollouts, strict=True)
    )


def test_the_samples_of_a_prompt_are_one_request_and_their_order_is_that_of_n(started, alike, monkeypatch):
    _, engine = started
    requests = []
    enqueue = engine._engine.enqueue

    def counted(prompts, *rest, **more):
        requests.extend(prompts)
        return enqueue(prompts, *rest, **more)

    monkeypatch.setattr(engine._engine, "enqueue", counted)
    eight = _completions(engine.generate(*alike, Sampling(n=8, max_tokens=12, seed=2)))
    three = _completions(engine.generate(*alike, Sampling(n=3, max_tokens=12, seed=2)))
    one = _completions(engine.generate(*alike, Sampling(n=1, max_tokens=12, seed=2)))

    assert len(requests) == 3 * len(alike[0])
    assert [group[:3] for group in eight] == three
    assert [group[:1] for group in eight] == one
    assert len({tuple(completion) for group in eight for completion in group}) > 30


def test_prompts_that_begin_alike_are_computed_from_the_cache_of_the_present_weights(started, tiny, alike, monkeypatch):
    """A cache of other weights is a silent wrong number: with the cache kept over a sync it would be one."""
    model, engine = started
    sampling = Sampling(n=2, max_tokens=10)
    tiny.change_weights(model, seed=21)
    engine.sync(model, 1)
    for _ in range(2):
        assert _largest_difference(model, engine.generate(*alike, sampling)) < 1e-5
    tiny.change_weights(model, seed=22)
    with monkeypatch.context() as patch:
        patch.setattr(engine._engine, "reset_prefix_cache", lambda: True)
        engine.sync(model, 2)
    stale = _largest_difference(model, engine.generate(*alike, sampling))
    engine.sync(model, 3)

    assert stale > 1e-2
    assert _largest_difference(model, engine.generate(*alike, sampling)) < 1e-5


def test_groups_are_handed_out_as_they_finish_and_returned_in_order(started, alike):
    _, engine = started
    handed = []
    sampling = Sampling(n=3, max_tokens=50, seed=1)
    groups = engine.generate(*alike, sampling, lambda position, group: handed.append((position, group)))

    assert sorted(position for position, _ in handed) == [0, 1, 2, 3]
    assert all(groups[position] is group for position, group in handed)
    longest = [max(len(r.completion_ids) for r in group.rollouts) for _, group in handed]
    assert longest == sorted(longest)


def test_what_the_receiver_raises_ends_the_generation_and_leaves_nothing_behind(started, alike):
    _, engine = started
    sampling = Sampling(n=3, max_tokens=50, seed=1)
    wanted = _completions(engine.generate(*alike, sampling))

    def receive(position, group):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        engine.generate(*alike, sampling, receive)
    assert not engine._engine.llm_engine.has_unfinished_requests()
    assert _completions(engine.generate(*alike, sampling)) == wanted


def test_sampling_draws_nothing_from_the_process_wide_generator(started, alike):
    """A trainer may draw from it in another thread meanwhile."""
    _, engine = started
    state = torch.get_rng_state()
    engine.generate(*alike, Sampling(n=2, max_tokens=3), lambda *_: _same(state))
    engine.score(alike[1])
    _same(state)


def _same(state):
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_follow_the_distribution(started):
    """The first tokens of 4,096 answers against the model's own probabilities: chi-square by bins of 20."""
    model, engine = started
    (group,) = engine.generate([Problem("p", "1")], [[7, 8, 9]], Sampling(n=4096, max_tokens=1, seed=5))
    with torch.no_grad():
        probabilities = model(torch.tensor([[7, 8, 9]])).logits[0, -1].double().softmax(-1).numpy()
    counts = np.bincount([int(r.completion_ids[0]) for r in group.rollouts], minlength=len(probabilities))
    order = np.argsort(probabilities)
    bins = np.array_split(order, len(order) // 5)
    expected = np.array([4096 * probabilities[b].sum() for b in bins])
    found = np.array([counts[b].sum() for b in bins])
    statistic = ((found - expected) ** 2 / expected).sum()
    # 17 degrees of freedom: 40.8 is exceeded once in a thousand.
    assert statistic < 40.8

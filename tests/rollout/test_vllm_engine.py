"""The vLLM engine against transformers and against the built-in engine, on one architecture."""

import numpy as np
import pytest
import torch

from data.problem import Problem
from rlzero.models.logprobs import token_logprobs
from rlzero.rollout.builtin import BuiltinEngine
from rlzero.rollout.make import make_engine
from rlzero.rollout.sync_check import SyncError, check_sync
from rlzero.rollout.types import Sampling

pytest.importorskip("vllm", reason="vLLM is an extra, and is not installed here")

LONGEST = 100


@pytest.fixture(scope="module")
def started(tiny, tokenizer, tmp_path_factory):
    """A Qwen3-MoE model and a vLLM engine with its weights. Tests leave the two in step."""
    model = tiny.make_model("qwen3_moe")
    path = tiny.save_model(model, tmp_path_factory.mktemp("model"))
    engine = make_engine(
        "vllm", model=model, model_path=path, tokenizer=tokenizer, max_model_len=LONGEST, max_num_seqs=64
    )
    yield model, engine
    engine.close()


def _rollouts(groups):
    return [rollout for group in groups for rollout in group.rollouts]


def _sequences(groups):
    return [np.concatenate([r.prompt_ids, r.completion_ids]) for r in _rollouts(groups)]


def _completions(groups):
    return [rollout.completion_ids.tolist() for rollout in _rollouts(groups)]


def _largest_difference(model, groups, temperature=1.0):
    scored = token_logprobs(model, _sequences(groups), temperature)
    return max(
        np.abs(values[len(r.prompt_ids) - 1 :] - r.sampler_logprobs).max()
        for values, r in zip(scored, _rollouts(groups), strict=True)
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_the_models_at_the_temperature(started, problems, prompts, temperature):
    model, engine = started
    groups = engine.generate(problems, prompts, Sampling(n=3, max_tokens=40, temperature=temperature))

    assert _largest_difference(model, groups, temperature) < 1e-5


def test_greedy_equals_the_builtin_engines_greedy(started, tiny, problems, prompts):
    model, engine = started
    greedy = Sampling(n=1, max_tokens=30, temperature=0)
    ours = BuiltinEngine(model, [tiny.eos], max_model_len=LONGEST).generate(problems, prompts, greedy)
    theirs = engine.generate(problems, prompts, greedy)

    assert _completions(theirs) == _completions(ours)
    for a, b in zip(_rollouts(theirs), _rollouts(ours), strict=True):
        np.testing.assert_allclose(a.sampler_logprobs, b.sampler_logprobs, atol=1e-5)
        assert a.finish_reason == b.finish_reason


def test_both_engines_filter_alike(started, tiny, problems, prompts):
    """top_k and top_p leave so few tokens here that both engines must see all of them, with equal values."""
    model, engine = started
    sampling = Sampling(n=64, max_tokens=1, top_k=5, top_p=0.6)
    seen = []
    for sampler in (engine, BuiltinEngine(model, [tiny.eos], max_model_len=LONGEST)):
        groups = sampler.generate(problems, prompts, sampling)
        seen.append(
            {
                (i, int(r.completion_ids[0])): float(r.sampler_logprobs[0])
                for i, group in enumerate(groups)
                for r in group.rollouts
            }
        )

    assert seen[0].keys() == seen[1].keys()
    assert all(seen[0][key] == pytest.approx(seen[1][key], abs=1e-4) for key in seen[0])


def test_a_completion_is_a_function_of_seed_and_positions(started, problems, prompts):
    _, engine = started
    everything = engine.generate(problems, prompts, Sampling(n=4, max_tokens=20, seed=5))
    torch.manual_seed(123)
    share = engine.generate(problems[3:], prompts[3:], Sampling(n=2, max_tokens=20, seed=5, first_position=3))
    other = engine.generate(problems, prompts, Sampling(n=4, max_tokens=20, seed=6))

    assert _completions(share) == [r.completion_ids.tolist() for g in everything[3:] for r in g.rollouts[:2]]
    assert sum(a == b for a, b in zip(_completions(everything), _completions(other), strict=True)) < 3
    assert len({tuple(completion) for completion in _completions(everything)}) > 20


def test_generation_leaves_the_trainers_random_state_alone(started, problems, prompts):
    _, engine = started
    state = torch.get_rng_state()
    engine.generate(problems, prompts, Sampling(n=2, max_tokens=5))

    assert torch.equal(torch.get_rng_state(), state)


def test_completions_end_with_an_end_token_or_at_the_models_length(started, tiny, problems, prompts):
    _, engine = started
    rollouts = _rollouts(engine.generate(problems, prompts, Sampling(n=8, max_tokens=1000)))

    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        assert len(rollout.sampler_logprobs) == len(rollout.completion_ids)
        assert (tiny.eos in rollout.completion_ids) == (rollout.finish_reason == "stop")
        if rollout.finish_reason == "stop":
            assert rollout.completion_ids[-1] == tiny.eos
        else:
            assert len(rollout.prompt_ids) + len(rollout.completion_ids) == LONGEST


def test_what_does_not_fit_is_refused(started):
    _, engine = started
    with pytest.raises(ValueError, match=r"1 to 99 tokens.*has 100"):
        engine.generate([Problem("p", "1")], [[3] * 100], Sampling(n=1, max_tokens=5))
    with pytest.raises(ValueError, match="at most 99 tokens"):
        engine.score([[3] * 100])


def test_a_second_engine_beside_the_first_is_refused(started, tiny, tokenizer):
    """vLLM keeps its parallel state in module globals: the second would compute with the first one's."""
    with pytest.raises(RuntimeError, match="one vLLM engine at a time"):
        make_engine("vllm", model=started[0], model_path="any", tokenizer=tokenizer, max_model_len=LONGEST)


def test_no_problems_give_no_groups(started):
    assert started[1].generate([], [], Sampling(n=2, max_tokens=4)) == []


def test_the_engine_keeps_its_weights_until_the_next_sync(started, tiny, problems, prompts):
    model, engine = started
    sequences = _sequences(engine.generate(problems, prompts, Sampling(n=2, max_tokens=20)))
    before = np.concatenate(engine.score(sequences))
    tiny.change_weights(model, seed=11)
    unsynced = np.concatenate(engine.score(sequences))
    with pytest.raises(SyncError, match="tolerance"):
        check_sync(engine, model, sequences, 1e-3)
    engine.sync(model, version=4)

    np.testing.assert_array_equal(before, unsynced)
    assert check_sync(engine, model, sequences, 1e-3) < 1e-5
    assert engine.version == 4


def test_a_reload_without_the_kernels_packing_is_caught(started, tiny, problems, prompts, monkeypatch):
    """vLLM's own reload leaves the fused experts' packed copies as they were, on CPU, and does not say so."""
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    from rlzero.rollout import vllm_transfer

    model, engine = started
    sequences = _sequences(engine.generate(problems, prompts, Sampling(n=2, max_tokens=20)))
    tiny.change_weights(model, seed=12)
    with monkeypatch.context() as patch:
        patch.setattr(
            vllm_transfer.InProcessWeightTransfer,
            "finish_weight_update",
            lambda self: finalize_layerwise_reload(self.model, self.model_config),
        )
        engine.sync(model, version=5)
    with pytest.raises(SyncError, match=r"mean \|difference\|"):
        check_sync(engine, model, sequences, 1e-3)
    engine.sync(model, version=6)

    assert check_sync(engine, model, sequences, 1e-3) < 1e-5

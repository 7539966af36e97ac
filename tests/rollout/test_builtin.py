import numpy as np
import pytest
import torch

from data.problem import Problem
from rlzero.models.logprobs import token_logprobs
from rlzero.rollout.builtin import BuiltinEngine
from rlzero.rollout.types import Sampling
from tests.models.tiny import make_decoder

KINDS = ("qwen3_moe", "llama_tied", "mixtral", "mistral_window", "deepseek_v3")


@pytest.fixture(scope="module")
def model(tiny):
    return tiny.make_model("qwen3_moe")


@pytest.fixture
def engine(model, tiny):
    return BuiltinEngine(model, [tiny.eos], max_model_len=100)


def _rollouts(groups):
    return [rollout for group in groups for rollout in group.rollouts]


def _completions(groups):
    return [rollout.completion_ids.tolist() for rollout in _rollouts(groups)]


def _largest_difference(model, groups, temperature=1.0):
    rollouts = _rollouts(groups)
    sequences = [np.concatenate([r.prompt_ids, r.completion_ids]) for r in rollouts]
    scored = token_logprobs(model, sequences, temperature)
    return max(
        np.abs(values[len(r.prompt_ids) - 1 :] - r.sampler_logprobs).max()
        for values, r in zip(scored, rollouts, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_a_plain_forward(kind, tiny, problems, prompts):
    model = tiny.make_model(kind)
    engine = BuiltinEngine(model, [tiny.eos])
    groups = engine.generate(problems, prompts, Sampling(n=3, max_tokens=40, seed=1))

    assert _largest_difference(model, groups) < 1e-5


def test_log_probabilities_are_those_of_the_temperature(engine, model, problems, prompts):
    groups = engine.generate(problems, prompts, Sampling(n=2, max_tokens=20, temperature=0.6))

    assert _largest_difference(model, groups, temperature=0.6) < 1e-5


def test_groups_come_in_the_order_of_the_problems(engine, problems, prompts):
    groups = engine.generate(problems, prompts, Sampling(n=2, max_tokens=4))

    for group, problem, prompt in zip(groups, problems, prompts, strict=True):
        assert group.problem is problem
        assert [rollout.problem for rollout in group.rollouts] == [problem, problem]
        assert all(rollout.prompt_ids.tolist() == prompt for rollout in group.rollouts)


def test_types_and_lengths_are_as_documented(engine, problems, prompts):
    for rollout in _rollouts(engine.generate(problems, prompts, Sampling(n=2, max_tokens=6))):
        assert rollout.prompt_ids.dtype == rollout.completion_ids.dtype == np.int64
        assert rollout.sampler_logprobs.dtype == np.float32
        assert len(rollout.sampler_logprobs) == len(rollout.completion_ids) >= 1


def test_the_same_seed_gives_the_same_completions_and_another_seed_others(engine, problems, prompts):
    first, again, other = (
        _completions(engine.generate(problems, prompts, Sampling(n=4, max_tokens=30, seed=seed))) for seed in (7, 7, 8)
    )

    assert first == again
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 3


def test_samples_of_one_prompt_and_equal_prompts_differ(engine):
    twins = [Problem("same", "1")] * 2
    groups = engine.generate(twins, [[5, 6, 7]] * 2, Sampling(n=8, max_tokens=20))

    assert len({tuple(completion) for completion in _completions(groups)}) == 16


def test_a_completion_does_not_depend_on_what_else_is_sampled(engine, problems, prompts):
    everything = engine.generate(problems, prompts, Sampling(n=4, max_tokens=30, seed=3))
    fewer = engine.generate(problems[:3], prompts[:3], Sampling(n=2, max_tokens=30, seed=3))

    assert _completions(fewer) == [r.completion_ids.tolist() for g in everything[:3] for r in g.rollouts[:2]]


def test_a_share_of_the_prompts_continues_the_positions_of_the_whole(engine, problems, prompts):
    everything = engine.generate(problems, prompts, Sampling(n=2, max_tokens=30, seed=3))
    share = engine.generate(problems[4:], prompts[4:], Sampling(n=2, max_tokens=30, seed=3, first_position=4))

    assert _completions(share) == _completions(everything[4:])


def test_the_number_of_rows_at_a_time_changes_nothing(model, tiny, problems, prompts):
    few, many = (
        BuiltinEngine(model, [tiny.eos], max_rows=rows).generate(problems, prompts, Sampling(n=4, max_tokens=30))
        for rows in (3, 1000)
    )

    assert _completions(few) == _completions(many)


def test_at_most_max_rows_are_in_a_forward(model, tiny, problems, prompts):
    sizes = []
    hook = model.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    BuiltinEngine(model, [tiny.eos], max_rows=5).generate(problems, prompts, Sampling(n=4, max_tokens=5))
    hook.remove()

    assert max(sizes) == 5


def test_a_prompt_is_computed_once_and_finished_rows_leave(model, problems, prompts):
    rows_of_step = []
    hook = model.model.register_forward_pre_hook(
        lambda _, args, kwargs: rows_of_step.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    # Many ids end a completion here, so rows finish all along the way.
    engine = BuiltinEngine(model, list(range(2, 12)))
    groups = engine.generate(problems, prompts, Sampling(n=16, max_tokens=60))
    hook.remove()

    lengths = np.array([len(rollout.completion_ids) for rollout in _rollouts(groups)])
    assert rows_of_step[0] == len(problems)
    assert len(rows_of_step) == lengths.max()
    for step, rows in enumerate(rows_of_step[1:], start=1):
        alive = (lengths > step).sum()
        assert alive <= rows < alive / 0.8 + 1


def test_a_completion_ends_with_the_first_end_token_or_at_the_limit(model, problems, prompts):
    ends = [2, 40, 41, 42, 43]
    groups = BuiltinEngine(model, ends).generate(problems, prompts, Sampling(n=16, max_tokens=25))

    reasons = set()
    for rollout in _rollouts(groups):
        reasons.add(rollout.finish_reason)
        assert not np.isin(rollout.completion_ids[:-1], ends).any()
        if rollout.finish_reason == "stop":
            assert rollout.completion_ids[-1] in ends
        else:
            assert rollout.completion_ids[-1] not in ends
            assert len(rollout.completion_ids) == 25
    assert reasons == {"stop", "length"}


def test_prompt_and_completion_stay_within_the_models_length(engine, problems, prompts):
    rollouts = _rollouts(engine.generate(problems, prompts, Sampling(n=2, max_tokens=1000)))

    truncated = [r for r in rollouts if r.finish_reason == "length"]
    assert truncated
    assert all(len(r.prompt_ids) + len(r.completion_ids) == 100 for r in truncated)


def test_greedy_is_the_argmax_of_a_plain_forward(engine, model, problems, prompts):
    groups = engine.generate(problems, prompts, Sampling(n=1, max_tokens=15, temperature=0))

    for rollout in _rollouts(groups):
        sequence = torch.tensor(np.concatenate([rollout.prompt_ids, rollout.completion_ids]))[None]
        with torch.no_grad():
            greedy = model(input_ids=sequence).logits[0].argmax(-1)[len(rollout.prompt_ids) - 1 : -1]
        assert greedy.tolist() == rollout.completion_ids.tolist()


def test_the_trainers_mode_gradients_and_random_state_are_left_alone(tiny, problems, prompts):
    model = tiny.make_model("llama").train()
    state = torch.get_rng_state()
    BuiltinEngine(model, [tiny.eos]).generate(problems, prompts, Sampling(n=2, max_tokens=5))

    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    model(input_ids=torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_new_weights_are_sampled_from_at_once(tiny, problems, prompts):
    model = tiny.make_model("llama")
    engine = BuiltinEngine(model, [tiny.eos])
    before = _completions(engine.generate(problems, prompts, Sampling(n=2, max_tokens=20)))
    tiny.change_weights(model, seed=1)
    engine.sync(model, version=1)
    groups = engine.generate(problems, prompts, Sampling(n=2, max_tokens=20))

    assert engine.version == 1
    assert _completions(groups) != before
    assert _largest_difference(model, groups) < 1e-5


def test_sampling_in_bfloat16_follows_the_float32_model_closely(model, tiny, problems, prompts):
    engine = BuiltinEngine(model, [tiny.eos], autocast_dtype=torch.bfloat16)
    groups = engine.generate(problems, prompts, Sampling(n=2, max_tokens=20))

    rollouts = _rollouts(groups)
    scored = token_logprobs(model, [np.concatenate([r.prompt_ids, r.completion_ids]) for r in rollouts])
    differences = [
        np.abs(v[len(r.prompt_ids) - 1 :] - r.sampler_logprobs) for v, r in zip(scored, rollouts, strict=True)
    ]
    assert 1e-6 < np.concatenate(differences).mean() < 0.2


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "1 to 99 tokens"), ([3] * 100, "1 to 99 tokens.*problem 0.*has 100|has 100"), ([3, 91], "0..90")],
)
def test_a_prompt_that_does_not_fit_is_refused(engine, prompt, message):
    with pytest.raises(ValueError, match=message):
        engine.generate([Problem("problem 0", "1")], [prompt], Sampling(n=1, max_tokens=5))


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}],
)
def test_impossible_sampling_is_refused(engine, problems, prompts, wrong):
    with pytest.raises(ValueError, match="sampling needs"):
        engine.generate(problems, prompts, Sampling(**{"n": 1, "max_tokens": 1, **wrong}))


def test_problems_without_prompts_are_refused(engine, problems, prompts):
    with pytest.raises(ValueError, match="7 problems and 6 prompts"):
        engine.generate(problems, prompts[1:], Sampling(n=1, max_tokens=1))


def test_diverged_weights_are_told_instead_of_sampled_from(tiny, problems, prompts):
    model = tiny.make_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="diverged"):
        BuiltinEngine(model, [tiny.eos]).generate(problems, prompts, Sampling(n=1, max_tokens=3))


def test_recurrent_layers_are_refused_by_name(tiny):
    model = tiny.make_model("llama")
    model.config.layer_types = ["linear_attention", "full_attention", "full_attention"]
    with pytest.raises(ValueError, match="linear_attention"):
        BuiltinEngine(model, [tiny.eos])


def test_no_problems_give_no_groups(engine):
    assert engine.generate([], [], Sampling(n=2, max_tokens=4)) == []


OURS = ("gqa", "window", "mla", "lstm")


@pytest.fixture(scope="module", params=OURS)
def ours(request, tiny):
    """Our own decoder with each mixer."""
    return make_decoder(request.param, vocab_size=91, max_position_embeddings=256)


def test_our_decoder_samples_by_the_log_probabilities_of_a_plain_forward(ours, problems, prompts):
    """Left-padded prompts, rows that leave on the way, completions longer than a window."""
    for ends in ([2], list(range(2, 12))):
        groups = BuiltinEngine(ours, ends).generate(problems, prompts, Sampling(n=6, max_tokens=40, seed=1))

        assert max(len(r.completion_ids) for r in _rollouts(groups)) > 20
        assert _largest_difference(ours, groups) < 1e-5


def test_a_completion_of_our_decoder_depends_on_nothing_beside_it(ours, problems, prompts):
    engine = BuiltinEngine(ours, [2, 30, 31, 32])
    sampling = Sampling(n=3, max_tokens=30, seed=3)
    everything = _completions(engine.generate(problems, prompts, sampling))
    few = _completions(BuiltinEngine(ours, [2, 30, 31, 32], max_rows=2).generate(problems, prompts, sampling))

    assert few == everything
    assert _completions(engine.generate(problems[:1], prompts[:1], sampling)) == everything[:3]


@pytest.mark.parametrize(("kind", "positions"), [("window", 5), ("lstm", 1)])
def test_memory_of_our_decoder_is_bounded_while_it_samples(kind, positions, problems, prompts):
    model = make_decoder(kind, vocab_size=91, max_position_embeddings=256)
    sizes = []
    hook = model.register_forward_hook(
        lambda _, args, output: sizes.append(output.past_key_values.layers[0].keys[0].numel())
    )
    BuiltinEngine(model, [2]).generate(problems, prompts, Sampling(n=2, max_tokens=50))
    hook.remove()

    width = model.config.hidden_size if kind == "lstm" else 2 * model.config.head_dim
    assert len(sizes) > 30
    assert set(sizes) == {positions * width}

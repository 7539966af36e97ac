import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzero.rollout.sampling import row_keys, sample_tokens, uniforms


def _draws(count, step=0, seed=0):
    keys = row_keys(seed, np.zeros(count, dtype=np.int64), np.arange(count))
    return torch.from_numpy(uniforms(keys, step))


def test_every_completion_has_a_stream_of_its_own():
    prompts, samples = (axis.ravel() for axis in np.meshgrid(np.arange(200), np.arange(200), indexing="ij"))
    keys = np.concatenate([row_keys(seed, prompts, samples) for seed in (0, 1, 2**63, -1)])

    assert len(np.unique(keys)) == len(keys)


def test_a_number_depends_on_its_row_and_step_alone():
    keys = row_keys(3, np.array([4, 5, 6]), np.array([0, 0, 1]))

    np.testing.assert_array_equal(uniforms(keys, 7)[[2, 0]], uniforms(keys[[2, 0]], 7))
    assert not np.isin(uniforms(keys, 7), uniforms(keys, 8)).any()


def test_numbers_are_uniform_along_rows_and_along_steps():
    rows = uniforms(row_keys(0, np.arange(20_000) // 16, np.arange(20_000) % 16), 0)
    steps = np.concatenate([uniforms(row_keys(1, np.array([0]), np.array([0])), step) for step in range(20_000)])

    for numbers in (rows, steps):
        assert numbers.min() >= 0
        assert numbers.max() < 1
        counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
        # 49 degrees of freedom: the 99.9th percentile of chi-square is 85.4.
        assert ((counts - 400) ** 2 / 400).sum() < 85.4
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_samples_follow_the_softmax(temperature):
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5, -torch.inf])
    count = 50_000
    tokens, _ = sample_tokens(logits.expand(count, -1), _draws(count), temperature, 1.0, 0)

    expected = (logits / temperature).softmax(-1).numpy() * count
    counts = np.bincount(tokens.numpy(), minlength=6)
    assert counts[5] == 0
    # 4 degrees of freedom: the 99.9th percentile of chi-square is 18.5.
    assert ((counts[:5] - expected[:5]) ** 2 / expected[:5]).sum() < 18.5


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 11, 100]),
)
def test_filters_keep_the_likeliest_tokens_and_log_probabilities_are_those_of_the_kept(seed, temperature, top_p, top_k):
    logits = torch.randn(1, 11, generator=torch.Generator().manual_seed(seed)) * 3
    tokens, logprobs = sample_tokens(logits.expand(400, -1), _draws(400, seed=seed), temperature, top_p, top_k)

    probs = np.sort((logits[0] / temperature).double().softmax(-1).numpy())[::-1]
    kept = probs[: top_k or None] / probs[: top_k or None].sum()
    kept = kept[: int(np.searchsorted(np.cumsum(kept), top_p - 1e-6)) + 1]
    order = np.argsort(-logits[0].numpy())
    allowed = {int(token): value for token, value in zip(order, kept / kept.sum(), strict=False)}
    assert set(tokens.tolist()) <= set(allowed)
    for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True):
        assert logprob == pytest.approx(np.log(allowed[token]), abs=1e-4)


def test_greedy_takes_the_largest_logit_and_reports_the_models_own_log_probability():
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    tokens, logprobs = sample_tokens(logits, torch.tensor([0.999], dtype=torch.float64), 0.0, 0.1, 1)

    assert tokens.tolist() == [1]
    assert logprobs.item() == pytest.approx(logits.log_softmax(-1)[0, 1].item())


def test_the_last_number_below_one_still_names_a_token():
    logits = torch.zeros(1, 100_000)
    tokens, _ = sample_tokens(logits, torch.tensor([1 - 2.0**-48], dtype=torch.float64), 1.0, 1.0, 0)

    assert tokens.item() == 99_999

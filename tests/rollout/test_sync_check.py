import numpy as np
import pytest
import torch
from transformers import RwkvConfig, RwkvForCausalLM

from rlzero.models.logprobs import token_logprobs
from rlzero.rollout.builtin import BuiltinEngine
from rlzero.rollout.sync_check import SyncError, check_decoding, check_sync, default_tolerance

SEQUENCES = [[3, 4, 5, 6, 7], [8, 9, 10], [11]]


@pytest.fixture
def model(tiny):
    return tiny.make_model("llama")


def test_an_engine_with_the_same_weights_passes(model, tiny):
    assert check_sync(BuiltinEngine(model, [tiny.eos]), model, SEQUENCES, 1e-6) == pytest.approx(0, abs=1e-6)


def test_an_engine_with_one_stale_matrix_is_caught_with_figures_and_remedy(model, tiny):
    engine = BuiltinEngine(tiny.make_model("llama"), [tiny.eos])
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight.mul_(1.5)

    with pytest.raises(SyncError, match=r"mean .*maximum .*tolerance 0.001 \(6 tokens.*Likely causes.*Try") as caught:
        check_sync(engine, model, SEQUENCES, 1e-3)
    difference = np.abs(
        np.concatenate(engine.score(SEQUENCES[:2])) - np.concatenate(token_logprobs(model, SEQUENCES[:2]))
    )
    assert f"{difference.mean():.3g}" in str(caught.value)


def test_values_that_are_not_finite_never_pass(model, tiny):
    engine = BuiltinEngine(tiny.make_model("llama"), [tiny.eos])
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)

    with pytest.raises(SyncError):
        check_sync(engine, model, SEQUENCES, float("inf"))


def test_long_sequences_are_cut_to_what_the_engine_can_score(model, tiny):
    engine = BuiltinEngine(model, [tiny.eos], max_model_len=10)

    assert check_sync(engine, model, [[3] * 200], 1e-6) < 1e-6


def test_nothing_to_compare_is_an_error(model, tiny):
    with pytest.raises(ValueError, match="at least two tokens"):
        check_sync(BuiltinEngine(model, [tiny.eos]), model, [[3]], 1e-3)


def test_the_tolerance_is_that_of_the_coarser_side():
    assert default_tolerance(torch.float32, torch.float32) == 1e-3
    assert default_tolerance(torch.float32, torch.bfloat16) == default_tolerance(torch.bfloat16) > 1e-3


def test_scores_do_not_depend_on_the_batch(model):
    together = token_logprobs(model, SEQUENCES)
    alone = [token_logprobs(model, [sequence], max_batch_tokens=1)[0] for sequence in SEQUENCES]

    for a, b, sequence in zip(together, alone, SEQUENCES, strict=True):
        assert a.dtype == np.float32
        assert a.shape == (len(sequence) - 1,)
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_scores_are_the_log_softmax_at_the_temperature(model):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([SEQUENCES[0]])).logits[0]
    expected = (logits / 0.7).log_softmax(-1)[torch.arange(4), SEQUENCES[0][1:]]

    np.testing.assert_allclose(token_logprobs(model, SEQUENCES[:1], 0.7)[0], expected.numpy(), atol=1e-5)


def test_scoring_without_a_distribution_or_a_token_is_refused(model):
    with pytest.raises(ValueError, match="temperature above 0"):
        token_logprobs(model, SEQUENCES, temperature=0.0)
    with pytest.raises(ValueError, match="empty sequence"):
        token_logprobs(model, [[]])


def test_model_whose_cache_the_builtin_engine_does_not_know_is_refused_when_the_engine_is_made(model, tiny):
    """RWKV takes `past_key_values` without a word, and begins anew with every token."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64}
    torch.manual_seed(0)
    other = RwkvForCausalLM(RwkvConfig(**sizes, intermediate_size=32))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    with pytest.raises(ValueError, match=r"RwkvForCausalLM it does not: mean .* nats a token.*--rollout vllm"):
        check_decoding(BuiltinEngine(other, [1]), 64, 1e-3, "RwkvForCausalLM")
    for length in (2, 3, 40):
        check_decoding(BuiltinEngine(model, [tiny.eos], max_model_len=length), 64, 1e-5, "llama")

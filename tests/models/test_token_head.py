"""Log-probabilities a chunk of logits at a time are those of one softmax, and the logits never exist as a whole."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPT2Config, GraniteConfig, LlamaConfig

from rlzero.models import token_head
from rlzero.models.token_head import has_plain_head, logprob_head, replaced_head, token_logprobs_of
from tests.conftest import ROOT

ROWS, WIDTH, WORDS = 23, 16, 301
_SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}


def make_inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    """hidden [M, D], weight [V, D], targets [M] and a slope [M] for each of the two results."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, *slopes = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((ROWS, WIDTH), (WORDS, WIDTH), (ROWS,), (ROWS,))
    )
    targets = torch.randint(WORDS, (ROWS,), generator=generator)
    return [hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets, *slopes]


def literal(hidden, weight, targets, temperature):
    """One softmax over all logits, in full precision."""
    logits = (hidden @ weight.T).to(torch.promote_types(hidden.dtype, torch.float32)) / temperature
    logprobs = logits.log_softmax(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


@pytest.fixture(params=[1, 7 * WORDS, 2**23], ids=["row by row", "in four chunks", "in one chunk"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(token_head, "_CHUNK", request.param)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("used", ["logprobs", "entropy", "both"])
def test_values_and_gradients_are_those_of_one_softmax(chunk, used, temperature):
    *inputs, first, second = make_inputs(torch.float64)
    first, second = first * (used != "entropy"), second * (used != "logprobs")
    results = {}
    for name, function in (("chunked", token_logprobs_of), ("literal", literal)):
        logprobs, entropy = function(*inputs, temperature)
        # Without what is not used in the graph at all, as a loss without an entropy bonus leaves it out.
        used_values = [(logprobs, first)] * (used != "entropy") + [(entropy, second)] * (used != "logprobs")
        loss = sum((value * slope).sum() for value, slope in used_values)
        results[name] = (logprobs, entropy, *torch.autograd.grad(loss, inputs[:2]))
    for found, wanted in zip(results["chunked"], results["literal"], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_gradient_is_made_only_of_what_is_trained():
    hidden, weight, targets, slope, _ = make_inputs(torch.float64)
    (wanted,) = torch.autograd.grad((token_logprobs_of(hidden, weight, targets, 1.0)[0] * slope).sum(), [hidden])
    logprobs, _ = token_logprobs_of(hidden, weight.detach(), targets, 1.0)
    (found,) = torch.autograd.grad((logprobs * slope).sum(), [hidden])
    assert torch.equal(found, wanted)
    with torch.no_grad():
        assert not token_logprobs_of(hidden, weight, targets, 1.0)[0].requires_grad


def test_logits_beyond_the_range_of_exp_stay_finite():
    hidden, weight, targets, *_ = make_inputs(torch.float32)
    logprobs, entropy = token_logprobs_of(hidden * 1e4, weight, targets, 1.0)
    assert logprobs.isfinite().all()
    assert entropy.isfinite().all()
    logprobs.sum().backward()
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("mixed", [False, True])
def test_bfloat16_rounds_the_products_alone(chunk, mixed):
    """mixed: weights in float32 and products in bfloat16, as under autocast."""
    inputs = make_inputs(torch.bfloat16)
    hidden, weight = (tensor.detach().float().requires_grad_() if mixed else tensor for tensor in inputs[:2])
    targets, slope = inputs[2], inputs[3].float()
    logprobs, entropy = token_logprobs_of(hidden, weight, targets, 1.0, torch.bfloat16)
    wanted, wanted_entropy = literal(*inputs[:3], 1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy, wanted_entropy, rtol=0, atol=1e-5)
    found = torch.autograd.grad((logprobs * slope).sum(), [hidden, weight])
    assert [gradient.dtype for gradient in found] == [hidden.dtype, weight.dtype]
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    wanted_gradients = torch.autograd.grad((literal(*exact, targets, 1.0)[0] * slope).sum(), exact)
    for gradient, exact_gradient in zip(found, wanted_gradients, strict=True):
        error = (gradient.double() - exact_gradient).norm() / exact_gradient.norm()
        assert error < 0.01


def make_model(config) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("config", "plain"),
    [
        (LlamaConfig(**_SMALL, intermediate_size=32, tie_word_embeddings=False), True),
        (LlamaConfig(**_SMALL, intermediate_size=32, tie_word_embeddings=True), True),
        (GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50), True),
        (Gemma2Config(**_SMALL, intermediate_size=32, head_dim=16, num_key_value_heads=1), False),
        (GraniteConfig(**_SMALL, intermediate_size=32, logits_scaling=8.0), False),
        (CohereConfig(**_SMALL, intermediate_size=32, logit_scale=0.5), False),
    ],
    ids=["llama", "llama tied", "gpt2", "gemma2 capped", "granite scaled", "cohere scaled"],
)
def test_head_that_is_more_than_a_matrix_is_recognised(config, plain):
    model = make_model(config)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        assert has_plain_head(model) == plain
        assert torch.equal(model(input_ids=ids).logits, before), "it is as it was"
    assert "forward" not in vars(model.get_output_embeddings())


def test_head_with_a_bias_or_another_class_keeps_its_own_forward():
    config = LlamaConfig(**_SMALL, intermediate_size=32, tie_word_embeddings=False)
    model = make_model(config)
    model.lm_head = nn.Linear(32, 50, bias=True)
    assert not has_plain_head(model)
    model.lm_head = nn.Sequential(nn.Linear(32, 50, bias=False))
    assert not has_plain_head(model)


def test_replaced_head_is_put_back_also_after_an_error():
    model = make_model(LlamaConfig(**_SMALL, intermediate_size=32, tie_word_embeddings=False))
    ids = torch.arange(8)[None]
    wanted = model(input_ids=ids).logits
    own = model.lm_head.forward
    model.lm_head.forward = lambda hidden: 2 * own(hidden)  # as accelerate's hooks do
    replaced: list[int] = []

    def fail() -> None:
        with replaced_head(model, lambda hidden: hidden):
            replaced.append(model(input_ids=ids).logits.shape[-1])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert replaced == [32]
    torch.testing.assert_close(model(input_ids=ids).logits, 2 * wanted)


def test_head_in_the_model_gives_log_probability_and_entropy_at_the_places_asked_for():
    model = make_model(LlamaConfig(**_SMALL, intermediate_size=32, tie_word_embeddings=True))
    ids = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(0))
    at, targets = torch.tensor([4, 4, 26, 0, 13]), torch.tensor([3, 7, 49, 0, 1])
    for copied in (model, copy.deepcopy(model)):
        with replaced_head(copied, logprob_head(copied, at, targets, 0.9)):
            found = copied(input_ids=ids).logits
        assert found.shape == (1, 5, 2)
        logprobs = (model(input_ids=ids).logits.flatten(0, 1)[at] / 0.9).log_softmax(-1)
        wanted = torch.stack([logprobs.gather(-1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)], -1)
        torch.testing.assert_close(found[0], wanted, rtol=1e-5, atol=1e-5)


def test_peak_memory_of_forward_and_backward_is_a_fraction_of_the_logits():
    """In a process of its own: the kernel's high-water mark of resident memory, before and after."""
    script = """
        import torch
        from rlzero.models.token_head import token_logprobs_of
        def peak():
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        rows, width, words = 2000, 8, 50_000
        hidden, weight = (torch.randn(n, width).requires_grad_() for n in (rows, words))
        targets = torch.randint(words, (rows,))
        small = token_logprobs_of(hidden[:2], weight, targets[:2], 1.0)[0].sum()
        small.backward()
        before = peak()
        logprobs, _ = token_logprobs_of(hidden, weight, targets, 1.0)
        logprobs.sum().backward()
        print((peak() - before) / (4 * rows * words))
        before = peak()
        (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None]).sum().backward()
        print((peak() - before) / (4 * rows * words))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    chunked, plain = map(float, done.stdout.split())
    assert chunked < 0.25
    assert plain > 1

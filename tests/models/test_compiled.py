"""Compiled layers compute what the others do, are compiled once for all microbatches, and only in place."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch._dynamo
from transformers import PreTrainedModel

from rlzero.models.compiled import CompiledLayers
from rlzero.models.packed_attention import enable_packing, packed_inputs
from rlzero.models.packed_layout import Span, make_layout
from tests.models.routed import make_model

# Two microbatches of other lengths and another number of attention calls.
SPANS = ([Span(0, 5), Span(5, 7)], [Span(0, 4), Span(4, 11, 0, 4), Span(11, 12, 0, 4), Span(12, 30), Span(30, 31)])


def logits(model: PreTrainedModel, spans: list[Span]) -> torch.Tensor:
    layout = make_layout(spans)
    tokens = torch.arange(layout.tokens) % 60 + 3
    positions = torch.cat([torch.arange(s.prefix, s.prefix + s.length) for s in spans])
    return model(**packed_inputs(tokens, positions, layout), use_cache=False).logits


def gradients(model: PreTrainedModel) -> list[torch.Tensor]:
    """Of a loss on both microbatches."""
    model.zero_grad()
    for spans in SPANS:
        logits(model, spans).log_softmax(-1)[..., 3].mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["llama", "ours_topk_softmax"])
def test_compiled_layers_have_the_gradients_of_the_others(kind, checkpointing, backend):
    if backend == "inductor" and not torch.cuda.is_available() and shutil.which("g++") is None:
        pytest.skip("inductor compiles C++ on a CPU, and there is no g++ here")
    model = make_model(kind).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    assert enable_packing(model)
    wanted = gradients(model)
    compiled = CompiledLayers(model, backend)
    torch._dynamo.utils.counters.clear()
    with compiled.in_place():
        found = gradients(model)
        torch._dynamo.utils.counters.clear()
        again = gradients(model)
    assert len(found) == len(wanted) > 5
    for one, other, plain in zip(found, again, wanted, strict=True):
        torch.testing.assert_close(one, plain, rtol=1e-4, atol=1e-6)
        assert torch.equal(one, other)
    # Nothing is compiled a second time.
    assert not torch._dynamo.utils.counters["stats"]


def test_layers_are_compiled_once_for_all_shapes():
    model = make_model("llama").train()
    assert enable_packing(model)
    with CompiledLayers(model, "eager").in_place():
        for spans in SPANS:
            logits(model, spans)
        torch._dynamo.utils.counters.clear()
        logits(model, [Span(0, 9), Span(9, 20), Span(20, 41)])
    assert not torch._dynamo.utils.counters["stats"]


def test_outside_of_its_context_the_model_is_as_it_was():
    model = make_model("llama")
    assert enable_packing(model)
    ids = torch.arange(8)[None]
    wanted = model(input_ids=ids).logits
    compiled = CompiledLayers(model, "eager")
    torch._dynamo.utils.counters.clear()
    assert torch.equal(model(input_ids=ids).logits, wanted)
    with pytest.raises(KeyError), compiled.in_place():
        raise KeyError
    assert torch.equal(model(input_ids=ids).logits, wanted)
    assert not torch._dynamo.utils.counters["stats"]
    assert not any("forward" in vars(module) for module in model.modules())


def test_model_that_does_not_say_what_its_layers_are_is_refused():
    model = make_model("llama")
    model._no_split_modules = None
    with pytest.raises(ValueError, match=r"torch_compile=True compiles layer by layer, and LlamaForCausalLM does not"):
        CompiledLayers(model, "eager")


def test_inductor_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    model = make_model("llama")
    with pytest.raises(ValueError, match=r"torch_compile_backend='inductor' needs a C\+\+ compiler .*'aot_eager'"):
        CompiledLayers(model, "inductor")
    CompiledLayers(model, "aot_eager")

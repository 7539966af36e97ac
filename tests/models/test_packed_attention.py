"""A model that can be packed says so, computes as before where it is not, and the same sequences where it is."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DogeConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    GptOssConfig,
    Lfm2Config,
    MistralConfig,
    Qwen3NextConfig,
)

from rlzero.models.config import MoEConfig
from rlzero.models.packed_attention import enable_packing, is_packing, packed_inputs
from rlzero.models.packed_layout import Span, make_layout
from tests.models.routed import OURS, STOCK, VOCABULARY, make_model

_SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "initializer_range": 0.2, "eos_token_id": 2, "pad_token_id": 0,
    "bos_token_id": None,
}  # fmt: skip
_SIZES = {"head_dim": 8, "moe_intermediate_size": 16}
_EXPERTS = {**_SIZES, "n_routed_experts": 4, "num_experts_per_tok": 2, "topk_method": "topk_softmax"}
PACKABLE = {
    "mistral_window": lambda: MistralConfig(**_SHAPE, head_dim=8, sliding_window=4),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    ),
    "ours_window": lambda: MoEConfig(**_SHAPE, **_EXPERTS, sliding_window=4),
}  # fmt: skip
# Why not: a cap or a sink in attention, a state beside it or in its place, an LSTM, a mask of its own.
NOT_PACKABLE = {
    "gemma2": lambda: Gemma2Config(**{**_SHAPE, "head_dim": 8}),
    "gpt_oss": lambda: GptOssConfig(**{**_SHAPE, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "falcon_h1": lambda: FalconH1Config(**_SHAPE, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8),
    "qwen3_next": lambda: Qwen3NextConfig(
        **{**_SHAPE, "head_dim": 8}, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "lfm2": lambda: Lfm2Config(**_SHAPE, layer_types=["conv", "full_attention"]),
    "ours_lstm": lambda: MoEConfig(**{**_SHAPE, **_EXPERTS, "num_key_value_heads": 4}, attention_kind="lstm"),
    "doge": lambda: DogeConfig(**_SHAPE),
}  # fmt: skip


def make(kind: str, **changes):
    """A random model in evaluation mode, the same every time."""
    if kind in (*STOCK, *OURS, "llama"):
        return make_model(kind, **changes)
    config = {**PACKABLE, **NOT_PACKABLE}[kind]()
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def logits_of(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0]


KINDS = ["llama", "mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3", "ours_topk_softmax", "ours_noaux_tc", *PACKABLE]
SEQUENCES = [[5, 9, 2, 7, 11, 3, 8, 21, 4], [6], [5, 9, 2, 7, 12, 13], [5, 9, 2, 7, 14, 15, 16, 17]]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_have_the_logits_of_each_alone(kind):
    model = make(kind)
    wanted = [logits_of(model, ids) for ids in SEQUENCES]
    assert enable_packing(model)
    # Two sequences by themselves, then two that share their first four tokens.
    ids = [*SEQUENCES[0], *SEQUENCES[1], *SEQUENCES[2][:4], *SEQUENCES[2][4:], *SEQUENCES[3][4:]]
    positions = [*range(9), 0, *range(6), *range(4, 8)]
    spans = [Span(0, 9), Span(9, 10), Span(10, 14), Span(14, 16, 10, 14), Span(16, 20, 10, 14)]
    inputs = packed_inputs(torch.tensor(ids), torch.tensor(positions), make_layout(spans))
    with torch.no_grad():
        found = model(**inputs, use_cache=False).logits[0]
    places = [[*range(9)], [9], [*range(10, 16)], [*range(10, 14), *range(16, 20)]]
    for place, logits in zip(places, wanted, strict=True):
        torch.testing.assert_close(found[place], logits, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_model_that_may_be_packed_generates_and_scores_padded_batches_as_before(kind):
    model, plain = make(kind), make(kind)
    enable_packing(model)
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 9, [0] * 4 + [1] * 5])
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(*(m.generate(ids, attention_mask=mask, **options) for m in (model, plain)))
    with torch.no_grad():
        assert torch.equal(*(m(input_ids=ids, attention_mask=mask).logits for m in (model, plain)))


@pytest.mark.parametrize("kind", NOT_PACKABLE)
def test_model_with_other_mixers_or_peculiar_attention_is_left_as_it_was(kind):
    model, plain = make(kind), make(kind)
    assert not enable_packing(model)
    assert not is_packing(model)
    assert model.config._attn_implementation == plain.config._attn_implementation
    torch.testing.assert_close(logits_of(model, SEQUENCES[0]), logits_of(plain, SEQUENCES[0]), rtol=0, atol=0)


def test_model_with_eager_attention_keeps_it():
    model = make("llama")
    model.set_attn_implementation("eager")
    assert not enable_packing(model)
    assert model.config._attn_implementation == "eager"


def test_model_that_does_not_hand_on_the_window_of_its_configuration_is_not_packed():
    """Llama knows no window: one in its configuration would be in a mask, if anywhere."""
    assert not enable_packing(make("llama", sliding_window=4))


def test_mode_and_random_state_are_as_before():
    for training in (True, False):
        model = make("qwen3_moe").train(training)
        state = torch.get_rng_state()
        assert enable_packing(model)
        assert model.training == training
        assert torch.equal(torch.get_rng_state(), state)


def test_copy_can_be_packed_and_a_saved_model_does_not_know_of_it(tmp_path):
    model = make("llama")
    assert enable_packing(model)
    assert enable_packing(model), "a second time too"
    assert is_packing(copy.deepcopy(model))
    model.save_pretrained(tmp_path)
    assert "rlzero" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not is_packing(loaded)
    torch.testing.assert_close(logits_of(loaded, SEQUENCES[0]), logits_of(model, SEQUENCES[0]), rtol=0, atol=0)

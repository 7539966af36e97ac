"""Pretraining descends the model's own loss, whosever model it is, and says what the experts do meanwhile."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3MoeForCausalLM

from data.charset import byte_tokenizer
from rlzero.grpo.config import ConfigError
from rlzero.models.balance import load
from rlzero.models.config import MoEConfig
from rlzero.models.decoder import MoEForCausalLM
from rlzero.models.moe import moe_layers
from rlzero.models.routing import record_routing
from rlzero.stages.pretrain import (
    IGNORED,
    PretrainConfig,
    batches,
    expert_loads,
    language_loss,
    learning_rate,
    move_bias,
    pretrain,
)

TOKENIZER = byte_tokenizer()
SPARSE = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def ours(**settings: object) -> MoEForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": len(TOKENIZER), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return MoEForCausalLM(MoEConfig(**{**shape, "intermediate_size": 32, **settings}))


def stock(tiny_base: Path, **settings: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM.from_pretrained(tiny_base, **settings)


def mean_loss(model: PreTrainedModel) -> float:
    """Nats a token over batches that pretraining with seed 1 does not see."""
    with torch.no_grad():
        few = list(islice(batches(PretrainConfig(seed=2, tokens_per_step=1024), TOKENIZER), 4))
        return sum(language_loss(model(batch.clamp(min=0)).logits, batch) for batch in few) / len(few)


@pytest.mark.parametrize("kind", ["ours", "transformers' own", "dense"])
def test_a_few_thousand_tokens_lower_the_loss_on_other_text(kind, tiny_base):
    torch.manual_seed(0)
    if kind == "dense":
        size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(TOKENIZER), **size))
    else:
        model = ours(**SPARSE) if kind == "ours" else stock(tiny_base)
    before = mean_loss(model)
    config = PretrainConfig(seed=1, tokens=20_000, tokens_per_step=1024, learning_rate=1e-2, warmup_steps=5)
    done = pretrain(config, model, TOKENIZER)
    assert before == pytest.approx(math.log(len(TOKENIZER)), abs=0.3)
    assert mean_loss(model) < before - 1
    assert 20_000 <= done.tokens < 20_000 + 1024
    assert len(done.load_cv) == {"ours": 2, "transformers' own": 1, "dense": 0}[kind]
    assert not model.training


def test_the_loss_that_is_told_is_the_language_alone(tiny_base):
    config = PretrainConfig(tokens=1, tokens_per_step=512)
    batch = next(batches(PretrainConfig(seed=0, tokens_per_step=512), TOKENIZER))
    heavy = {"balance": {"switch": 100.0}, "num_nextn_predict_layers": 1}
    for model in (ours(**SPARSE, **heavy), stock(tiny_base, router_aux_loss_coef=100.0)):
        with torch.no_grad():
            expected = language_loss(model.eval()(batch.clamp(min=0)).logits, batch)
        assert pretrain(config, model, TOKENIZER).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["ours", "transformers' own"])
def test_a_heavy_balance_loss_evens_the_load(kind, tiny_base):
    def load_cv(weight: float) -> float:
        if kind == "ours":
            model = ours(**SPARSE, balance={"switch": weight})
        else:
            model = stock(tiny_base, router_aux_loss_coef=weight)
        config = PretrainConfig(tokens=30_000, tokens_per_step=1024, learning_rate=1e-2, warmup_steps=1)
        return sum(pretrain(config, model, TOKENIZER).load_cv)

    assert load_cv(1.0) < 0.7 * load_cv(0.0)


def test_each_step_moves_the_bias_of_every_router_by_its_speed():
    speed = 0.25
    model = ours(**SPARSE, topk_method="noaux_tc", bias_update_speed=speed, num_nextn_predict_layers=1)
    pretrain(PretrainConfig(tokens=1, tokens_per_step=512), model, TOKENIZER)
    biases = [layer.gate.e_score_correction_bias for layer in moe_layers(model)]
    assert len(biases) == 3
    for bias_E in biases:
        assert set(bias_E.abs().tolist()) <= {0.0, speed}
        assert bias_E.any()


def test_padding_neither_counts_as_load_nor_moves_a_bias():
    model = ours(**SPARSE, topk_method="noaux_tc", bias_update_speed=1.0, num_nextn_predict_layers=1).train()
    batch_BT = torch.randint(0, 256, (3, 8))
    batch_BT[0, 2:] = batch_BT[1, 5:] = IGNORED
    real_BT = batch_BT != IGNORED
    with record_routing(model) as routing:
        model(input_ids=batch_BT.clamp(min=0), attention_mask=real_BT.long(), labels=batch_BT)
    counts_LE = expert_loads(model, routing, real_BT)
    assert counts_LE.sum(dim=-1).tolist() == [2 * 15, 2 * 15]
    layers = moe_layers(model)
    expected = [load(layer.last, real_BT.flatten()) for layer in layers[:2]]
    # Multi-token prediction runs without the last column.
    expected.append(load(layers[2].last, real_BT[:, :-1].flatten()))
    assert counts_LE.tolist() == [counts_E.tolist() for counts_E in expected[:2]]
    move_bias(model, real_BT)
    for layer, counts_E in zip(layers, expected, strict=True):
        even = counts_E.sum() / 4
        assert torch.equal(layer.gate.e_score_correction_bias, (even - counts_E).sign())


def test_batches_are_whole_documents_padded_on_the_right_and_repeat_by_seed():
    first = list(islice(batches(PretrainConfig(seed=3, tokens_per_step=600), TOKENIZER), 5))
    for batch_BT in first:
        assert batch_BT.numel() <= 600
        for row in batch_BT:
            kept = int((row != IGNORED).sum())
            assert (row[kept:] == IGNORED).all()
            assert (row[:kept] == TOKENIZER.eos_token_id).nonzero().flatten().tolist() == [kept - 1]
    again = islice(batches(PretrainConfig(seed=3, tokens_per_step=600), TOKENIZER), 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], next(batches(PretrainConfig(seed=4, tokens_per_step=600), TOKENIZER)))


def test_the_learning_rate_warms_up_stays_and_ends_at_zero():
    config = PretrainConfig(tokens=1000, learning_rate=2.0, warmup_steps=4)
    assert [learning_rate(config, step, 0) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert learning_rate(config, 50, 500) == 2.0
    assert learning_rate(config, 75, 750) == pytest.approx(1.0)
    assert learning_rate(config, 100, 1000) == pytest.approx(0.0)


def test_a_loss_that_is_not_finite_ends_it():
    model = ours(**SPARSE)
    torch.nn.init.constant_(model.lm_head.weight, math.inf)
    with pytest.raises(FloatingPointError, match="in step 1"):
        pretrain(PretrainConfig(tokens=10_000, tokens_per_step=512), model, TOKENIZER)


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"tokens_per_step": 0}, {"warmup_steps": 0}, {"learning_rate": 0.0}])
def test_settings_that_cannot_train_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PretrainConfig(**wrong)


def test_an_option_that_the_sums_do_not_have_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"arithmetic_options: .*no option 'operand'"):
        PretrainConfig(arithmetic_options={"operand": {"2": 1}})

"""However the samples are laid out and cut, log-probabilities, entropies and gradients are the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config, GraniteConfig, LlamaConfig, PreTrainedModel

from rlzero.grpo.batch import Batch, ScoredGroup, TrainingSample, filler, pack
from rlzero.grpo.policy import policy_logprobs, prepare_policy
from rlzero.models import token_head
from rlzero.rollout.types import Group
from tests.grpo.pieces import PAD, backward, bare_trainer, gradients, make_groups, make_recipe, make_rollout
from tests.models.test_packed_attention import NOT_PACKABLE, make

# Completions per prompt. One is alone; two prompts are longer than a microbatch of 40 tokens, one is a single token.
GROUPS = [(7, [3, 1, 12, 5]), (1, [4, 9]), (50, [2, 6]), (45, [11]), (5, [8])]
KINDS = [
    "llama", "mistral_window", "mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3", "gpt2", "ours_topk_softmax",
    "ours_window", "ours_noaux_tc",
]  # fmt: skip


def make_samples(groups=GROUPS, seed: int = 0) -> list[TrainingSample]:
    """The advantage of a sample is its number."""
    rng = np.random.default_rng(seed)
    samples = []
    for prompt, completions in groups:
        first = make_rollout(rng, prompt, 1)
        for completion in completions:
            rollout = replace(make_rollout(rng, prompt, completion), prompt_ids=first.prompt_ids)
            samples.append(TrainingSample(rollout, float(len(samples)), 1.0))
    return samples


def results(model: PreTrainedModel, batches: list[Batch], temperature: float = 0.8) -> dict[str, torch.Tensor]:
    """Values of each sample by its number, and the gradients of a loss that weighs every one of them differently."""
    found: dict[str, torch.Tensor] = {}
    model.zero_grad()
    for batch in batches:
        logprobs, entropies = policy_logprobs(model, batch, temperature, entropy_gradient=True)
        assert logprobs.shape == entropies.shape == batch.completion_mask.shape
        assert (logprobs[~batch.completion_mask] == 0).all()
        assert (entropies[~batch.completion_mask] == 0).all()
        slopes = batch.sampler_logprobs.cos() * (1 + batch.advantages[:, None])
        ((logprobs + 0.1 * entropies) * slopes * batch.completion_mask).sum().backward()
        for row, number in enumerate(batch.advantages.tolist()):
            mask = batch.completion_mask[row]
            found[f"logprobs {number:.0f}"] = logprobs[row][mask].detach()
            found[f"entropy {number:.0f}"] = entropies[row][mask].detach()
    return found | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance * scale + 1e-12, msg=name)


def double(kind: str, **changes) -> PreTrainedModel:
    changes = {"_experts_implementation": "eager", **changes}
    return make(kind, vocab_size=PAD + 1, **changes).double().train()


@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_shared_are_padded(kind):
    """The padded side is that of a model that was not prepared: its own head, all logits, no packing."""
    samples = make_samples()
    wanted = results(double(kind), pack(samples, 10_000, PAD, packed=False))
    model = double(kind)
    assert prepare_policy(model)
    for shared_prefix in (False, True, None):
        for budget in (10_000, 40):
            batches = pack(samples, budget, PAD, shared_prefix=shared_prefix)
            assert_same(results(model, batches), wanted)
    # A prepared model takes padded batches too, with several in a step or one.
    assert_same(results(model, pack(samples, 60, PAD, packed=False)), wanted)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "ours_noaux_tc"])
def test_model_whose_configuration_asks_for_router_logits_is_packed_as_any_other(kind):
    """TRL's SFTTrainer leaves them asked for: a forward pass would compute a balance loss, which packed rows break."""
    plain, asking = double(kind), double(kind)
    asking.config.output_router_logits = True
    assert prepare_policy(plain)
    assert prepare_policy(asking)
    batches = pack(make_samples(), 40, PAD)
    assert_same(results(asking, batches), results(plain, batches))


@pytest.mark.parametrize("chunk", [1, 3000])
def test_number_of_logits_at_a_time_does_not_matter(chunk, monkeypatch):
    samples = make_samples()
    model = double("qwen3_moe")
    prepare_policy(model)
    wanted = results(model, pack(samples, 100, PAD))
    monkeypatch.setattr(token_head, "_CHUNK", chunk)
    assert_same(results(model, pack(samples, 100, PAD)), wanted)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "ours_noaux_tc"])
def test_float32_differs_by_rounding_alone(kind):
    samples = make_samples()
    wanted = results(double(kind).float(), pack(samples, 10_000, PAD, packed=False))
    model = double(kind).float()
    assert prepare_policy(model)
    assert_same(results(model, pack(samples, 60, PAD, shared_prefix=True)), wanted, 2e-5)


def own_head(kind: str) -> PreTrainedModel:
    shape = {
        "vocab_size": PAD + 1, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "initializer_range": 0.2, "head_dim": 8,
    }  # fmt: skip
    config = {
        "granite": lambda: GraniteConfig(**shape, logits_scaling=0.5, attention_multiplier=0.3),
        "gemma2": lambda: Gemma2Config(**shape, final_logit_softcapping=2.0, sliding_window=6),
    }[kind]()
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).double().train()


@pytest.mark.parametrize(("kind", "packs"), [("granite", True), ("gemma2", False)])
def test_models_that_scale_or_cap_their_logits_keep_their_own_head(kind, packs):
    samples = make_samples()
    wanted = results(own_head(kind), pack(samples, 10_000, PAD, packed=False))
    model = own_head(kind)
    assert prepare_policy(model) == packs
    assert_same(results(model, pack(samples, 60, PAD, packed=packs)), wanted)


def test_model_that_cannot_be_packed_takes_padded_batches_and_refuses_packed_ones():
    model = double("ours_lstm")
    samples = make_samples()
    wanted = results(model, pack(samples, 10_000, PAD, packed=False))
    assert not prepare_policy(model)
    assert_same(results(model, pack(samples, 60, PAD, packed=False)), wanted)
    with pytest.raises(ValueError, match="a packed batch needs a model that prepare_policy let take one, and this MoE"):
        policy_logprobs(model, pack(samples, 60, PAD)[0], 1.0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_runs_the_same_layout_twice(reentrant):
    samples = make_samples()
    model = double("qwen3_moe")
    prepare_policy(model)
    batches = pack(samples, 100, PAD, shared_prefix=True)
    wanted = results(model, batches)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert_same(results(model, batches), wanted)


def test_bfloat16_autocast_is_as_near_to_full_precision_packed_as_padded():
    samples = make_samples()
    exact = results(double("llama"), pack(samples, 10_000, PAD, packed=False))
    errors = {}
    for packed in (False, True):
        model = double("llama").float()
        if packed:
            prepare_policy(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = results(model, pack(samples, 100, PAD, packed=packed))
        errors[packed] = sum(float((found[name] - exact[name]).norm() / exact[name].norm()) for name in exact)
        assert found["lm_head.weight"].dtype == torch.float32
    assert errors[True] < 1.2 * errors[False]


@settings(max_examples=25, deadline=None)
@given(
    budget=st.integers(1, 300),
    shared_prefix=st.sampled_from([True, False, None]),
    rewards=st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=4),
)
def test_gradient_of_an_update_does_not_depend_on_how_it_was_cut(budget, shared_prefix, rewards):
    groups = one_prompt_each(make_groups([[float(r) for r in row] for row in rewards]))
    found = {}
    for name, options in (
        ("whole", {"tokens_per_microbatch": 10_000, "shared_prefix": False}),
        ("cut", {"tokens_per_microbatch": budget, "shared_prefix": shared_prefix}),
    ):
        found[name] = gradients(bare_trainer(make_recipe(**options), double("llama")), groups)
    assert_same(found["cut"], found["whole"])


def one_prompt_each(groups: list[ScoredGroup]) -> list[ScoredGroup]:
    """`make_groups` draws a prompt for every answer; here those of a group have the first one's."""
    found = []
    for group in groups:
        rollouts = group.group.rollouts
        same = tuple(replace(r, prompt_ids=rollouts[0].prompt_ids) for r in rollouts)
        found.append(replace(group, group=Group(group.group.problem, same)))
    return found


@pytest.mark.parametrize("kind", ["llama", "ours_lstm"])
def test_process_without_samples_has_a_filler_and_no_gradient(kind):
    trainer = bare_trainer(make_recipe(), double(kind).float())
    packed = trainer.updater.packed
    assert packed == (kind not in NOT_PACKABLE)
    like = pack(make_samples(), 1000, PAD, packed=packed)[0]
    for batch in (filler(None, PAD, packed=packed), filler(like, PAD, packed=packed)):
        assert all(float(value) == 0 for value in backward(trainer, batch).values())
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        assert all(p.grad is not None and not p.grad.any() for p in trained)


def test_tied_head_has_the_gradient_of_both_its_uses():
    def tied() -> PreTrainedModel:
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config = LlamaConfig(**shape, vocab_size=PAD + 1, tie_word_embeddings=True, initializer_range=0.2)
        return AutoModelForCausalLM.from_config(config).double().train()

    samples = make_samples()
    wanted = results(tied(), pack(samples, 10_000, PAD, packed=False))
    model = tied()
    assert prepare_policy(model)
    assert_same(results(model, pack(samples, 100, PAD)), wanted)

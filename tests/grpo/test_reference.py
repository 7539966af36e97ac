"""The reference: frozen while the policy moves, moved when asked, saved and restored, and in nobody's way."""

from __future__ import annotations

import pytest
import torch

from rlzero.grpo.policy import policy_logprobs
from rlzero.grpo.reference import Reference
from rlzero.grpo.sampled import Sampled
from rlzero.grpo.setup import objective_words
from rlzero.report.run_dir import read_metrics
from tests.grpo.pieces import make_groups, make_recipe, make_trainer, updated
from tests.grpo.test_run import SIGNAL, without_times
from tests.grpo.test_sampling_run import make_feed
from tests.models.routed import make_model

REWARDS = [[0.0, 1.0, 1.2, 0.0], [1.0, 0.0, 0.0, 0.5]]
KINDS = ["llama", "deepseek_v3", "ours_noaux_tc"]


def tensors_of(model) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def shaken(model):
    with torch.no_grad():
        for tensor in tensors_of(model).values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.randn_like(tensor)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_model_computes_what_the_reference_computes_and_is_itself_again_afterwards(kind):
    model = make_model(kind).eval()
    ids = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        then = model(ids).logits
        reference = Reference(model)
        now = shaken(model)(ids).logits
        weights = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
        with reference.in_place():
            assert torch.equal(model(ids).logits, then)
        assert torch.equal(model(ids).logits, now)
    assert not torch.equal(then, now)
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors_of(model).items())
    with pytest.raises(KeyError, match="interrupted"), reference.in_place():
        raise KeyError("interrupted")
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors_of(model).items())


def test_tied_weights_are_exchanged_once():
    model = make_model("llama", tie_word_embeddings=True).eval()
    reference = Reference(model)
    then = model.lm_head.weight.detach().clone()
    shaken(model)
    with reference.in_place():
        assert torch.equal(model.lm_head.weight, then)
        assert torch.equal(model.model.embed_tokens.weight, then)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_reference_moves_by_its_formula_and_1_replaces_it_bit_for_bit(kind, alpha):
    model = make_model(kind)
    reference, then = Reference(model), {name: t.detach().clone() for name, t in tensors_of(model).items()}
    shaken(model)
    reference.mix(alpha)
    for name, now in tensors_of(model).items():
        kept = reference.state_dict()[name]
        wanted = now if alpha == 1 or not now.is_floating_point() else alpha * now + (1 - alpha) * then[name]
        torch.testing.assert_close(kept, wanted.detach(), rtol=0, atol=0 if alpha == 1 else 1e-6)


def test_reference_has_no_part_in_the_models_own_state(tiny_model_dir):
    trainer = make_trainer(tiny_model_dir, make_recipe(beta=0.1))
    plain = make_trainer(tiny_model_dir, make_recipe())
    assert trainer.model.state_dict().keys() == plain.model.state_dict().keys()
    assert sum(p.numel() for p in trainer.model.parameters()) == sum(p.numel() for p in plain.model.parameters())
    assert plain.updater.reference is None


def test_reference_stays_while_the_policy_moves_and_the_kl_grows(tiny_model_dir):
    trainer = make_trainer(tiny_model_dir, make_recipe(beta=0.1, learning_rate=0.01))
    then = {name: tensor.clone() for name, tensor in trainer.updater.reference.state_dict().items()}
    kls = [updated(trainer, make_groups(REWARDS))["kl"] for _ in range(3)]
    assert kls[0] == 0
    assert 0 < kls[1] < kls[2]
    assert all(torch.equal(then[name], kept) for name, kept in trainer.updater.reference.state_dict().items())


def test_a_strong_pull_keeps_the_policy_near(tiny_model_dir):
    kls = {}
    for beta in (1e-9, 10.0):
        trainer = make_trainer(tiny_model_dir, make_recipe(beta=beta, learning_rate=0.003))
        kls[beta] = [updated(trainer, make_groups(REWARDS))["kl"] for _ in range(12)][-1]
    assert kls[10.0] < 0.5 * kls[1e-9]


def test_policy_forward_pass_is_the_references_in_place_for_packed_batches_too(tiny_model_dir):
    trainer = make_trainer(tiny_model_dir, make_recipe(beta=0.1))
    _, (minibatch,), _ = trainer.compare(make_groups(REWARDS), range(2))
    batches = trainer.updater._batches(minibatch.samples)
    with torch.no_grad():
        then = [policy_logprobs(trainer.model, batch, 1.0)[0] for batch in batches]
    shaken(trainer.model)
    (refs,) = trainer.updater._ref_logprobs([batches])
    assert all(torch.equal(a, b) for a, b in zip(then, refs, strict=True))


def test_reference_moves_whenever_a_rollout_passes_a_multiple_of_its_steps(tiny_model_dir):
    """Four updates a rollout and a move every six: steps 6 and 12 lie in the second and third."""
    settings = {"beta": 0.1, "num_iterations": 4, "sync_ref_model": True, "ref_model_sync_steps": 6}
    trainer, alphas, moves = make_trainer(tiny_model_dir, make_recipe(**settings, ref_model_mixup_alpha=0.3)), [], []
    trainer.feed, trainer.updater.move_reference = make_feed(), alphas.append
    for _ in range(4):
        trainer.finish(Sampled(), 4)
        moves.append(len(alphas))
    assert moves == [0, 1, 2, 2]
    assert alphas == [0.3, 0.3]


def test_saved_reference_of_another_model_is_refused():
    reference = Reference(make_model("llama"))
    with pytest.raises(
        ValueError, match=r"must have the tensors of the model that is trained, and \d+ differ .*use the same arch"
    ):
        reference.load_state_dict(Reference(make_model("deepseek_v3")).state_dict())


@pytest.mark.parametrize("settings", [
    {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 1.0},
    {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.3},
    {"kl_in_reward": True},
])  # fmt: skip
def test_resumed_run_goes_on_with_the_reference_that_it_had(tiny_run, settings):
    """The same metrics as a run that was never stopped; and a moved reference shows in the KL."""
    settings = {**SIGNAL, **settings, "beta": 0.05, "save_steps": 1, "learning_rate": 0.01}
    whole = tiny_run.output.parent / "whole"
    assert tiny_run(**settings, max_steps=5, output_dir=whole).code == 0
    assert tiny_run(**settings, max_steps=3).code == 0
    assert tiny_run("--resume", **settings, max_steps=5).code == 0
    assert without_times(read_metrics(tiny_run.output)) == without_times(read_metrics(whole))
    kl = [row["kl"] for row in read_metrics(whole)]
    assert kl[0] == 0 < kl[1]
    if settings.get("ref_model_mixup_alpha") == 1.0:
        # Replaced after every second step: the next one starts from no distance.
        assert kl[2] == kl[4] == 0 < kl[3]


def test_reference_by_adapter_is_the_model_that_the_run_began_with(tiny_model_dir):
    """The same KL as with a copy of that model, and nothing beside the adapters learns."""
    trainer = make_trainer(tiny_model_dir, make_recipe(lora_r=4, beta=0.1, learning_rate=0.01))
    then = {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}
    copy = Reference(trainer.model)
    kls = [updated(trainer, make_groups(REWARDS))["kl"] for _ in range(3)]
    assert kls[0] == 0 < kls[1] < kls[2]
    moved = {n for n, tensor in trainer.model.named_parameters() if not torch.equal(tensor, then[n])}
    assert moved
    assert all("lora_" in name for name in moved)
    _, (minibatch,), _ = trainer.compare(make_groups(REWARDS), range(2))
    batches = trainer.updater._batches(minibatch.samples)
    (by_adapter,), trainer.updater.reference = trainer.updater._ref_logprobs([batches]), copy
    (by_copy,) = trainer.updater._ref_logprobs([batches])
    for one, other in zip(by_adapter, by_copy, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_run_with_adapters_leaves_a_model_that_loads_as_any_other(tiny_run, tiny_model_dir):
    from transformers import AutoModelForCausalLM

    outcome = tiny_run(**SIGNAL, lora_r=4, lora_target_modules=["q_proj", "v_proj"], beta=0.05, learning_rate=0.01)
    assert outcome.code == 0, outcome.err
    assert read_metrics(tiny_run.output)[-1]["kl"] > 0
    trained = AutoModelForCausalLM.from_pretrained(tiny_run.output / "model").state_dict()
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir).state_dict()
    assert trained.keys() == base.keys()
    changed = {name.split(".")[-2] for name in base if not torch.equal(trained[name], base[name])}
    assert changed == {"q_proj", "v_proj"}
    assert "adapters of rank 4 alone" in objective_words(make_recipe(lora_r=4))


def test_reference_may_be_another_model_on_disk(tiny_run, tiny_model_dir, tmp_path):
    from rlzero.models.load import load_model

    torch.manual_seed(0)
    shaken(load_model(tiny_model_dir, "float32")).save_pretrained(tmp_path / "other")
    settings = {**SIGNAL, "beta": 0.05, "max_steps": 1}
    assert tiny_run(**settings, ref_model_name_or_path=tmp_path / "other").code == 0
    assert tiny_run(**settings, ref_model_name_or_path=tiny_model_dir, output_dir=tmp_path / "same").code == 0
    assert read_metrics(tiny_run.output)[0]["kl"] > 0.01
    assert read_metrics(tmp_path / "same")[0]["kl"] == 0


def test_reference_that_is_not_there_or_of_another_architecture_is_refused(tiny_run, tmp_path):
    settings = {**SIGNAL, "beta": 0.05}
    outcome = tiny_run(**settings, ref_model_name_or_path=tmp_path / "nowhere")
    assert outcome.code == 2
    assert "nowhere" in outcome.err
    make_model("llama").save_pretrained(tmp_path / "llama")
    outcome = tiny_run(**settings, ref_model_name_or_path=tmp_path / "llama")
    assert outcome.code == 2
    assert "cannot be the reference: a reference must have the tensors of the model that is trained" in outcome.err
    assert not tiny_run.output.exists() or not any(tiny_run.output.iterdir())

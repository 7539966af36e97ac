"""A mixture of experts in RL: replay, load, bias and what is refused, in the real trainer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlzero.grpo.batch import ScoredGroup, TrainingSample, filler, pack
from rlzero.grpo.config import ConfigError, GRPOConfig
from rlzero.grpo.mismatch import mismatch_sums
from rlzero.grpo.moe import BIAS_SPEED, check_experts, expert_figures
from rlzero.grpo.policy import policy_logprobs
from rlzero.grpo.trainer import GRPOTrainer
from rlzero.models.balance import move_bias
from rlzero.models.routing import record_routing, replay_routing, router_layers, router_modules
from rlzero.report.run_dir import read_metrics
from rlzero.rollout.checkpoint_weights import CheckpointWeights
from tests.grpo.pieces import PAD, backward, bare_trainer, make_groups, make_recipe, updated
from tests.models.routed import EXPERTS, OURS, STOCK, make_model

REWARDS = [[0.0, 1.0, 1.0, 0.0], [1.0, 0.5, 1.0, 1.0]]
BIASED = ["deepseek_v3", "ours_noaux_tc"]


def make_trainer(kind: str = "qwen3_moe", **grpo) -> GRPOTrainer:
    """The real trainer on a tiny model of the kind, with room for every token that `make_groups` makes."""
    model = make_model(kind, vocab_size=PAD + 1)
    return bare_trainer(make_recipe(**grpo), model)


def routed_groups(model, shift: int = 0) -> list[ScoredGroup]:
    """Groups whose rollouts carry the experts that the model itself chooses, each moved on by `shift`."""
    groups = []
    for group in make_groups(REWARDS):
        rollouts = []
        for rollout in group.group.rollouts:
            ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.completion_ids]))
            with torch.no_grad(), record_routing(model) as tape:
                model(input_ids=ids[None, :-1], use_cache=False)
            routing = ((tape.stacked() + shift) % EXPERTS).numpy().astype(np.int16)
            rollouts.append(replace(rollout, routing=routing))
        groups.append(replace(group, group=replace(group.group, rollouts=tuple(rollouts))))
    return groups


def counted(groups: list[ScoredGroup], layer: int) -> np.ndarray:
    """How often each expert is in the rollouts' own routing of this router."""
    chosen = [r.routing[:, layer].ravel() for group in groups for r in group.group.rollouts]
    return np.bincount(np.concatenate(chosen), minlength=EXPERTS)


@pytest.mark.parametrize(
    ("kind", "changes", "options", "message"),
    [
        (
            "ours_switch",
            {"capacity_factor_eval": 2.0},
            {},
            r"capacity_factor_eval=2.0 in the model's config.json drops",
        ),
        ("llama", {}, {"router_replay": True}, r"router_replay=True .* LlamaForCausalLM has no router of these. Leave"),
        ("llama", {}, {"router_bias": "update"}, r"router_bias='update' .* LlamaForCausalLM has none. Leave"),
        ("mixtral", {}, {"router_bias": "update"}, r"router_bias='update' .* MixtralForCausalLM has none. Leave"),
    ],
)
def test_model_that_cannot_be_trained_so_is_refused_by_option_and_remedy(kind, changes, options, message):
    model = make_model(kind)
    for name, value in changes.items():
        setattr(model.config, name, value)
    with pytest.raises(ConfigError, match=message):
        check_experts(model, GRPOConfig(**options))


@pytest.mark.parametrize("kind", BIASED)
def test_model_with_biases_may_be_replayed_and_balanced(kind):
    check_experts(make_model(kind), GRPOConfig(router_replay=True, router_bias="update"))


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("kind", [*STOCK, *OURS])
def test_every_trained_parameter_has_a_gradient_where_most_experts_have_no_token(kind, implementation):
    """DDP waits for the gradient of each. Prediction heads, which RL does not reach, are not trained."""
    trainer = make_trainer(kind)
    trainer.model.set_experts_implementation(implementation)
    (batch,) = pack([TrainingSample(make_groups(REWARDS)[0].group.rollouts[0], 1.0, 1.0)], 1000, PAD)
    routers = router_modules(trainer.model)
    width = trainer.model.config.num_experts_per_tok
    few = torch.arange(width).expand(len(routers), len(batch.readers), width)
    with replay_routing(trainer.model, few):
        backward(trainer, batch)
    missing = [name for name, p in trainer.model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    frozen = {name for name, p in trainer.model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in trainer.model.named_parameters() if name.startswith("mtp.")}
    assert bool(frozen) == (kind == "ours_noaux_tc")


@pytest.mark.parametrize("kind", ["mixtral", "ours_noisy_topk", "ours_top2_random", "ours_switch"])
def test_training_mode_computes_what_evaluation_mode_and_so_an_engine_computes(kind):
    training = {"router_jitter_noise": 0.3, "drop_policy": "capacity", "capacity_factor_train": 0.5}
    model = make_model(kind, vocab_size=PAD + 1, **training)
    (batch,) = pack([TrainingSample(make_groups(REWARDS)[0].group.rollouts[0], 1.0, 1.0)], 1000, PAD, packed=False)
    with torch.no_grad():
        chance = [policy_logprobs(model.train(mode), batch, 1.0)[0] for mode in (True, False)]
    assert not torch.equal(*chance), "before it is prepared for RL"
    trainer = bare_trainer(make_recipe(), model)
    assert trainer.model.training
    trained = policy_logprobs(trainer.model, batch, 1.0)[0]
    evaluated = policy_logprobs(trainer.model.eval(), batch, 1.0)[0]
    assert torch.equal(trained, evaluated)


def test_replay_is_off_unless_asked_for():
    trainer = make_trainer()
    groups = routed_groups(trainer.model, shift=1)
    _, (minibatch,), _ = trainer.compare(groups, range(len(groups)))
    batch = pack(minibatch.samples, 1000, PAD)[0]
    with record_routing(trainer.model) as used, trainer.updater.experts.update(batch):
        policy_logprobs(trainer.model, batch, 1.0)
    with record_routing(trainer.model) as own:
        policy_logprobs(trainer.model, batch, 1.0)
    assert torch.equal(used.stacked(), own.stacked())


@pytest.mark.parametrize("budget", [10_000, 40])
@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3", "ours_noaux_tc"])
def test_update_and_old_log_probabilities_run_the_engines_experts(kind, budget):
    trainer = make_trainer(kind, router_replay=True, tokens_per_microbatch=budget)
    groups = routed_groups(trainer.model, shift=1)
    _, (minibatch,), _ = trainer.compare(groups, range(len(groups)))
    batches = pack(minibatch.samples, budget, PAD)
    assert (len(batches) > 1) == (budget == 40)
    for batch, (old, _) in zip(batches, trainer.updater.logprobs(batches), strict=True):
        with trainer.updater.experts.update(batch):
            new = policy_logprobs(trainer.model, batch, 1.0)[0].detach()
        own = policy_logprobs(trainer.model, batch, 1.0)[0].detach()
        assert torch.equal(old, new)
        assert ((own - new).abs() * batch.completion_mask).max() > 0.01
        # Each row by itself, without padding: what was packed beside a token is its own routing.
        for row in range(len(batch.input_ids)):
            length = int(batch.read[row].sum())
            routing = batch.routing[row, :length].transpose(0, 1)
            with torch.no_grad(), replay_routing(trainer.model, routing):
                logits = trainer.model(input_ids=batch.input_ids[row : row + 1, :length], use_cache=False).logits[0]
            wanted = logits.log_softmax(-1).gather(-1, batch.input_ids[row, 1 : length + 1, None])[:, 0]
            mask = batch.completion_mask[row]
            torch.testing.assert_close(new[row][mask], wanted[mask[:length]], rtol=1e-4, atol=1e-4)


def test_filler_needs_no_routing_and_rollouts_do():
    trainer = make_trainer(router_replay=True)
    with trainer.updater.experts.update(filler(None, PAD)):
        backward(trainer, filler(None, PAD))
    assert trainer.updater.experts.finish() == {}
    with pytest.raises(ValueError, match="router_replay needs the experts that the engine ran, and these rollouts"):
        updated(trainer, make_groups(REWARDS))


@pytest.mark.parametrize("budget", [10_000, 40])
@pytest.mark.parametrize("shift", [0, 1])
def test_load_counts_the_experts_really_run_and_no_padding(budget, shift):
    trainer = make_trainer("deepseek_v3", router_replay=True, tokens_per_microbatch=budget)
    groups = routed_groups(trainer.model, shift)
    stats = updated(trainer, groups)
    assert router_layers(trainer.model) == [1, 2]
    for router, layer in enumerate([1, 2]):
        load = counted(groups, router)
        assert stats[f"experts/load_cv/{layer}"] == pytest.approx(load.std() / load.mean())
        assert stats[f"experts/load_max/{layer}"] == pytest.approx(load.max() / load.sum())
    assert stats["experts/disagreement/1"] == (0 if shift == 0 else 1)


def test_disagreement_is_about_sets_of_experts_and_known_tokens_only():
    trainer = make_trainer("mixtral")
    groups = routed_groups(trainer.model)
    changed = 0
    for group in groups:
        for rollout in group.group.rollouts:
            rollout.routing[:] = rollout.routing[..., ::-1].copy()  # another order, the same experts
            rollout.routing[0] = -1
            rollout.routing[1, 2] = (rollout.routing[1, 2] + 1) % EXPERTS
            changed += 1
    known = sum(len(r.routing) - 1 for group in groups for r in group.group.rollouts)
    stats = updated(trainer, groups)
    assert [stats[f"experts/disagreement/{layer}"] for layer in range(3)] == [0, 0, pytest.approx(changed / known)]


def test_figures_of_a_load_are_those_computed_by_hand():
    loads = torch.tensor([[2.0, 2.0, 2.0, 2.0], [8.0, 0.0, 0.0, 0.0], [4.0, 2.0, 1.0, 1.0]])
    figures = expert_figures([0, 1, 5], loads, torch.tensor([0.0, 2.0, 4.0]), 8.0)
    assert figures == {
        "experts/load_cv/0": 0.0,
        "experts/load_max/0": 0.25,
        "experts/disagreement/0": 0.0,
        "experts/load_cv/1": pytest.approx(3**0.5),
        "experts/load_max/1": 1.0,
        "experts/disagreement/1": 0.25,
        "experts/load_cv/5": pytest.approx((6 / 4) ** 0.5 / 2),
        "experts/load_max/5": 0.5,
        "experts/disagreement/5": 0.5,
    }
    assert expert_figures([0, 1, 5], 0 * loads, torch.zeros(3), 0.0) == {}


def test_bias_moves_by_its_speed_towards_the_mean_load():
    model = make_model("deepseek_v3")
    routers = router_modules(model)
    before = [router.e_score_correction_bias.clone() for router in routers]
    counts = torch.tensor([[3, 1, 1, 1, 1, 1, 1, 3], [3, 3, 3, 3, 3, 3, 3, 3]], dtype=torch.float64)
    move_bias(routers, counts, 0.25)
    moved = [router.e_score_correction_bias - b for router, b in zip(routers, before, strict=True)]
    assert moved[0].tolist() == pytest.approx([-0.25, *[0.25] * 6, -0.25])
    assert moved[1].tolist() == [0.0] * 8


@pytest.mark.parametrize("budget", [10_000, 40])
@pytest.mark.parametrize("kind", BIASED)
def test_bias_is_updated_by_the_routing_that_was_replayed_and_reaches_the_engines_weights(kind, budget):
    trainer = make_trainer(kind, router_replay=True, router_bias="update", tokens_per_microbatch=budget)
    groups = routed_groups(trainer.model, shift=3)
    before = [router.e_score_correction_bias.clone() for router in router_modules(trainer.model)]
    updated(trainer, groups)
    speed = 0.01 if kind == "ours_noaux_tc" else BIAS_SPEED
    sent = {name: tensor for name, tensor in CheckpointWeights(trainer.model) if "e_score_correction_bias" in name}
    sent = {name: tensor for name, tensor in sent.items() if not name.startswith("mtp.")}
    assert len(sent) == len(before) == 2
    for layer, (bias, tensor) in enumerate(zip(before, sent.values(), strict=True)):
        load = counted(groups, layer)
        wanted = bias.numpy() + speed * np.sign(load.mean() - load)
        np.testing.assert_allclose(tensor.numpy(), wanted, atol=1e-7)
        assert tensor.dtype == torch.float32


def test_bias_stays_unless_asked_for_and_where_no_group_has_a_signal():
    for grpo, groups in (({}, REWARDS), ({"router_bias": "update"}, [[1.0, 1.0], [0.0, 0.0]])):
        trainer = make_trainer("deepseek_v3", **grpo)
        before = [router.e_score_correction_bias.clone() for router in router_modules(trainer.model)]
        updated(trainer, make_groups(groups))
        for router, bias in zip(router_modules(trainer.model), before, strict=True):
            assert torch.equal(router.e_score_correction_bias, bias)


def test_bias_stays_where_the_step_was_skipped(tmp_path):
    trainer = make_trainer("deepseek_v3", router_bias="update", output_dir=str(tmp_path))
    before = [router.e_score_correction_bias.clone() for router in router_modules(trainer.model)]
    trainer.updater._clipped_norm = lambda: float("inf")
    assert updated(trainer, make_groups(REWARDS))["skipped"] == 1
    for router, bias in zip(router_modules(trainer.model), before, strict=True):
        assert torch.equal(router.e_score_correction_bias, bias)


def test_every_iteration_on_the_same_rollouts_moves_the_bias_once():
    trainer = make_trainer("deepseek_v3", router_replay=True, router_bias="update", num_iterations=3)
    before = router_modules(trainer.model)[0].e_score_correction_bias.clone()
    groups = routed_groups(trainer.model)
    updated(trainer, groups)
    load = counted(groups, 0)
    moved = router_modules(trainer.model)[0].e_score_correction_bias - before
    np.testing.assert_allclose(moved.numpy(), 3 * BIAS_SPEED * np.sign(load.mean() - load), atol=1e-6)


def test_mismatch_is_that_of_the_formulas():
    difference = torch.tensor([[0.0, 0.1, -0.8, 5.0], [0.69, -0.70, 0.7, 1.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, True, False]])
    size, kl, far, largest = (float(value) for value in mismatch_sums(difference, mask))
    kept = difference[mask].double().numpy()
    assert size == pytest.approx(np.abs(kept).sum())
    assert kl == pytest.approx((np.exp(kept) - 1 - kept).sum(), rel=1e-5)
    assert far == 3  # e^0.69 is just below 2, e^0.70 above, e^-0.7 and e^-0.8 below 1/2
    assert largest == pytest.approx(0.8)


def test_run_with_replay_records_its_figures_layer_by_layer(tiny_run):
    settings = {"reward_funcs": ["accuracy", "format", "coin"], "num_generations": 4, "max_steps": 2}
    assert tiny_run(**settings, router_replay=True).code == 0
    for row in read_metrics(tiny_run.output):
        assert row["experts/disagreement/0"] == row["ratio_above_2"] == 0
        assert 0 < row["experts/load_max/0"] <= 0.5
        assert row["experts/load_cv/0"] >= 0
        assert 0 <= row["mismatch_kl"] < 1e-9
    without = tiny_run.output.parent / "without"
    assert tiny_run(**settings, output_dir=without).code == 0
    # The engine is the trainer's own model: there is nothing to correct, and replay corrects nothing.
    keys = ("reward", "loss", "grad_norm", "entropy", "experts/load_cv/0", "experts/load_max/0")
    for row, plain in zip(read_metrics(tiny_run.output), read_metrics(without), strict=True):
        assert [row[key] for key in keys] == [plain[key] for key in keys]
        assert "experts/disagreement/0" not in plain


def test_run_refuses_to_update_a_bias_that_is_not_there(tiny_run):
    outcome = tiny_run(router_bias="update")
    assert outcome.code == 2
    assert "router_bias='update' needs routers that choose by a bias" in outcome.err

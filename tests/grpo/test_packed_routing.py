"""Routing where a prompt is run once for its group: replayed by the first row, counted for every row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlzero.grpo.batch import ScoredGroup, pack
from rlzero.grpo.policy import policy_logprobs
from rlzero.grpo.trainer import GRPOTrainer
from rlzero.models.routing import record_routing, router_layers
from rlzero.rollout.types import Group
from tests.grpo.pieces import PAD, bare_trainer, gradients, make_groups, make_recipe, updated
from tests.models.routed import EXPERTS, make_model

REWARDS = [[0.0, 1.0, 1.0, 0.0], [1.0, 0.5, 1.0, 1.0]]


def make_trainer(kind: str, **settings) -> GRPOTrainer:
    return bare_trainer(make_recipe(**settings), make_model(kind, vocab_size=PAD + 1))


def routed_groups(model, shift: int = 0) -> list[ScoredGroup]:
    """Groups of one prompt each, with the experts that the model itself chooses, each moved on by `shift`."""
    groups = []
    for group in make_groups(REWARDS):
        rollouts = []
        for rollout in group.group.rollouts:
            rollout = replace(rollout, prompt_ids=group.group.rollouts[0].prompt_ids)
            ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.completion_ids]))
            with torch.no_grad(), record_routing(model) as tape:
                model(input_ids=ids[None, :-1], use_cache=False)
            routing = ((tape.stacked() + shift) % EXPERTS).numpy().astype(np.int16)
            rollouts.append(replace(rollout, routing=routing))
        groups.append(replace(group, group=Group(group.group.problem, tuple(rollouts))))
    return groups


@pytest.mark.parametrize("budget", [10_000, 30])
@pytest.mark.parametrize("kind", ["mixtral", "deepseek_v3", "ours_noaux_tc"])
def test_replay_through_a_shared_prompt_gives_the_gradient_of_rows_apart(kind, budget):
    found = {}
    for shared_prefix in (True, False):
        trainer = make_trainer(
            kind, router_replay=True, shared_prefix=shared_prefix,
            tokens_per_microbatch=budget if shared_prefix else 10_000,
        )  # fmt: skip
        groups = routed_groups(trainer.model, shift=1)
        found[shared_prefix] = gradients(trainer, groups)
    for name, wanted in found[False].items():
        torch.testing.assert_close(found[True][name], wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


def test_the_experts_of_a_shared_prompt_are_those_of_its_first_row():
    trainer = make_trainer("qwen3_moe", router_replay=True, shared_prefix=True)
    groups = routed_groups(trainer.model)
    prompt = len(groups[0].group.rollouts[0].prompt_ids)
    _, (minibatch,), _ = trainer.compare(groups[:1], range(1))
    (batch,) = pack(minibatch.samples, 10_000, PAD, shared_prefix=True)
    for row in range(1, 4):
        batch.routing[row, :prompt] = (batch.routing[row, :prompt] + 1) % EXPERTS
    with trainer.updater.experts.update(batch), record_routing(trainer.model) as used:
        policy_logprobs(trainer.model, batch, 1.0)
    chosen = used.stacked()
    assert torch.equal(chosen[:prompt], batch.routing[0, :prompt].long())
    assert torch.equal(chosen, batch.as_run(batch.routing).long())


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_load_counts_every_row_that_reads_a_token(shared_prefix):
    """So the bias of DeepSeek-V3 moves by what engine and rollouts had, however the trainer lays them out."""
    trainer = make_trainer("deepseek_v3", router_replay=True, shared_prefix=shared_prefix)
    groups = routed_groups(trainer.model, shift=1)
    stats = updated(trainer, groups)
    for router, layer in enumerate(router_layers(trainer.model)):
        chosen = [r.routing[:, router].ravel() for group in groups for r in group.group.rollouts]
        load = np.bincount(np.concatenate(chosen), minlength=EXPERTS)
        assert stats[f"experts/load_cv/{layer}"] == pytest.approx(load.std() / load.mean())
        assert stats[f"experts/load_max/{layer}"] == pytest.approx(load.max() / load.sum())
        assert stats[f"experts/disagreement/{layer}"] > 0.9


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_disagreement_is_a_share_of_the_rows_tokens(shared_prefix):
    trainer = make_trainer("mixtral", shared_prefix=shared_prefix)
    groups = routed_groups(trainer.model)
    differing = tokens = 0
    for group in groups:
        for rollout in group.group.rollouts:
            # The last token of the prompt in the last layer, and the first token is not known.
            prompt = len(rollout.prompt_ids)
            rollout.routing[prompt - 1, 2] = (rollout.routing[prompt - 1, 2] + 1) % EXPERTS
            rollout.routing[0] = -1
            differing += 1
            tokens += len(rollout.routing) - 1
    stats = updated(trainer, groups)
    found = [stats[f"experts/disagreement/{layer}"] for layer in range(3)]
    assert found == [0, 0, pytest.approx(differing / tokens)]

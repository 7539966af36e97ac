"""The loss and its gradient against TRL 1.16's `GRPOTrainer._compute_loss` (trl/trainer/grpo_trainer.py) itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlzero.grpo.batch import pack
from tests.grpo.pieces import PAD, backward, make_groups, make_recipe, make_trainer

REWARDS = [[0.0, 1.0, 1.2, 0.0], [1.0, 0.5, 1.0, 1.0], [0.2, 0.0, 0.0, 1.0]]
LONGEST = 16


@pytest.fixture(scope="module")
def trl_trainer(tiny_model_dir, tmp_path_factory):
    """Makes TRL's real trainer on a given model; it never generates, only its loss is called."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    def make(model, **options):
        config = GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            use_cpu=True,
            bf16=False,
            report_to="none",
            num_generations=4,
            per_device_train_batch_size=12,
            max_completion_length=LONGEST,
            gradient_checkpointing=False,
            beta=0.0,
            router_aux_loss_coef=0.0,
            **options,
        )
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "1+1=?"}] * 12),
            processing_class=AutoTokenizer.from_pretrained(tiny_model_dir),
        )
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        return trainer

    return make


def as_trl_batch(groups, advantages) -> dict[str, torch.Tensor]:
    """Prompts padded on the left, completions on the right, as TRL's loss takes them."""
    rollouts = [r for group in groups for r in group.group.rollouts]
    prompt, completion = (max(len(getattr(r, k)) for r in rollouts) for k in ("prompt_ids", "completion_ids"))
    batch = {
        "prompt_ids": torch.full((len(rollouts), prompt), PAD),
        "prompt_mask": torch.zeros(len(rollouts), prompt, dtype=torch.long),
        "completion_ids": torch.full((len(rollouts), completion), PAD),
        "completion_mask": torch.zeros(len(rollouts), completion, dtype=torch.long),
        "advantages": torch.tensor(np.array(advantages).reshape(-1)),
        "num_items_in_batch": torch.tensor(sum(len(r.completion_ids) for r in rollouts)),
    }
    for i, rollout in enumerate(rollouts):
        batch["prompt_ids"][i, prompt - len(rollout.prompt_ids) :] = torch.from_numpy(rollout.prompt_ids)
        batch["prompt_mask"][i, prompt - len(rollout.prompt_ids) :] = 1
        batch["completion_ids"][i, : len(rollout.completion_ids)] = torch.from_numpy(rollout.completion_ids)
        batch["completion_mask"][i, : len(rollout.completion_ids)] = 1
    return batch


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("temperature", [1.0, 0.8])
@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_loss_and_gradient_are_trls(tiny_model_dir, trl_trainer, loss_type, off_policy, temperature):
    recipe = make_recipe(
        {"temperature": temperature, "max_completion_length": LONGEST},
        loss_type=loss_type, epsilon=0.1, epsilon_high=0.3, tokens_per_microbatch=60,
    )  # fmt: skip
    ours = make_trainer(tiny_model_dir, recipe)
    groups = make_groups(REWARDS)
    advantages, (minibatch,), _ = ours.compare(groups, range(len(groups)))
    samples = minibatch.samples
    batches = pack(samples, recipe.grpo.tokens_per_microbatch, PAD, packed=ours.updater.packed)
    assert len(batches) > 2, "the step is cut on our side and whole on TRL's"
    # Off policy: the policy of the rollouts differs from the present one by so much that both clips act.
    shifts = [0.4 * torch.sin(torch.arange(b.completion_mask.numel()).view_as(b.completion_mask)) for b in batches]
    old = [o + s if off_policy else None for (o, _), s in zip(ours.updater.logprobs(batches), shifts, strict=True)]
    ours.model.zero_grad()
    results = [backward(ours, batch, o) for batch, o in zip(batches, old, strict=True)]
    loss, low, high = (sum(float(r[name]) for r in results) for name in ("loss", "clip_low", "clip_high"))
    found = gradients_of(ours.model)

    sampling = {"temperature": temperature, "epsilon": 0.1, "epsilon_high": 0.3}
    theirs = trl_trainer(ours.accelerator.unwrap_model(ours.model), loss_type=loss_type, **sampling)
    batch = as_trl_batch(groups, advantages)
    if off_policy:
        batch["old_per_token_logps"] = torch.zeros(batch["completion_ids"].shape)
        values = {}
        for packed, logprobs in zip(batches, old, strict=True):
            for i, mask in enumerate(packed.completion_mask):
                values[tuple(packed.input_ids[i, : int(mask.nonzero()[-1]) + 2].tolist())] = logprobs[i][mask]
        for place, rollout in enumerate(s.rollout for s in samples):
            row = values[(*rollout.prompt_ids.tolist(), *rollout.completion_ids.tolist())]
            batch["old_per_token_logps"][place, : len(row)] = row
    theirs.model.zero_grad()
    wanted = theirs._compute_loss(theirs.model, batch)
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-4, abs=1e-6)
    assert (low > 0) == (high > 0) == off_policy
    for name, gradient in gradients_of(theirs.model).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize(("advantage", "scale_rewards"), [("grpo", "group"), ("dr_grpo", "none")])
def test_advantages_are_trls(tiny_model_dir, advantage, scale_rewards):
    """TRL's lines, from `_generate_and_score_completions`: mean and std of the group, `+ 1e-4`."""
    import inspect

    from trl import GRPOTrainer

    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "advantages = advantages / (std_rewards + 1e-4)" in source
    rewards = torch.tensor(REWARDS)
    wanted = rewards - rewards.mean(dim=1, keepdim=True)
    if scale_rewards == "group":
        wanted = wanted / (rewards.std(dim=1, keepdim=True) + 1e-4)
    trainer = make_trainer(tiny_model_dir, make_recipe(advantage=advantage))
    found, _ = trainer.advantages(make_groups(REWARDS))
    torch.testing.assert_close(found, wanted)

"""Run by torchrun in two processes from test_two_processes.py, and by the test itself in one: the same weights.

torchrun --nproc-per-node 2 tests/grpo/two_processes_options.py ddp|fsdp FOLDER CASE...
"""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator

from tests.grpo.pieces import PAD, bare_trainer, make_groups, make_recipe
from tests.grpo.two_processes import Sharded
from tests.models.routed import make_model

# Of eight groups each process has four. In the second rollout the second process has none with a signal.
ROLLOUTS = (
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.2, 0.0, 0.4], [0.0, 1.0, 1.0],
     [0.5, 0.0, 0.1], [0.0, 0.0, 0.0]],
    [[0.0, 1.0, 1.0], [0.5, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.3, 0.0], *[[1.0, 1.0, 1.0]] * 4],
    [*[[0.0, 0.0, 0.0]] * 8],
)  # fmt: skip
MINIBATCHES = {"steps_per_generation": 2, "num_iterations": 2}
CASES: dict[str, dict] = {
    "plain": {},
    "gspo": {**MINIBATCHES, "loss_type": "gspo", "advantage": "reinforce++"},
    "kl in the loss": {**MINIBATCHES, "beta": 0.1, "kl_estimator": "k2"},
    "kl in the reward": {"beta": 0.1, "kl_in_reward": True, "scale_rewards": "batch"},
    "everything": {
        **MINIBATCHES, "loss_type": "cispo", "epsilon_high": 3.0, "beta": 0.05, "entropy_coef": 0.02,
        "top_entropy_quantile": 0.4, "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "token_truncate", "off_policy_mask_threshold": 0.3,
    },
}  # fmt: skip


def train(case: str, accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """Weights after three rollouts on this process's share of the groups, the reference, and the figures."""
    model = make_model("llama", vocab_size=PAD + 1)
    recipe = make_recipe(**CASES[case], prompts_per_step=4, tokens_per_microbatch=40, learning_rate=1e-2)
    trainer = bare_trainer(recipe, model, accelerator)
    # Adam makes a full step of a gradient that is 0 but for rounding.
    trainer.updater.optimizer.param_groups[0]["eps"] = 1e-2
    found: dict[str, torch.Tensor] = {}
    for turn, rewards in enumerate(ROLLOUTS):
        groups = make_groups(rewards, seed=turn)
        share = len(groups) // accelerator.num_processes
        places = range(accelerator.process_index * share, len(groups))[:share]
        _, minibatches, figures = trainer.compare([groups[place] for place in places], places)
        figures |= trainer.updater.update(minibatches, recipe.grpo.updates_per_rollout)
        found |= {f"{turn} {name}": torch.tensor(value) for name, value in figures.items()}
        if trainer.updater.reference is not None:
            trainer.updater.move_reference(0.5)
    if trainer.updater.reference is not None:
        found |= {f"reference {name}": tensor for name, tensor in trainer.updater.reference.state_dict().items()}
    whole = trainer.accelerator.unwrap_model(trainer.model)
    for name, tensor in whole.named_parameters():
        found[name] = (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()
    return found


def main(sharding: str, folder: str, *cases: str) -> None:
    accelerator = {"ddp": Accelerator, "fsdp": Sharded}[sharding](cpu=True)
    for case in cases:
        tensors = train(case, accelerator)
        for name, tensor in tensors.items():
            both = accelerator.gather(tensor[None])
            assert torch.equal(both[0], both[1]), (case, name)
        if accelerator.is_main_process:
            torch.save(tensors, f"{folder}/{case}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])

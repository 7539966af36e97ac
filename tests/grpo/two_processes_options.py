"""Run by torchrun in two processes from test_two_processes.py, and by the test itself in one: the same weights.

torchrun --nproc-per-node 2 tests/grpo/two_processes_options.py FOLDER CASE...
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState

from rlzero.grpo.processes import make_accelerator
from rlzero.grpo.reference import Reference
from rlzero.grpo.sharding import live_tensors
from rlzero.grpo.trainer import GRPOTrainer
from rlzero.models.adapter import add_adapters
from rlzero.models.sharded import whole
from rlzero.rollout.checkpoint_weights import CheckpointWeights
from tests.grpo.pieces import PAD, bare_trainer, make_groups, make_recipe
from tests.models.routed import make_model

# Of eight groups each process has four. In the second rollout the second process has none with a signal, in the third
# nobody has, in the fourth the first process has none.
NOTHING = [1.0, 1.0, 1.0]
ROLLOUTS = (
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.0, 1.0], NOTHING, [0.2, 0.0, 0.4], [0.0, 1.0, 1.0], [0.5, 0.0, 0.1],
     NOTHING],
    [[0.0, 1.0, 1.0], [0.5, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.3, 0.0], *[NOTHING] * 4],
    [*[NOTHING] * 8],
    [*[NOTHING] * 5, [0.0, 1.0, 0.3], NOTHING, [1.0, 0.0, 0.0]],
    [[0.0, 0.0, 1.0], *[NOTHING] * 3, [1.0, 0.7, 0.0], [0.0, 1.0, 0.0], [0.1, 0.0, 0.3], [1.0, 0.0, 0.0]],
)  # fmt: skip
# A gradient that is not finite on the second process alone; the last rollout again is an ordinary one.
OVERFLOW = (ROLLOUTS[0], [*ROLLOUTS[0][:6], [3e38, -3e38, 0.0], NOTHING], ROLLOUTS[4])
# The second process has none with a signal; then the first has fewer than the second.
FEW = (ROLLOUTS[1], ROLLOUTS[4])
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
    "not finite": {"advantage": "dr_grpo", "scale_rewards": "none"},
    "adapters": {**MINIBATCHES, "lora_r": 4, "beta": 0.1},
    "grpo": {**MINIBATCHES, "loss_type": "grpo", "advantage": "rloo"},
    "dr_grpo": {**MINIBATCHES, "loss_type": "dr_grpo", "advantage": "max_rl"},
    "sapo": {**MINIBATCHES, "loss_type": "sapo", "advantage": "reinforce++_baseline"},
    "gspo_token": {**MINIBATCHES, "loss_type": "gspo_token", "advantage": "dr_grpo"},
}  # fmt: skip
TURNS = {"not finite": OVERFLOW, **dict.fromkeys(("grpo", "dr_grpo", "sapo", "gspo_token"), FEW)}


def train(case: str, accelerator: Accelerator, folder: Path) -> dict[str, torch.Tensor]:
    """The figures of every rollout on this process's share of the groups, the gradient of every update, and the weights
    in the end, the reference's too."""
    model = make_model("llama", vocab_size=PAD + 1)
    recipe = make_recipe(
        **CASES[case], prompts_per_step=4, tokens_per_microbatch=40, learning_rate=1e-2, output_dir=str(folder)
    )
    if recipe.model.lora_r is not None:
        add_adapters(model, recipe.model.lora_r, recipe.model.lora_alpha)
    trainer = bare_trainer(recipe, model, accelerator)
    # Adam makes a full step of a gradient that is 0 but for rounding.
    trainer.updater.optimizer.param_groups[0]["eps"] = 1e-2
    found: dict[str, torch.Tensor] = {}
    keep_gradients(trainer, found)
    for turn, rewards in enumerate(TURNS.get(case, ROLLOUTS)):
        groups = make_groups(rewards, seed=turn)
        share = len(groups) // accelerator.num_processes
        places = range(accelerator.process_index * share, len(groups))[:share]
        _, minibatches, figures = trainer.compare([groups[place] for place in places], places)
        figures |= trainer.updater.update(minibatches, recipe.grpo.updates_per_rollout)
        found |= {f"{turn} {name}": torch.tensor(value) for name, value in figures.items()}
        if isinstance(trainer.updater.reference, Reference):
            trainer.updater.move_reference(0.5)
    if isinstance(trainer.updater.reference, Reference):
        found |= {f"reference {name}": tensor for name, tensor in trainer.updater.reference.state_dict().items()}
    live = trainer.accelerator.unwrap_model(trainer.model)
    if recipe.model.lora_r is not None:  # what the engine gets
        found |= {f"merged {name}": tensor.detach().clone() for name, tensor in CheckpointWeights(live)}
    tensors = live_tensors(live)
    return found | {name: whole(tensor.detach()).clone() for name, tensor in tensors}


def keep_gradients(trainer: GRPOTrainer, found: dict[str, torch.Tensor]) -> None:
    """What every update that is made hands to the optimizer, whole and before it is clipped."""
    clip = trainer.updater._clipped_norm

    def clipped_norm() -> float:
        number = len({name.partition(" gradient ")[0] for name in found if name.startswith("update ")})
        named = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
        gradients = {f"update {number} gradient {name}": whole(p.grad).clone() for name, p in named if p.requires_grad}
        norm = clip()
        found.update(gradients if math.isfinite(norm) else {})
        return norm

    trainer.updater._clipped_norm = clipped_norm  # type: ignore[method-assign]


def main(folder: str, *cases: str) -> None:
    for case in cases:
        accelerator = make_accelerator(bf16=False)  # an accelerator knows one model
        tensors = train(case, accelerator, Path(folder))
        for name, tensor in tensors.items():
            both = accelerator.gather(tensor[None])
            torch.testing.assert_close(both[0], both[1], rtol=0, atol=0, equal_nan=True, msg=f"{case} {name}")
        if accelerator.is_main_process:
            torch.save(tensors, f"{folder}/{case}.pt")
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

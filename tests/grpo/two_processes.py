"""Run by torchrun in two processes from test_moe.py, and by the test itself in one: the same groups, the same weights.

torchrun --nproc-per-node 2 tests/grpo/two_processes.py FOLDER KIND...
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator, PartialState

from rlzero.grpo.batch import ScoredGroup
from rlzero.grpo.processes import make_accelerator
from rlzero.grpo.sharding import live_tensors
from rlzero.models.routing import router_modules
from rlzero.models.sharded import whole
from tests.grpo.pieces import PAD, bare_trainer, make_groups, make_recipe
from tests.models.routed import TOP_K, make_model

# Of four groups each process has two. In the second step the second process has none with a signal.
STEPS = (
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]],
    [[0.0, 1.0, 1.0], [0.5, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]],
)


def routed(groups: list[ScoredGroup], layers: int, width: int) -> list[ScoredGroup]:
    """The first half of the groups runs experts 0 and 1 only, the second half 2 and 3; nobody the other four."""
    found = []
    for i, group in enumerate(groups):
        first = 0 if i < len(groups) // 2 else TOP_K
        experts = np.arange(first, first + width, dtype=np.int16)
        rollouts = tuple(
            replace(
                r,
                routing=np.broadcast_to(experts, (len(r.prompt_ids) + len(r.completion_ids) - 1, layers, width)).copy(),
            )
            for r in group.group.rollouts
        )
        found.append(replace(group, group=replace(group.group, rollouts=rollouts)))
    return found


def train(kind: str, accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """Weights and buffers after two steps on this process's share of the groups."""
    model = make_model(kind, vocab_size=PAD + 1, _experts_implementation="eager")
    layers = len(router_modules(model))
    biased = "update" if hasattr(router_modules(model)[0], "e_score_correction_bias") else "frozen"
    recipe = make_recipe(
        router_replay=True, router_bias=biased, prompts_per_step=4, tokens_per_microbatch=40, learning_rate=1e-2
    )
    trainer = bare_trainer(recipe, model, accelerator)
    # Adam makes a full step of a gradient that is 0 but for rounding, as that of experts that nobody runs may be.
    trainer.updater.optimizer.param_groups[0]["eps"] = 1e-2
    for step, rewards in enumerate(STEPS):
        groups = routed(make_groups(rewards, seed=step), layers, model.config.num_experts_per_tok)
        share = len(groups) // accelerator.num_processes
        mine = groups[accelerator.process_index * share :][:share]
        ranks = range(accelerator.process_index * share, len(groups))[:share]
        _, minibatches, _ = trainer.compare(mine, ranks)
        stats = trainer.updater.update(minibatches, 1)
        assert stats["grad_norm"] > 0
        # Four of eight experts in equal parts where all groups count, two of them where only the first two do.
        assert stats[f"experts/load_cv/{model.config.num_hidden_layers - 1}"] > (0.9, 1.7)[step]
    tensors = live_tensors(trainer.accelerator.unwrap_model(trainer.model))
    return {name: whole(tensor.detach()).clone() for name, tensor in tensors}


def main(folder: str, *kinds: str) -> None:
    for kind in kinds:
        accelerator = make_accelerator(bf16=False)  # an accelerator knows one model
        tensors = train(kind, accelerator)
        for name, tensor in tensors.items():
            both = accelerator.gather(tensor[None])
            assert torch.equal(both[0], both[1]), (kind, name)
        if accelerator.is_main_process:
            torch.save(tensors, f"{folder}/{kind}.pt")
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

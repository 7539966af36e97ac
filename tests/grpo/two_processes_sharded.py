"""Run by torchrun in two sharded processes from test_processes.py: who holds what.

torchrun --nproc-per-node 2 tests/grpo/two_processes_sharded.py FOLDER
"""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator

from rlzero.grpo.policy import policy_logprobs
from rlzero.grpo.processes import make_accelerator
from rlzero.grpo.sharding import live_tensors
from rlzero.grpo.trainer import GRPOTrainer
from rlzero.models.load import load_model
from rlzero.models.sharded import is_sharded, whole
from tests.grpo.pieces import bare_trainer, make_groups, make_recipe


def everybody_has_what_the_first_one_read(accelerator: Accelerator, trainer: GRPOTrainer, read: dict) -> None:
    """Parameters, buffers that checkpoints have and do not have, and a reference that is read for itself."""
    live = {name: whole(tensor) for name, tensor in live_tensors(accelerator.unwrap_model(trainer.model))}
    kept = trainer.updater.reference.state_dict()
    assert live.keys() == kept.keys() == read.keys()
    for name, tensor in live.items():
        first, second = accelerator.gather(tensor.detach()[None])
        assert torch.equal(first, second), name
        if accelerator.is_main_process:
            assert torch.equal(first, read[name]), name
        assert torch.equal(kept[name], tensor), name


def weights_and_moments_are_halved(trainer: GRPOTrainer) -> None:
    parameters = list(trainer.model.parameters())
    for tensors in (parameters, [trainer.updater.optimizer.state[p]["exp_avg"] for p in parameters]):
        own, all_of_them = (sum(n) for n in zip(*((t.to_local().numel(), t.numel()) for t in tensors), strict=True))
        assert 0.4 < own / all_of_them < 0.6


def logprobs_are_not_rounded_to_the_precision_of_the_layers(trainer: GRPOTrainer, groups: list) -> None:
    (minibatch,) = trainer.compare(groups, range(len(groups)))[1]
    for batch in trainer.updater._batches(minibatch.samples):
        logprobs, _ = policy_logprobs(trainer.model, batch, 1.0)
        assert logprobs.dtype == torch.float32
        assert not torch.equal(logprobs, logprobs.bfloat16().float())


def main(folder: str) -> None:
    accelerator = make_accelerator(bf16=True)
    model = load_model(folder, "float32")
    assert accelerator.is_main_process == any(bool(p.any()) for p in model.parameters()), "read by one of them only"
    read = {name: t.clone() for name, t in (*model.named_parameters(), *model.named_buffers())}
    recipe = make_recipe(beta=0.1, ref_model_name_or_path=folder, prompts_per_step=2, tokens_per_microbatch=40)
    trainer = bare_trainer(recipe, model, accelerator)
    assert accelerator.is_fsdp2
    assert is_sharded(trainer.model)
    everybody_has_what_the_first_one_read(accelerator, trainer, read)
    groups = make_groups([[0.0, 1.0, 0.5]], seed=accelerator.process_index)
    logprobs_are_not_rounded_to_the_precision_of_the_layers(trainer, groups)
    _, minibatches, _ = trainer.compare(groups, [accelerator.process_index])
    assert trainer.updater.update(minibatches, 1)["grad_norm"] > 0
    weights_and_moments_are_halved(trainer)
    print("all promises held")
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])

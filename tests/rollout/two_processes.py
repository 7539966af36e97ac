"""Run by torchrun in two processes from test_two_processes.py: an engine in each, and weights of a sharded model."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import EOS, change_weights, make_model
from torch.distributed.fsdp import fully_shard

from data.problem import Problem
from rlzero.rollout.builtin import BuiltinEngine
from rlzero.rollout.checkpoint_weights import CheckpointWeights
from rlzero.rollout.make import make_engine
from rlzero.rollout.sync_check import check_sync
from rlzero.rollout.types import Sampling


def sharded_weights_are_gathered_under_checkpoint_names():
    model, whole = make_model("mixtral"), dict(CheckpointWeights(make_model("mixtral")))
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    gathered = dict(CheckpointWeights(model))
    assert gathered.keys() == whole.keys()
    assert all(torch.equal(gathered[name], tensor) for name, tensor in whole.items())
    with pytest.raises(ValueError, match="sharded"):
        BuiltinEngine(model, [EOS])
    copied = make_model("mixtral")
    change_weights(copied, seed=1)
    engine = BuiltinEngine(copied, [EOS], owns_model=True)
    engine.sync(model, 1)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in CheckpointWeights(copied))


def each_process_samples_its_own_prompts_from_its_own_engine(kind, path):
    rank = dist.get_rank()
    model = make_model("qwen3_moe")
    engine = make_engine(
        kind,
        model=model,
        model_path=path,
        tokenizer=SimpleNamespace(eos_token_id=EOS, all_special_ids=[EOS]),
        max_model_len=100,
        max_num_seqs=16,
    )
    # Unequal work: nothing in an engine may wait for the other process.
    problems = [Problem(f"{i}", "1") for i in range(3 + 4 * rank)]
    prompts = [[3 + i, 4, 5] for i in range(len(problems))]
    for version in range(1, 3):
        change_weights(model, seed=version)
        engine.sync(model, version)
        groups = engine.generate(problems, prompts, Sampling(n=2, max_tokens=20, first_position=10 * rank))
        sequences = [np.concatenate([r.prompt_ids, r.completion_ids]) for g in groups for r in g.rollouts]
        assert check_sync(engine, model, sequences, 1e-3) < 1e-5
    engine.close()
    # The trainer's process group outlives the engine.
    both = torch.ones(1)
    dist.all_reduce(both)
    assert both.item() == 2


if __name__ == "__main__":
    dist.init_process_group("gloo")
    if sys.argv[1] == "sharded":
        sharded_weights_are_gathered_under_checkpoint_names()
    else:
        each_process_samples_its_own_prompts_from_its_own_engine(*sys.argv[1:])
    dist.destroy_process_group()

"""Weights handed to vLLM, architecture by architecture: one start-up each, one after the other in one process."""

import os
import random
from contextlib import closing

import numpy as np
import pytest
import torch

from rlzero.models.logprobs import token_logprobs
from rlzero.rollout.make import make_engine
from rlzero.rollout.types import Sampling

pytest.importorskip("vllm", reason="vLLM is an extra, and is not installed here")


@pytest.mark.parametrize("kind", ["qwen3_moe", "llama_tied", "mixtral", "deepseek_v3"])
def test_three_syncs_in_a_row_each_give_the_new_weights(kind, tiny, tokenizer, problems, prompts, tmp_path):
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    setter, preload = torch.set_num_threads, os.environ.get("LD_PRELOAD")
    model = tiny.make_model(kind)
    path = tiny.save_model(model, tmp_path)
    engine = make_engine("vllm", model=model, model_path=path, tokenizer=tokenizer, max_model_len=100, max_num_seqs=64)
    # What the start changes for the whole process is undone.
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    assert (torch.set_num_threads, os.environ.get("LD_PRELOAD")) == (setter, preload)

    with closing(engine):
        stale: tuple[list[np.ndarray], np.ndarray] | None = None
        for version in range(1, 4):
            tiny.change_weights(model, seed=version)
            engine.sync(model, version)
            rollouts = [
                rollout
                for group in engine.generate(problems, prompts, Sampling(n=2, max_tokens=30, seed=version))
                for rollout in group.rollouts
            ]
            sequences = [np.concatenate([r.prompt_ids, r.completion_ids]) for r in rollouts]
            for values, r in zip(token_logprobs(model, sequences), rollouts, strict=True):
                np.testing.assert_allclose(r.sampler_logprobs, values[len(r.prompt_ids) - 1 :], atol=1e-5)
            if stale is not None:
                assert np.abs(np.concatenate(engine.score(stale[0])) - stale[1]).mean() > 1e-2
            stale = sequences, np.concatenate(engine.score(sequences))

    with pytest.raises(RuntimeError, match="closed"):
        engine.score([[3, 4]])

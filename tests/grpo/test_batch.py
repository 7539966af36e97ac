"""Packing loses no token, invents none, and fills without weight."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlzero.grpo.batch import Batch, TrainingSample, filler, pack
from rlzero.grpo.policy import policy_logprobs
from tests.grpo.pieces import PAD, make_recipe, make_rollout, make_trainer

shapes = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 40)), min_size=1, max_size=20)


def make_samples(sizes: list[tuple[int, int]]) -> list[TrainingSample]:
    rng = np.random.default_rng(0)
    return [
        TrainingSample(make_rollout(rng, prompt, completion), float(i), 1.0 / (i + 1))
        for i, (prompt, completion) in enumerate(sizes)
    ]


def rows_of(batch: Batch) -> list[tuple]:
    """(prompt, completion, log-probabilities, advantage, weight) of each row, read back from the tensors."""
    rows = []
    for i in range(len(batch.input_ids)):
        at = batch.completion_mask[i].nonzero()[:, 0]
        start, stop = int(at[0]), int(at[-1]) + 1
        assert len(at) == stop - start, "the completion is one run"
        assert (batch.input_ids[i, stop + 1 :] == PAD).all()
        assert (batch.sampler_logprobs[i][~batch.completion_mask[i]] == 0).all()
        rows.append(
            (
                tuple(batch.input_ids[i, : start + 1].tolist()),
                tuple(batch.input_ids[i, start + 1 : stop + 1].tolist()),
                tuple(batch.sampler_logprobs[i, start:stop].tolist()),
                batch.advantages[i].item(),
                batch.weights[i].item(),
            )
        )
    return rows


@given(sizes=shapes, budget=st.integers(1, 500))
def test_every_sample_is_packed_once_and_whole(sizes, budget):
    samples = make_samples(sizes)
    packed = [row for batch in pack(samples, budget, PAD) for row in rows_of(batch)]
    wanted = [
        (
            tuple(s.rollout.prompt_ids.tolist()),
            tuple(s.rollout.completion_ids.tolist()),
            tuple(s.rollout.sampler_logprobs.tolist()),
            s.advantage,
            float(np.float32(s.weight)),
        )
        for s in samples
    ]
    assert Counter(packed) == Counter(wanted)


@given(sizes=shapes, budget=st.integers(1, 500))
def test_microbatch_stays_within_the_budget_unless_one_row_alone_is_longer(sizes, budget):
    for batch in pack(make_samples(sizes), budget, PAD):
        assert batch.input_ids.numel() <= budget or len(batch.input_ids) == 1
        # `first` is the first prediction that is about a completion, in any row.
        assert batch.first == int(batch.completion_mask.any(dim=0).nonzero()[0])


def test_no_samples_make_no_microbatch():
    assert pack([], 100, PAD) == []


def test_filler_runs_through_the_model_and_has_no_gradient(tiny_model_dir):
    trainer = make_trainer(tiny_model_dir, make_recipe())
    (like,) = pack(make_samples([(4, 5)]), 100, PAD)
    for batch in (filler(like, PAD), filler(None, PAD)):
        sums = trainer._backward(batch, None)
        assert all(float(value) == 0 for value in sums)
        found = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        assert found
        assert all((grad == 0).all() for grad in found)


def test_filler_is_as_long_as_its_model(tiny_model_dir):
    (like,) = pack(make_samples([(4, 5), (3, 3)]), 100, PAD)
    empty = filler(like, PAD)
    assert empty.input_ids.shape == (1, like.input_ids.shape[1])
    assert not empty.completion_mask.any()
    model = make_trainer(tiny_model_dir, make_recipe()).model
    assert policy_logprobs(model, empty, 1.0)[0].shape == empty.completion_mask.shape


@given(sizes=shapes)
def test_moving_a_batch_keeps_it(sizes):
    for batch in pack(make_samples(sizes), 200, PAD):
        moved = batch.to(torch.device("cpu"))
        assert rows_of(moved) == rows_of(batch)
        assert moved.first == batch.first

"""Packing loses no token, invents none, and fills without weight."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rlzero.grpo.batch import Batch, TrainingSample, filler, pack
from rlzero.grpo.policy import policy_logprobs
from tests.grpo.pieces import PAD, backward, make_recipe, make_rollout, make_trainer

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


@given(sizes=shapes, budget=st.integers(1, 500), packed=st.booleans())
def test_every_sample_is_packed_once_and_whole(sizes, budget, packed):
    samples = make_samples(sizes)
    found = [row for batch in pack(samples, budget, PAD, packed=packed) for row in rows_of(batch)]
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
    assert Counter(found) == Counter(wanted)


@given(sizes=shapes, budget=st.integers(1, 500))
def test_padded_microbatch_stays_within_the_budget_unless_one_row_alone_is_longer(sizes, budget):
    for batch in pack(make_samples(sizes), budget, PAD, packed=False):
        assert batch.input_ids.numel() <= budget or len(batch.input_ids) == 1
        # `first` is the first prediction that is about a completion, in any row.
        assert batch.first == int(batch.completion_mask.any(dim=0).nonzero()[0])


@given(sizes=shapes, budget=st.integers(1, 500), shared_prefix=st.booleans())
def test_model_runs_every_token_but_the_last_of_each_row_in_its_place(sizes, budget, shared_prefix):
    samples = make_samples(sizes)
    # Prompts of one token may be the same by chance, and belong to one group then.
    assume(len({s.rollout.prompt_ids.tobytes() for s in samples}) == len(samples))
    samples += [replace(s, advantage=-s.advantage) for s in samples]  # each prompt twice
    for batch in pack(samples, budget, PAD, shared_prefix=shared_prefix):
        packed, length = batch.packed, batch.input_ids.shape[1]
        rows, places = packed.tokens // length, packed.tokens % length
        assert torch.equal(packed.positions, places)
        assert torch.equal(batch.as_run(batch.input_ids), batch.input_ids[rows, places])
        # Counted with its readers, every token that something is predicted from is there once for each row.
        starts = (batch.completion_mask.int().argmax(1) + 1).tolist()
        prompts = [ids[:start] for ids, start in zip(batch.input_ids.tolist(), starts, strict=True)]
        counts = torch.zeros_like(batch.read, dtype=torch.int64)
        for row, place, readers in zip(rows.tolist(), places.tolist(), packed.readers.tolist(), strict=True):
            readers_of = [r for r, prompt in enumerate(prompts) if prompt == prompts[row]] if readers > 1 else [row]
            assert readers == 1 or place < starts[row]
            assert len(readers_of) == readers
            counts[readers_of, place] += 1
        assert torch.equal(counts, batch.read.long())
        # Predictions are the completions' tokens, each made at the token before it.
        assert torch.equal(batch.predictions, batch.completion_mask.flatten().nonzero()[:, 0])
        made_at = packed.positions[packed.at]
        assert torch.equal(made_at, batch.predictions % (length - 1))


@pytest.mark.parametrize("packed", [False, True])
def test_no_samples_make_no_microbatch(packed):
    assert pack([], 100, PAD, packed=packed) == []


def test_filler_runs_through_the_model_and_has_no_gradient(tiny_model_dir):
    trainer = make_trainer(tiny_model_dir, make_recipe())
    assert trainer.updater.packed
    (like,) = pack(make_samples([(4, 5)]), 100, PAD)
    for batch in (filler(like, PAD), filler(None, PAD)):
        figures = backward(trainer, batch)
        assert all(float(value) == 0 for value in figures.values())
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
        assert moved.packed.layout.buckets == batch.packed.layout.buckets
        for before, after in ((batch.packed, moved.packed), (batch.packed.layout, moved.packed.layout)):
            for name, value in vars(before).items():
                assert not isinstance(value, torch.Tensor) or torch.equal(getattr(after, name), value), name

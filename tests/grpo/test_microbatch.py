"""Samples are cut by the tokens that are really run: none lost, none over budget, prompts together where it pays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlzero.grpo.batch import TrainingSample, pack
from rlzero.grpo.microbatch import cut
from tests.grpo.pieces import PAD, make_rollout

groups = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 40), min_size=1, max_size=6)), min_size=1, max_size=8
)
sharing = st.sampled_from([True, False, None])


def make_samples(shapes: list[tuple[int, list[int]]]) -> list[TrainingSample]:
    rng = np.random.default_rng(0)
    samples = []
    for prompt, completions in shapes:
        prompt_ids = rng.integers(0, 256, prompt)
        for completion in completions:
            rollout = replace(make_rollout(rng, prompt, completion), prompt_ids=prompt_ids)
            samples.append(TrainingSample(rollout, float(len(samples)), 1.0))
    return samples


@given(shapes=groups, budget=st.integers(1, 400), shared_prefix=sharing)
def test_every_sample_is_in_one_piece_with_others_of_its_prompt_only(shapes, budget, shared_prefix):
    samples = make_samples(shapes)
    pieces = [piece for pieces in cut(samples, budget, shared_prefix) for piece in pieces]
    assert Counter(s.advantage for piece in pieces for s in piece.samples) == Counter(s.advantage for s in samples)
    for piece in pieces:
        assert len({s.rollout.prompt_ids.tobytes() for s in piece.samples}) == 1
        if shared_prefix is False:
            assert len(piece.samples) == 1


@given(shapes=groups, budget=st.integers(1, 400), shared_prefix=sharing)
def test_no_microbatch_exceeds_the_budget_unless_one_sample_alone_does(shapes, budget, shared_prefix):
    for batch in pack(make_samples(shapes), budget, PAD, shared_prefix=shared_prefix):
        assert batch.packed.layout.tokens == len(batch.packed.tokens)
        assert len(batch.packed.tokens) <= budget or len(batch.input_ids) == 1
        # Each row has as many readers as it has tokens, but for its last.
        lengths = batch.completion_mask.shape[1] - batch.completion_mask.flip(1).int().argmax(1)
        assert batch.packed.readers.sum() == lengths.sum()


@given(shapes=groups, budget=st.integers(80, 400))
def test_microbatches_are_about_equally_full(shapes, budget):
    """The emptiest of them takes the next piece: two differ by no more than the largest piece."""
    microbatches = cut(make_samples(shapes), budget, False)
    loads = [sum(piece.tokens for piece in pieces) for pieces in microbatches]
    largest = max(piece.tokens for pieces in microbatches for piece in pieces)
    least = -(-sum(loads) // budget)
    if len(loads) == least:
        assert max(loads) - min(loads) <= largest


def test_a_shared_prompt_is_counted_once_and_a_group_that_is_too_long_is_cut():
    samples = make_samples([(30, [11] * 8)])
    ((piece,),) = cut(samples, 10_000, True)
    assert piece.tokens == 30 + 8 * 10
    pieces = [piece for pieces in cut(samples, 70, True) for piece in pieces]
    assert [piece.tokens for piece in pieces] == [70, 70]
    # A prompt longer than a microbatch: nothing to share it with.
    assert [len(p.samples) for pieces in cut(samples, 20, True) for p in pieces] == [1] * 8


@pytest.mark.parametrize(
    ("prompt", "completions", "shares"),
    [
        (60, [60] * 16, True),
        (3, [100] * 16, False),
        (60, [60], False),
        (60, [60] * 2, True),
        # Its mask would be larger than what is saved.
        (3000, [8000] * 4, False),
    ],
)
def test_prompt_is_shared_where_that_saves_a_tenth_of_the_tokens_or_more(prompt, completions, shares):
    pieces = [piece for pieces in cut(make_samples([(prompt, completions)]), 100_000, None) for piece in pieces]
    assert (max(len(piece.samples) for piece in pieces) > 1) == shares


def test_problems_that_came_twice_share_their_prompt():
    samples = make_samples([(20, [5, 6])])
    again = [replace(s, advantage=s.advantage + 2) for s in samples]
    ((piece,),) = cut([*samples, *again], 1000, True)
    assert piece.tokens == 20 + 2 * (4 + 5)


@pytest.mark.parametrize(("prompt", "completion"), [(0, 3), (3, 0)])
@pytest.mark.parametrize("packed", [False, True])
def test_empty_prompt_or_completion_is_refused(prompt, completion, packed):
    sample = TrainingSample(make_rollout(np.random.default_rng(0), prompt, completion), 0.0, 1.0)
    with pytest.raises(ValueError, match=f"one token of prompt and of completion, got {prompt} and {completion}."):
        pack([sample], 100, PAD, packed=packed)

"""A layout gathers every token once, puts it back, and lets it see what its span says and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlzero.models.packed_layout import PackedLayout, Span, make_layout

# (length of a prefix, 0 for none; lengths of the spans that have it)
families = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(1, 30), min_size=1, max_size=6)), min_size=1, max_size=5
)


def make_spans(shapes: list[tuple[int, list[int]]]) -> list[Span]:
    spans: list[Span] = []
    end = 0
    for prefix, lengths in shapes:
        start = end
        if prefix:
            spans.append(Span(start, start + prefix))
            end += prefix
        for length in lengths:
            spans.append(Span(end, end + length, *((start, start + prefix) if prefix else (0, 0))))
            end += length
    return spans


def seen_by(layout: PackedLayout, window: int | None) -> list[list[int]]:
    """For each token the tokens that it attends to, in their order, read off the buckets and masks."""
    places: list[list[int]] = []
    keys_at = 0
    for bucket in layout.buckets:
        mask = layout.mask(bucket, window)
        if mask is None:
            mask = torch.ones(bucket.queries, bucket.keys, dtype=torch.bool).tril()
        assert mask.shape == (bucket.queries, bucket.keys)
        for _ in range(bucket.rows):
            keys = layout.keys[keys_at : keys_at + bucket.keys]
            places += [keys[row].tolist() for row in mask]
            keys_at += bucket.keys
    return [places[place] for place in layout.back.tolist()]


@given(shapes=families, window=st.one_of(st.none(), st.integers(1, 12)))
def test_every_token_sees_its_prefix_and_its_own_span_up_to_itself_within_the_window(shapes, window):
    spans = make_spans(shapes)
    layout = make_layout(spans)
    assert layout.tokens == spans[-1].stop
    assert torch.equal(layout.queries[layout.back], torch.arange(layout.tokens))
    found = seen_by(layout, window)
    for span in spans:
        context = [*range(span.prefix_start, span.prefix_stop), *range(span.start, span.stop)]
        for token in range(span.start, span.stop):
            seen = context[: span.prefix + token - span.start + 1]
            assert found[token] == (seen if window is None else seen[-window:])


@given(shapes=families)
def test_calls_cost_no_more_than_one_for_all_or_one_for_each(shapes):
    """In pairs of query and key, a call counted as it is in the layout; without padding at the best."""
    spans = make_spans(shapes)
    call = 2048 * torch.get_num_threads()
    layout = make_layout(spans)
    cost = sum(b.rows * b.queries * b.keys + call for b in layout.buckets)
    prefixes = {s.prefix for s in spans}
    together = 0
    for prefix in prefixes:
        alike = [s for s in spans if s.prefix == prefix]
        longest = max(s.length for s in alike)
        together += len(alike) * longest * (longest + prefix) + call
    alone = sum(s.length * (s.length + s.prefix) + call for s in spans)
    assert sum(s.length * (s.length + s.prefix) for s in spans) + call * len(prefixes) <= cost <= min(together, alone)


def test_rows_of_like_length_share_a_call_and_a_long_one_does_not_pad_them():
    spans = make_spans([(0, [20, 300, 21, 19, 22])])
    assert [(b.rows, b.queries) for b in make_layout(spans).buckets] == [(1, 300), (4, 22)]


def test_answers_to_prompts_of_one_length_share_a_call():
    spans = make_spans([(7, [20, 19]), (7, [21, 22]), (9, [20])])
    assert {(bucket.rows, bucket.prefix) for bucket in make_layout(spans).buckets} == {(3, 0), (4, 7), (1, 9)}


@pytest.mark.parametrize("spans", [[], [Span(1, 3)], [Span(0, 2), Span(3, 4)], [Span(0, 2), Span(2, 2)]])
def test_spans_with_gaps_or_nothing_in_them_are_refused(spans):
    with pytest.raises(ValueError, match="spans must follow one another from 0 on, and none be empty"):
        make_layout(spans)

"""Sorting what routers chose by request and position, with a runner as vLLM's would be in the middle of a step."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from rlzero.rollout.vllm_routing import RoutingRecorder

LAYERS, CHOSEN = 2, 3


class _FusedRouter:
    """What the recorder knows of the router of vLLM's fused experts."""

    def set_capture_fn(self, capture):
        self.capture = capture


class _Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = _FusedRouter()


class _Model(nn.Module):
    """Chooses experts that tell which token was routed: 100 times the layer and the token's id."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(_Experts() for _ in range(LAYERS))

    def forward(self, input_ids, positions):
        for number, layer in enumerate(self.layers):
            layer.router.capture((100 * number + input_ids)[:, None].expand(-1, CHOSEN))


class _Runner:
    def __init__(self):
        self.model = _Model()

    def step(self, spans, padding=0):
        """spans: (request id, first position, token ids) in the order of the batch."""
        lengths = [len(tokens) for _, _, tokens in spans]
        self.input_batch = SimpleNamespace(num_reqs=len(spans), req_ids=[request for request, _, _ in spans])
        starts = np.concatenate([[0], np.cumsum(lengths), [99]]).astype(np.int32)
        self.query_start_loc = SimpleNamespace(np=starts)
        ids = [token for _, _, tokens in spans for token in tokens] + [77] * padding
        positions = [first + i for _, first, tokens in spans for i in range(len(tokens))] + [0] * padding
        self.model(input_ids=torch.tensor(ids), positions=torch.tensor(positions))


@pytest.fixture
def runner():
    return _Runner()


@pytest.fixture
def recorder(runner):
    return RoutingRecorder(runner)


def test_tokens_find_their_request_and_position_whatever_the_order_of_the_batch(runner, recorder):
    with recorder.recording():
        runner.step([("7-ab", 0, [1, 2, 3]), ("12-c_d", 0, [4])], padding=2)
        runner.step([("12-c_d", 1, [5]), ("7-ab", 3, [6])])
        runner.step([("12-c_d", 2, [8])])
    long, short = recorder.take([("12", 0), ("7", 0)], [3, 4])

    assert long.dtype == np.int16
    assert long.shape == (3, LAYERS, CHOSEN)
    assert long[:, :, 0].tolist() == [[4, 104], [5, 105], [8, 108]]
    assert short[:, 1, 2].tolist() == [101, 102, 103, 106]


def test_samples_of_one_request_are_told_apart(runner, recorder):
    with recorder.recording():
        runner.step([("0_3-ab", 0, [1]), ("11_3-ab", 0, [2]), ("1_3-ab", 0, [3]), ("4-cd", 0, [4])])
    taken = recorder.take([("3", 0), ("3", 1), ("3", 11), ("4", 0)], [1] * 4)

    assert [int(routing[0, 0, 0]) for routing in taken] == [1, 3, 2, 4]


def test_of_a_position_computed_twice_the_last_choice_counts(runner, recorder):
    with recorder.recording():
        runner.step([("0-x", 0, [1, 2])])
        runner.step([("0-x", 0, [3, 4, 5])])
    (routing,) = recorder.take([("0", 0)], [3])

    assert routing[:, 0, 0].tolist() == [3, 4, 5]


def test_what_runs_outside_a_recording_or_past_the_last_token_is_left_out(runner, recorder):
    runner.step([("0-x", 0, [9, 9])])
    with recorder.recording():
        runner.step([("1-x", 0, [1, 2])])
        runner.step([("1-x", 2, [3])])
    runner.step([("1-x", 0, [9, 9])])
    (routing,) = recorder.take([("1", 0)], [2])

    assert routing[:, 0, 0].tolist() == [1, 2]


def test_a_position_that_was_not_seen_is_an_error(runner, recorder):
    with recorder.recording():
        runner.step([("1-x", 3, [1, 2])])
    with pytest.raises(RuntimeError, match=r"all 5 positions.*3 are missing.*prefix cache"):
        recorder.take([("1", 0)], [5])


def test_a_model_without_routers_is_refused():
    with pytest.raises(ValueError, match="Linear has none"):
        RoutingRecorder(SimpleNamespace(model=nn.Linear(2, 2)))

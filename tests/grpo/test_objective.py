"""Objectives against the papers' equations with loops, their gradients, and both layouts of a batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzero.grpo.loss import TOKEN_WEIGHTS, StepCounts
from rlzero.grpo.objective import OBJECTIVES, Bounds
from rlzero.grpo.sequences import Rows, Segments

Answer = tuple[float, list[tuple[float, float]]]
answers = st.lists(
    st.tuples(
        st.floats(-2, 2).map(lambda advantage: round(advantage, 6)),
        st.lists(st.tuples(st.floats(-3, -0.01), st.floats(-3, -0.01)), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=4,
)
BOUNDS = {
    "clip": Bounds(0.1, 0.3),
    "dual_clip": Bounds(0.1, 0.3, delta=1.7),
    "gspo": Bounds(0.05, 0.08),
    "gspo_token": Bounds(0.05, 0.08),
    "cispo": Bounds(epsilon_high=1.5),
    "sapo": Bounds(sapo_temperature_pos=1.0, sapo_temperature_neg=1.05),
}
LOSS_TYPES = {"clip": "dapo", "dual_clip": "dapo"}


def objective(case: str):
    return OBJECTIVES[LOSS_TYPES.get(case, case)]


def padded(step: list[Answer]) -> tuple[torch.Tensor, torch.Tensor, Rows, torch.Tensor]:
    """policy, old, sequences, advantages, with rubbish outside the mask."""
    longest = 1 + max(len(tokens) for _, tokens in step)
    policy = torch.full((len(step), longest), 77.0, dtype=torch.float64)
    old = torch.full_like(policy, math.nan)
    mask = torch.zeros_like(policy, dtype=torch.bool)
    for i, (_, tokens) in enumerate(step):
        mask[i, 1 : len(tokens) + 1] = True
        policy[i, 1 : len(tokens) + 1] = torch.tensor([p for p, _ in tokens], dtype=torch.float64)
        old[i, 1 : len(tokens) + 1] = torch.tensor([o for _, o in tokens], dtype=torch.float64)
    return policy.requires_grad_(), old, Rows(mask), torch.tensor([a for a, _ in step], dtype=torch.float64)[:, None]


def literal(case: str, advantage: float, tokens: list[tuple[float, float]], bounds: Bounds) -> list[float]:
    """The loss of every token of an answer."""
    sequence = math.exp(math.fsum(p - o for p, o in tokens) / len(tokens))
    losses = []
    for policy, old in tokens:
        ratio = sequence if case.startswith("gspo") else math.exp(policy - old)
        if case == "cispo":
            losses.append(-min(ratio, bounds.epsilon_high) * advantage * policy)
        elif case == "sapo":
            tau = bounds.sapo_temperature_pos if advantage > 0 else bounds.sapo_temperature_neg
            losses.append(-4 / tau / (1 + math.exp(-tau * (ratio - 1))) * advantage)
        else:
            kept = min(max(ratio, 1 - bounds.epsilon), 1 + bounds.epsilon_high)
            gain = min(ratio * advantage, kept * advantage)
            if bounds.delta is not None and advantage < 0:
                gain = max(gain, bounds.delta * advantage)
            losses.append(-gain)
    return losses


@pytest.mark.parametrize("case", sorted(BOUNDS))
@settings(deadline=None)
@given(step=answers)
def test_loss_of_each_token_is_the_papers(case, step):
    policy, old, sequences, advantages = padded(step)
    loss, _ = objective(case)(policy, old, sequences, advantages, BOUNDS[case])
    assert loss.dtype == torch.float64
    assert loss.shape == sequences.mask.shape
    assert not loss[~sequences.mask].any()
    for i, (advantage, tokens) in enumerate(step):
        wanted = literal(case, advantage, tokens, BOUNDS[case])
        assert loss[i][sequences.mask[i]].tolist() == pytest.approx(wanted, rel=1e-12, abs=1e-12)


def test_every_loss_type_has_an_objective_and_token_weights():
    assert set(OBJECTIVES) == set(TOKEN_WEIGHTS)
    assert {LOSS_TYPES.get(case, case) for case in BOUNDS} | {"grpo", "bnpo", "dr_grpo"} == set(OBJECTIVES)


STEP: list[Answer] = [
    (1.3, [(-0.5, -0.9), (-1.0, -0.97), (-0.2, -0.21), (-2.0, -1.4)]),
    (-0.7, [(-0.5, -0.52), (-0.3, -1.0), (-2.0, -1.2)]),
    (-1.1, [(-1.5, -1.49)]),
]


def gradient(case: str, step: list[Answer] = STEP) -> torch.Tensor:
    policy, old, sequences, advantages = padded(step)
    objective(case)(policy, old, sequences, advantages, BOUNDS[case])[0].sum().backward()
    return policy.grad


@pytest.mark.parametrize("case", ["clip", "dual_clip", "gspo", "sapo"])
def test_gradient_is_that_of_finite_differences(case):
    policy, old, sequences, advantages = padded(STEP)
    inside = policy.detach()[sequences.mask].requires_grad_()

    def total(values: torch.Tensor) -> torch.Tensor:
        filled = policy.detach().masked_scatter(sequences.mask, values)
        return objective(case)(filled, old, sequences, advantages, BOUNDS[case])[0].sum()

    assert torch.autograd.gradcheck(total, inside)
    assert (gradient(case) != 0).any()


def test_cispo_gives_every_token_the_gradient_of_its_capped_weight():
    found = gradient("cispo")
    for i, (advantage, tokens) in enumerate(STEP):
        wanted = [-min(math.exp(p - o), 1.5) * advantage for p, o in tokens]
        assert found[i, 1 : len(tokens) + 1].tolist() == pytest.approx(wanted, rel=1e-12)


def test_gspo_token_has_gspos_value_and_gradient_where_an_answer_has_one_advantage():
    losses = [objective(case)(*padded(STEP), BOUNDS[case])[0] for case in ("gspo", "gspo_token")]
    torch.testing.assert_close(*losses, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient("gspo"), gradient("gspo_token"), rtol=1e-12, atol=1e-15)


def test_gspo_token_takes_an_advantage_per_token():
    policy, old, sequences, advantages = padded(STEP)
    own = advantages * torch.linspace(0.5, 1.5, policy.shape[1], dtype=torch.float64)
    objective("gspo_token")(policy, old, sequences, own, Bounds(9, 9))[0].sum().backward()
    ratio = math.exp(math.fsum(p - o for p, o in STEP[0][1]) / 4)
    assert policy.grad[0, 1:5].tolist() == pytest.approx((-ratio * own[0, 1:5]).tolist(), rel=1e-12)


@pytest.mark.parametrize("case", sorted(BOUNDS))
def test_on_policy_every_objective_has_the_gradient_of_reinforce(case):
    step = [(advantage, [(p, p) for p, _ in tokens]) for advantage, tokens in STEP]
    _, _, sequences, advantages = padded(step)
    torch.testing.assert_close(gradient(case, step), -advantages * sequences.mask, rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", sorted(BOUNDS))
def test_packed_tokens_have_the_loss_and_gradient_of_padded_ones(case):
    policy, old, rows, advantages = padded(STEP)
    loss, counts = objective(case)(policy, old, rows, advantages, BOUNDS[case])
    loss.sum().backward()
    # One prompt token before each answer, and the answers in another order than they are numbered.
    order = [2, 0, 1]
    index = torch.cat([torch.full((policy.shape[1],), i) for i in order])
    flat = [torch.cat([t[i] for i in order]) for t in (policy.detach(), old, rows.mask)]
    packed = flat[0].requires_grad_()
    segments = Segments(flat[2], index, len(STEP))
    found, packed_counts = objective(case)(packed, flat[1], segments, segments.spread(advantages[:, 0]), BOUNDS[case])
    found.sum().backward()
    torch.testing.assert_close(found, torch.cat([loss[i] for i in order]), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(packed.grad, torch.cat([policy.grad[i] for i in order]), rtol=1e-12, atol=1e-15)
    assert {k: int(v) for k, v in packed_counts.items()} == {k: int(v) for k, v in counts.items()}


@pytest.mark.parametrize("case", ["clip", "dual_clip", "gspo"])
@settings(deadline=None)
@given(step=answers)
def test_counted_as_clipped_is_what_has_no_gradient(case, step):
    policy, old, sequences, advantages = padded(step)
    loss, counts = objective(case)(policy, old, sequences, advantages, BOUNDS[case])
    loss.sum().backward()
    stopped = sequences.mask & (policy.grad == 0) & (advantages != 0)
    assert int(counts["clip_low"] + counts["clip_high"]) == int(stopped.sum())


@pytest.mark.parametrize("loss_type", sorted(OBJECTIVES))
@settings(max_examples=40, deadline=None)
@given(step=answers, data=st.data())
def test_loss_and_gradient_do_not_depend_on_how_the_step_is_cut(loss_type, step, data):
    cut = data.draw(st.integers(0, len(step)))
    counts = StepCounts(len(step), sum(len(tokens) for _, tokens in step), 7)
    found = []
    for parts in ([step], [step[:cut], step[cut:]]):
        losses, gradients = [], []
        for part in filter(None, parts):
            policy, old, sequences, advantages = padded(part)
            lengths = sequences.mask.sum(1).to(torch.float64)
            loss, _ = OBJECTIVES[loss_type](policy, old, sequences, advantages, Bounds(epsilon_high=1.1))
            total = (loss * TOKEN_WEIGHTS[loss_type](lengths, counts)[:, None]).sum()
            total.backward()
            losses.append(total.item())
            gradients += [policy.grad[i][row].tolist() for i, row in enumerate(sequences.mask)]
        found.append((math.fsum(losses), gradients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9, abs=1e-12)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12)


def test_ratio_that_overflows_outside_the_mask_harms_nothing():
    policy = torch.tensor([[-1.0, 500.0]], requires_grad=True)
    old, mask = torch.tensor([[-1.0, -500.0]]), torch.tensor([[True, False]])
    for case in BOUNDS:
        policy.grad = None
        loss, _ = objective(case)(policy, old, Rows(mask), torch.ones(1, 1), BOUNDS[case])
        loss.sum().backward()
        assert loss.isfinite().all(), case
        assert policy.grad.tolist() == [[-1.0, 0.0]], case

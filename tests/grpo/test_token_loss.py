"""The parts of a token's loss put together."""

from __future__ import annotations

import math

import torch

from rlzero.grpo.objective import OBJECTIVES, Bounds
from rlzero.grpo.sequences import Rows, Segments
from rlzero.grpo.token_loss import Logprobs, LossOptions, token_loss

EVERYTHING = LossOptions(
    "gspo", Bounds(0.1, 0.1), beta=0.3, use_bias_correction_kl=True, importance_sampling_mode="sequence_mask",
    off_policy_mask_threshold=0.02,
)  # fmt: skip


def make(rows: int = 5, tokens: int = 6, seed: int = 4) -> tuple[Logprobs, Rows, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: -3 * torch.rand(rows, tokens, dtype=torch.float64, generator=generator)  # noqa: E731
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1), generator=generator)
    policy = draw()
    near = [policy + 0.3 * (draw() + 1.5) for _ in range(3)]
    advantages = torch.randn(rows, 1, dtype=torch.float64, generator=generator)
    return Logprobs(policy.requires_grad_(), *near), Rows(mask), advantages, -draw()


def test_defaults_are_the_bare_objective():
    logprobs, rows, advantages, entropies = make()
    found, stats = token_loss(LossOptions(), logprobs, rows, advantages, entropies, -math.inf)
    wanted, counts = OBJECTIVES["dapo"](logprobs.policy, logprobs.old, rows, advantages, Bounds())
    assert torch.equal(found, wanted)
    assert stats == counts


def test_every_part_acts_and_kl_reaches_tokens_whose_policy_loss_is_masked():
    logprobs, rows, advantages, entropies = make()
    plain, _ = token_loss(LossOptions("gspo", Bounds(0.1, 0.1)), logprobs, rows, advantages, entropies, -math.inf)
    _, stats = token_loss(EVERYTHING, logprobs, rows, advantages, entropies, -math.inf)
    assert set(stats) == {"clip_low", "clip_high", "off_policy_masked", "corrected", "ratio_max", "kl"}
    assert int(stats["off_policy_masked"]) > 0
    masked, _ = token_loss(EVERYTHING, logprobs, rows, advantages, entropies, math.inf)
    assert masked[rows.mask].min() > 0, "with every policy loss masked, k3 remains"
    assert not torch.equal(plain, masked)


def test_packed_tokens_have_the_loss_and_gradient_of_padded_ones():
    logprobs, rows, advantages, entropies = make()
    loss, stats = token_loss(EVERYTHING, logprobs, rows, advantages, entropies, 1.0)
    loss.sum().backward()
    flat = Logprobs(*(t.detach().flatten() for t in (logprobs.policy, logprobs.old, logprobs.sampler, logprobs.ref)))
    flat.policy.requires_grad_()
    segments = Segments(rows.mask.flatten(), torch.arange(5).repeat_interleave(6), 5)
    packed, packed_stats = token_loss(
        EVERYTHING, flat, segments, segments.spread(advantages[:, 0]), entropies.flatten(), 1.0
    )
    packed.sum().backward()
    torch.testing.assert_close(packed, loss.flatten())
    torch.testing.assert_close(flat.policy.grad, logprobs.policy.grad.flatten())
    for name, value in stats.items():
        torch.testing.assert_close(packed_stats[name], value)


def test_rows_do_not_see_each_other():
    logprobs, rows, advantages, entropies = make()
    whole, _ = token_loss(EVERYTHING, logprobs, rows, advantages, entropies, 1.0)
    for i in range(5):
        row = slice(i, i + 1)
        alone = Logprobs(*(t[row] for t in (logprobs.policy, logprobs.old, logprobs.sampler, logprobs.ref)))
        found, _ = token_loss(EVERYTHING, alone, Rows(rows.mask[row]), advantages[row], entropies[row], 1.0)
        torch.testing.assert_close(found, whole[row], rtol=1e-14, atol=0)

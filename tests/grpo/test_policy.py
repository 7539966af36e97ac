"""Log-probabilities of batches against transformers' own, row by row without padding."""

from __future__ import annotations

import pytest
import torch

from rlzero.grpo.batch import TrainingSample, pack
from rlzero.grpo.policy import policy_logprobs
from tests.grpo.pieces import PAD, make_groups, make_recipe, make_trainer


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
def test_rows_of_a_batch_have_the_log_softmax_of_rows_alone(tiny_model_dir, temperature, packed):
    model = make_trainer(tiny_model_dir, make_recipe()).model
    rollouts = [r for group in make_groups([[0.0] * 4] * 3) for r in group.group.rollouts]
    samples = [TrainingSample(rollout, float(i), 1.0) for i, rollout in enumerate(rollouts)]
    seen = 0
    for batch in pack(samples, 60, PAD, packed=packed):
        logprobs, entropies = policy_logprobs(model, batch, temperature)
        assert logprobs.requires_grad
        assert not entropies.requires_grad
        assert logprobs.shape == entropies.shape == batch.completion_mask.shape
        for i, advantage in enumerate(batch.advantages.tolist()):
            rollout = rollouts[int(advantage)]
            ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
            with torch.no_grad():
                distribution = (model(input_ids=ids).logits[0, :-1] / temperature).log_softmax(-1)
            wanted = distribution.gather(-1, ids[0, 1:, None])[:, 0][len(rollout.prompt_ids) - 1 :]
            entropy = -(distribution.exp() * distribution).sum(-1)[len(rollout.prompt_ids) - 1 :]
            mask = batch.completion_mask[i]
            torch.testing.assert_close(logprobs[i][mask], wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(entropies[i][mask], entropy, rtol=1e-4, atol=1e-4)
            seen += 1
    assert seen == len(rollouts)


def test_nothing_stands_where_nothing_was_predicted(tiny_model_dir):
    model = make_trainer(tiny_model_dir, make_recipe()).model
    rollouts = [r for group in make_groups([[0.0, 0.0], [0.0]]) for r in group.group.rollouts]
    for packed in (True, False):
        (batch,) = pack([TrainingSample(r, 0.0, 1.0) for r in rollouts], 10_000, PAD, packed=packed)
        logprobs, entropies = policy_logprobs(model, batch, 1.0)
        assert batch.first > 0
        for values in (logprobs, -entropies):
            assert (values[batch.completion_mask] < 0).all()
            assert (values[~batch.completion_mask] == 0).all()


def test_model_that_does_not_keep_the_logits_asked_for_is_refused(tiny_model_dir, monkeypatch):
    """It would be read at the wrong places."""
    model = make_trainer(tiny_model_dir, make_recipe()).model
    setattr(model, "rlzero_plain_head", False)  # noqa: B010 (as prepare_policy does)
    forward = model.forward

    def keeps_all(*args, logits_to_keep=0, **options):
        return forward(*args, **options)

    monkeypatch.setattr(model, "forward", keeps_all)
    (batch,) = pack([TrainingSample(make_groups([[0.0]])[0].group.rollouts[0], 0.0, 1.0)], 1000, PAD)
    with pytest.raises(ValueError, match=r"must know logits_to_keep, and gave logits of \d+ positions where \d+ were"):
        policy_logprobs(model, batch, 1.0)

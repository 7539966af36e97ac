"""Balance losses are for pretraining: what RL descends has none, whatever the model's configuration says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.grpo.pieces import PAD, bare_trainer, gradients, make_groups, make_recipe
from tests.models.routed import make_model

REWARDS = [[0.0, 1.0, 1.0], [1.0, 0.5, 0.0]]


@pytest.mark.parametrize(
    ("kind", "balanced"),
    [
        ("mixtral", {"router_aux_loss_coef": 100.0, "output_router_logits": True}),
        ("ours_topk_softmax", {"balance": {"switch": 100.0}}),
    ],
)
def test_update_has_no_balance_loss_where_the_model_is_configured_with_one(kind: str, balanced: dict[str, Any]) -> None:
    found, plain = (
        gradients(bare_trainer(make_recipe(), make_model(kind, vocab_size=PAD + 1, **changes)), make_groups(REWARDS))
        for changes in (balanced, {})
    )
    assert found.keys() == plain.keys()
    assert any(gradient.any() for gradient in plain.values())
    for name, gradient in found.items():
        assert torch.equal(gradient, plain[name]), name

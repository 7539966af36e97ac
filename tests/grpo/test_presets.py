"""Presets: names that exist, numbers that fit each other, a source for each."""

from __future__ import annotations

import dataclasses
import re

import pytest

from rewards.registry import load_rewards
from rlzero.grpo.advantage import ADVANTAGES
from rlzero.grpo.kl import KL_ESTIMATORS
from rlzero.grpo.objective import OBJECTIVES
from rlzero.grpo.parse import CONCERNS
from rlzero.grpo.presets import PRESETS, options
from rlzero.grpo.schedule import parse_lengths

KNOWN = {f.name for concern in CONCERNS for f in dataclasses.fields(concern)}


def test_the_presets_are_those_that_are_promised():
    assert set(PRESETS) == {"deepseekmath", "r1_zero_nature", "dapo", "dr_grpo", "gspo_moe"}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_setting_is_an_option_with_a_source(name):
    assert set(PRESETS[name]) <= KNOWN
    for option, setting in PRESETS[name].items():
        assert re.search(r"\d{4}\.\d{5}|Nature 645|verl|the same", setting.source), option


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_named_choice_exists(name):
    values = options(name)
    assert values["advantage"] in ADVANTAGES
    assert values["loss_type"] in OBJECTIVES
    assert values.get("kl_estimator", "k3") in KL_ESTIMATORS
    load_rewards(values.get("reward_funcs", ["accuracy"]), values.get("reward_weights"))
    if "max_completion_length_schedule" in values:
        last = parse_lengths(values["max_completion_length_schedule"])[-1]
        assert last[1] == values["max_completion_length"]


# Answers a rollout and answers an update, as the papers give them.
@pytest.mark.parametrize(
    ("name", "rollout", "update"),
    [("deepseekmath", 1024, 1024), ("r1_zero_nature", 8192, 512), ("dapo", 8192, 512), ("dr_grpo", 1024, 128)],
)
def test_batches_multiply_to_what_was_published(name, rollout, update):
    values = options(name)
    assert values["prompts_per_step"] * values["num_generations"] == update
    assert update * values["steps_per_generation"] == rollout

"""What `rlzero explain` says of a recipe's course: every figure against one that was computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rlzero.grpo.concern import ConfigError
from rlzero.grpo.explain.lengths import find_lengths
from rlzero.grpo.explain.objective import terms
from rlzero.grpo.explain.place import find_place
from rlzero.grpo.explain.plan import make_plan
from rlzero.grpo.explain.work import cut_step
from tests.conftest import ROOT
from tests.grpo.explain_pieces import lengths
from tests.grpo.pieces import make_recipe

MIXED = {"prompts_per_step": 8, "num_generations": 4, "steps_per_generation": 2, "num_iterations": 3}


def test_minibatches_times_iterations_are_the_updates_and_the_last_is_that_much_staler() -> None:
    plan = make_plan(make_recipe(**MIXED, max_steps=20, eval_steps=5, save_steps=6), processes=2)
    assert (plan.updates_per_rollout, plan.staleness, plan.rollouts) == (6, 5, 4)  # steps 6, 12, 18, 20
    assert (plan.answers_per_step, plan.answers_per_rollout, plan.answers) == (32, 64, 256)
    assert plan.prompts_per_process == 8
    assert plan.quick_evaluations == 3  # at 6, 12, 18; after 20 comes the last one
    assert plan.checkpoints == 3  # at 6, 12, 18
    assert plan.full_evaluations * plan.full_samples == 2 * 256 * 8


def test_one_update_per_rollout_is_on_policy() -> None:
    plan = make_plan(make_recipe(max_steps=3, eval_problems=0), processes=1)
    assert (plan.staleness, plan.rollouts, plan.full_evaluations, plan.quick_evaluations) == (0, 3, 0, 0)


def test_a_rollout_sampled_ahead_is_a_rollout_staler() -> None:
    assert make_plan(make_recipe(max_async_level=1), processes=1).staleness == 1
    assert make_plan(make_recipe(max_async_level=1, steps_per_generation=3), processes=1).staleness == 5


def test_dynamic_sampling_asks_for_so_many_problems_at_most() -> None:
    recipe = make_recipe(prompts_per_step=4, dynamic_sampling=True, max_generation_batches=3)
    assert make_plan(recipe, 1).prompts_at_most == 12


def test_groups_that_cannot_be_shared_out_evenly_are_refused() -> None:
    with pytest.raises(ConfigError, match="prompts_per_step=8 must be a multiple of the 3 processes"):
        make_plan(make_recipe(**MIXED), processes=3)


@pytest.mark.parametrize("mean", [1.5, 10.0, 27.0, 60.0, 79.0])
def test_lengths_have_the_mean_asked_for_and_keep_to_the_limit(mean: float) -> None:
    found = lengths(completion=mean, limit=80).completions(2000)
    assert 1 <= min(found) <= max(found) <= 80
    assert sum(found) / len(found) == pytest.approx(mean, abs=0.6)  # rounded up to whole tokens


def test_answers_that_all_reach_the_limit_are_all_as_long() -> None:
    assert set(lengths(completion=80, limit=80).completions(50)) == {80}


@pytest.mark.parametrize(
    ("shared", "run", "microbatches", "largest"),
    # A group of 2: its prompt once and 5 tokens of each answer, 20; or each answer with its own prompt, 15.
    [(None, 40, 2, 20), (True, 40, 2, 20), (False, 60, 4, 15)],
)
def test_a_step_is_cut_as_the_trainer_cuts_it(shared: bool | None, run: int, microbatches: int, largest: int) -> None:
    recipe = make_recipe(
        prompts_per_step=4, num_generations=2, max_completion_length=6, tokens_per_microbatch=25, shared_prefix=shared
    )
    work = cut_step(recipe, make_plan(recipe, processes=2), lengths())
    assert (work.run, work.microbatches, work.largest) == (run, microbatches, largest)
    assert (work.at_most, work.microbatches_at_most) == (run, microbatches)
    assert (work.prompt_tokens, work.completion_tokens) == (40, 24)
    assert work.shared is (shared is not False)


def test_the_place_is_what_a_launch_file_says() -> None:
    found = find_place(str(ROOT / "recipes/accelerate/cpu.yaml"), None)
    assert (found.device, found.processes, found.sharded) == ("cpu", 1, False)
    found = find_place(str(ROOT / "recipes/accelerate/fsdp2_8gpu.yaml"), None)
    assert (found.device, found.processes, found.sharded) == ("cuda", 8, True)
    assert found.assumed is not torch.cuda.is_available()
    assert find_place(str(ROOT / "recipes/accelerate/ddp_8gpu.yaml"), 4).processes == 4


def test_a_launch_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        find_place(str(tmp_path / "absent.yaml"), None)
    with pytest.raises(ConfigError, match="has no distributed_type"):
        find_place(str(ROOT / "recipes/r1_zero.yaml"), None)


def test_lengths_are_assumed_until_a_run_has_measured_them(tmp_path: Path) -> None:
    recipe = make_recipe(output_dir=str(tmp_path), max_completion_length=90, model_name_or_path=str(tmp_path))
    found = find_lengths(recipe, None)
    assert (found.completion, found.signal, found.assumed) == (30, 0.5, True)
    assert "assumed" in found.completion_source
    assert "holds no tokenizer" in found.prompt_source
    rows = [{"step": n, "completion_length": 10.0 * n, "groups_with_signal": 0.2 * n} for n in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = find_lengths(recipe, None)
    assert (found.completion, found.signal, found.assumed) == (20, pytest.approx(0.4), False)
    assert "measured in the 3 steps" in found.completion_source
    assert find_lengths(recipe, None, completion=44).completion == 44


def test_every_part_of_the_objective_is_said_with_its_source() -> None:
    plain = [(term.part, term.where) for term in terms(make_recipe())]
    assert plain == [
        ("advantage", "rlzero.grpo.advantage.grpo"),
        ("loss of a token", "rlzero.grpo.objective.clip"),
        ("its weight", "rlzero.grpo.loss.dapo"),
    ]
    full = make_recipe(
        loss_type="cispo", epsilon_high=4.0, beta=0.1, kl_estimator="k2", entropy_coef=0.01, top_entropy_quantile=0.5,
        mask_truncated_completions=True, off_policy_mask_threshold=0.5, vllm_importance_sampling_correction=True,
    )  # fmt: skip
    found = terms(full)
    assert len(found) == 10
    assert all(term.formula for term in found)
    assert "MiniMax" in found[1].formula or "2506.13585" in found[1].formula

"""Dynamic sampling, curriculum, growing lengths and minibatches in whole runs of the tiny model."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from data.problem import Problem
from data.templates import get_template
from rlzero.grpo.curriculum import Curriculum
from rlzero.grpo.problems import ProblemFeed
from rlzero.grpo.sampled import Sampled
from rlzero.report.run_dir import read_metrics
from tests.grpo.launching import LAYOUTS, run_two
from tests.grpo.pieces import make_groups, make_recipe, make_trainer
from tests.grpo.test_run import SIGNAL, without_times

# Pays every other problem's groups alike and the others by their answers.
HALF = """
def reward(prompts, completions, **columns):
    return [float(len(set(c))) if sum(map(ord, p)) % 2 else 0.0 for p, c in zip(prompts, completions)]
"""
DYNAMIC = {"dynamic_sampling": True, "max_generation_batches": 8, "num_generations": 4, "prompts_per_step": 4}


def rollouts(run, step: int, folder=None) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table((folder or run.output) / "rollouts" / f"step-{step:06d}.parquet").to_pylist()


def test_dynamic_sampling_fills_every_step_with_groups_that_differ(tiny_run, reward_file):
    assert tiny_run(**DYNAMIC, reward_funcs=[reward_file(HALF)]).code == 0
    rows = read_metrics(tiny_run.output)
    assert [row["sampling/filled"] for row in rows] == [1.0] * 3
    assert any(row["sampling/refills"] for row in rows)
    for row in rows:
        table = rollouts(tiny_run, row["step"])
        asked = int(row["sampling/groups"])
        assert len(table) == 4 * asked
        assert row["sampling/with_signal"] == pytest.approx(row["groups_with_signal"])
        advantages = np.array(
            [[r["advantage"] for r in table[i : i + 4]] for i in range(0, len(table), 4)], dtype=float
        )
        trained = ~np.isnan(advantages).any(axis=1)
        assert trained.sum() == 4
        assert (np.ptp(advantages[trained], axis=1) > 0).all()
        # The denominators are those of the groups that were trained on.
        assert row["trained_tokens"] == sum(r["length"] for r in table if r["advantage"] is not None)
    # No problem twice: every step goes on where the one before stopped asking.
    prompts = [row["prompt"] for step in (1, 2, 3) for row in rollouts(tiny_run, step)[::4]]
    assert len(set(prompts)) == len(prompts)


def test_step_that_cannot_be_filled_stops_asking_and_trains_on_what_there_is(tiny_run, reward_file):
    spec = reward_file("def reward(completions, **columns):\n    return [0.0] * len(completions)\n")
    assert tiny_run(**{**DYNAMIC, "max_generation_batches": 2}, reward_funcs=[spec], max_steps=1).code == 0
    (row,) = read_metrics(tiny_run.output)
    assert (row["sampling/groups"], row["sampling/filled"], row["trained_tokens"]) == (8.0, 0.0, 0)


def test_dynamic_sampling_and_curriculum_resume_as_if_never_stopped(tiny_run, reward_file):
    settings = {
        **DYNAMIC, "reward_funcs": [reward_file(HALF)], "save_steps": 1, "curriculum": "failures",
        "curriculum_pool": 64, "steps_per_generation": 2, "prompts_per_step": 2, "learning_rate": 0.01,
    }  # fmt: skip
    whole = tiny_run.output.parent / "whole"
    assert tiny_run(**settings, max_steps=6, output_dir=whole).code == 0
    assert tiny_run(**settings, max_steps=4).code == 0
    assert tiny_run("--resume", **settings, max_steps=6).code == 0
    assert without_times(read_metrics(tiny_run.output)) == without_times(read_metrics(whole))
    assert rollouts(tiny_run, 6) == rollouts(tiny_run, 6, whole)


class Numbered:
    """A source whose problems are their own positions."""

    name = "numbered"

    def train(self, seed: int, index: int) -> Problem:
        return Problem(str(index), "0")


def make_feed(rank: int = 0, processes: int = 1, curriculum: Curriculum | None = None) -> ProblemFeed:
    from data.charset import byte_tokenizer

    return ProblemFeed(Numbered(), get_template("short"), byte_tokenizer(), 0, rank, processes, curriculum)


def asked(feed: ProblemFeed, done: int, before: int, count: int) -> list[int]:
    return [int(problem.prompt) for problem in feed.take(done, before, count).problems]


@pytest.mark.parametrize("with_curriculum", [False, True])
def test_processes_share_what_one_would_ask_and_remember_the_same(with_curriculum):
    def make(rank: int, processes: int) -> ProblemFeed:
        return make_feed(rank, processes, Curriculum(50, "failures", 3) if with_curriculum else None)

    one, two = make(0, 1), [make(rank, 2) for rank in range(2)]
    for done in range(3):
        first, again = asked(one, done, 0, 6), asked(one, done, 6, 4)
        assert len({*first, *again}) == 10
        assert [i for feed in two for i in asked(feed, done, 0, 6)] == first
        assert [i for feed in two for i in asked(feed, done, 6, 4)] == again
        assert [feed.take(done, 6, 4).first for feed in two] == [6, 8]
        right = [float(i % 3) for i in range(10)]
        for feed in (one, *two):
            feed.finish(done, right, 4)
    assert all(json.dumps(feed.asked) == json.dumps(one.asked) for feed in two)
    if with_curriculum:
        assert all(feed.curriculum.pass_rate_P.tolist() == one.curriculum.pass_rate_P.tolist() for feed in two)


def test_taking_problems_changes_nothing_until_the_step_is_finished():
    """A step that fails is run again after a resume, with the same problems."""
    feed = make_feed()
    assert asked(feed, 0, 0, 4) == asked(feed, 0, 0, 4) == [0, 1, 2, 3]
    feed.finish(0, [0.0] * 4, 8)
    state = feed.state_dict()
    assert asked(feed, 1, 0, 4) == [4, 5, 6, 7]
    resumed = make_feed()
    resumed.load_state_dict(state)
    assert asked(resumed, 1, 0, 4) == [4, 5, 6, 7]


def test_curriculum_asks_what_is_not_yet_solved(tiny_run, reward_file):
    """A table of which half the answers are what everybody says: its problems become rare."""
    curriculum = Curriculum(10, "failures", seed=1)
    feed = make_feed(curriculum=curriculum)
    counts = np.zeros(10)
    for done in range(200):
        problems = asked(feed, done, 0, 2)
        counts[problems] += 1
        feed.finish(done, [8.0 if p < 5 else 0.0 for p in problems], 8)
    assert counts[:5].sum() < 0.25 * counts[5:].sum()


def test_curriculum_is_told_how_many_of_all_answers_to_a_problem_were_right(tiny_model_dir):
    trainer = make_trainer(tiny_model_dir, make_recipe(num_generations=4))
    trainer.feed = make_feed(curriculum=Curriculum(10))
    problems = asked(trainer.feed, 0, 0, 3)
    trainer.finish(Sampled(signal=[False, True, False], right=[4.0, 1.0, 0.0]), 1)
    assert trainer.feed.curriculum.pass_rate_P[problems].tolist() == pytest.approx([5 / 6, 2 / 6, 1 / 6])


def test_every_step_samples_with_a_seed_of_its_own(tiny_model_dir):
    trainer = make_trainer(tiny_model_dir, make_recipe())
    assert len({trainer.sampling(0, done).seed for done in range(50)}) == 50
    assert trainer.sampling(0, 3) == trainer.sampling(0, 3)


def test_every_second_weight_sync_is_checked_however_many_updates_a_rollout_has(tiny_model_dir, monkeypatch):
    trainer, checked = make_trainer(tiny_model_dir, make_recipe(num_iterations=4, sync_check_every=2)), []
    trainer.engine = SimpleNamespace(sync=lambda model, version: None)
    monkeypatch.setattr("rlzero.grpo.trainer.check_sync", lambda *args, **options: checked.append(trainer.done) or 0.0)
    for done in (4, 8, 12, 16):
        trainer.done = done
        trainer.sync(make_groups([[0.0, 1.0]]))
    assert checked == [8, 16]


def test_length_limit_grows_when_its_step_comes(tiny_run):
    lengths = {"max_completion_length": 12, "max_completion_length_schedule": ["0:4", "2:9"]}
    assert tiny_run(**SIGNAL, **lengths, max_steps=4).code == 0
    rows = read_metrics(tiny_run.output)
    assert [row["completion_limit"] for row in rows] == [4, 4, 9, 9]
    longest = [max(r["length"] for r in rollouts(tiny_run, step)) for step in (1, 2, 3, 4)]
    assert max(longest[:2]) <= 4 < max(longest[2:]) <= 9


def test_minibatches_count_steps_save_and_evaluate_by_optimizer_steps(tiny_run):
    settings = {
        **SIGNAL, "steps_per_generation": 2, "num_iterations": 2, "max_steps": 10, "save_steps": 3,
        "save_total_limit": 9, "eval_problems": 2, "eval_samples": 2, "eval_steps": 5, "eval_quick_problems": 2,
    }  # fmt: skip
    outcome = tiny_run(**settings)
    assert outcome.code == 0, outcome.err
    rows = read_metrics(tiny_run.output)
    # The last rollout is cut off: the run ends at max_steps.
    assert [row["step"] for row in rows] == [4, 8, 10]
    assert all(len(rollouts(tiny_run, row["step"])) == 2 * 2 * 4 for row in rows)
    assert [row["step"] for row in read_metrics(tiny_run.output / "evaluations.jsonl")] == [0, 8, 10]
    saved = sorted(p.name for p in (tiny_run.output / "checkpoints").iterdir())
    assert saved == ["step-000004", "step-000008", "step-000010"]
    assert rows[0]["learning_rate"] > 0
    assert "step 10/10" in outcome.out


def test_steps_that_are_never_finite_stop_the_run_with_their_batches_and_resume_goes_on(tiny_run, reward_file):
    huge = "def reward(completions, **columns):\n    return [1e38 * (len(set(c)) % 2) for c in completions]\n"
    settings = {
        "reward_funcs": [reward_file(huge)],
        "num_generations": 4,
        "advantage": "dr_grpo",
        "max_skipped_steps": 2,
    }
    outcome = tiny_run(**settings, max_steps=9)
    assert outcome.code == 1
    rows = read_metrics(tiny_run.output)
    assert [row["skipped"] for row in rows[-2:]] == [1, 1]
    assert f"error in step {rows[-1]['step']}: loss or gradient was not finite in 2 steps in a row" in outcome.err
    kept = sorted((tiny_run.output / "skipped").iterdir())
    assert len(kept) == sum(row["skipped"] for row in rows)
    assert "--resume" in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_refill_and_remember_as_one_would(layout, tiny_run, reward_file):
    settings = {
        **DYNAMIC, "reward_funcs": [reward_file(HALF)], "steps_per_generation": 2, "num_iterations": 2, "max_steps": 8,
        "curriculum": "learnability", "curriculum_pool": 128, "beta": 0.01, "sync_ref_model": True,
        "ref_model_sync_steps": 4, "top_entropy_quantile": 0.5, "entropy_coef": 0.001, "tokens_per_microbatch": 64,
        "scale_rewards": "batch", "save_steps": 4,
    }  # fmt: skip
    done = run_two(layout, *tiny_run.command(**settings)[1:])
    assert done.returncode == 0, done.stderr[-3000:]
    alone = tiny_run.output.parent / "alone"
    assert tiny_run(**settings, output_dir=alone).code == 0
    rows, wanted = read_metrics(tiny_run.output), read_metrics(alone)
    assert [row["step"] for row in rows] == [4, 8]
    assert all(row["sampling/filled"] == 1 and row["kl"] is not None for row in rows)
    # Two processes ask for an even number, so that they may have asked for one problem more. They train on the same.
    trained = []
    for folder in (None, alone):
        table = rollouts(tiny_run, 4, folder)
        trained.append(sorted((r["prompt"], r["completion"]) for r in table if r["advantage"] is not None))
    assert trained[0] == trained[1]
    for key in ("trained_tokens", "loss", "grad_norm", "entropy", "kl", "clip_ratio"):
        assert rows[0][key] == pytest.approx(wanted[0][key], rel=1e-3, abs=1e-6), key
    # What two processes saved one process goes on with.
    assert tiny_run("--resume", **{**settings, "max_steps": 12}).code == 0
    assert [row["step"] for row in read_metrics(tiny_run.output)] == [4, 8, 12]

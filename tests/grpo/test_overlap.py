"""Rewards computed while groups are still generated: the same numbers, in the same order, and no later."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest

from data.charset import byte_tokenizer
from data.problem import Problem
from data.templates import get_template
from rewards.registry import Reward, RewardError
from rlzero.grpo.clock import Clock
from rlzero.grpo.concern import ConfigError
from rlzero.grpo.overlap import PIECES, generate_and_score, runs_in_thread
from rlzero.grpo.problems import Request
from rlzero.grpo.scoring import Scorer
from rlzero.report.run_dir import read_metrics
from rlzero.rollout.types import Group, Rollout, Sampling
from tests.grpo.test_run import without_times

GROUPS, PATIENCE = 24, 300.0


class Scripted:
    """An engine whose groups finish in a given order; `before` is called with the number of groups done so far."""

    name, max_model_len, version = "scripted", 100, 0

    def __init__(self, order, before=lambda done: None):
        self.order, self.before, self.finished = order, before, 0

    def generate(self, problems, prompt_ids, sampling, done=None):
        groups = {}
        for position in self.order:
            self.before(self.finished)
            ids = np.array([97 + position], dtype=np.int64)
            rollouts = tuple(
                Rollout(problems[position], np.array(prompt_ids[position]), np.append(ids, 98 + sample),
                        np.zeros(2, dtype=np.float32), "stop")
                for sample in range(sampling.n)
            )  # fmt: skip
            groups[position] = Group(problems[position], rollouts)
            self.finished += 1
            if done is not None:
                done(position, groups[position])
        return [groups[position] for position in range(len(problems))]


def last_byte(completions, **columns):
    return [float(ord(completion[-1])) for completion in completions]


def scored(engine, function, overlap=True):
    problems = [Problem(f"problem {i}", "1") for i in range(len(engine.order))]
    request = Request(problems, [[3, 4]] * len(problems), 0)
    scorer = Scorer((Reward("mine", function),), get_template("short"), byte_tokenizer(), overlap)
    clock = Clock()
    return generate_and_score(engine, scorer, request, Sampling(n=2, max_tokens=2), clock), clock.seconds


def test_groups_and_rewards_are_those_of_scoring_afterwards_in_the_order_of_the_problems():
    order = np.random.default_rng(0).permutation(GROUPS).tolist()
    together, seconds = scored(Scripted(order), last_byte)
    afterwards, _ = scored(Scripted(order), last_byte, overlap=False)

    assert [s.group.problem.prompt for s in together] == [f"problem {i}" for i in range(GROUPS)]
    assert [s.total.tolist() for s in together] == [s.total.tolist() for s in afterwards]
    assert [s.samples for s in together] == [s.samples for s in afterwards]
    assert seconds.keys() == {"generate", "reward"}


def test_rewards_are_computed_before_the_generation_ends():
    called = threading.Event()

    def reward(completions, **columns):
        called.set()
        return [0.0] * len(completions)

    def before(done):
        if done == GROUPS - 1:
            assert called.wait(PATIENCE)

    assert len(scored(Scripted(range(GROUPS), before), reward)[0]) == GROUPS


def test_the_last_groups_alone_are_waited_for_after_the_generation():
    """What is counted as time for rewards is what the generation did not hide."""
    finished = threading.Event()

    def reward(completions, **columns):
        if completions[0][-2] != "a":  # not the first call
            assert finished.wait(PATIENCE)
        return [0.0] * len(completions)

    engine = Scripted(range(2))
    generate = engine.generate
    engine.generate = lambda *arguments: (generate(*arguments), finished.set())[0]
    assert len(scored(engine, reward)[0]) == 2


def test_which_groups_share_a_call_depends_on_nothing_but_their_order():
    def sizes(wait):
        calls = []

        def reward(completions, **columns):
            wait()
            calls.append(len(completions))
            return [0.0] * len(completions)

        scored(Scripted(range(GROUPS + 1)), reward)
        return calls

    pause = threading.Event()
    assert sizes(lambda: None) == sizes(lambda: pause.wait(0.01))
    assert len(sizes(lambda: None)) <= PIECES


def test_a_reward_that_fails_ends_the_generation_with_its_message():
    second = threading.Event()

    def reward(prompts, completions, **columns):
        if f"problem {GROUPS // PIECES}" in prompts[0]:  # the first group of the second piece: the first has failed
            second.set()
        raise KeyError("gold")

    def before(done):
        if done == GROUPS // 2:
            assert second.wait(PATIENCE)

    engine = Scripted(range(GROUPS), before)
    with pytest.raises(RewardError, match="'mine' raised KeyError: 'gold'"):
        scored(engine, reward)
    assert engine.finished <= GROUPS // 2 + 1


def test_rewards_that_need_the_main_thread_are_called_afterwards():
    def alarm():
        try:
            signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGALRM))
        except ValueError as error:
            raise RewardError(f"reward 'alarm' raised ValueError: {error}") from error

    alarm()
    assert not runs_in_thread(alarm, None)
    assert runs_in_thread(lambda: None, None)
    assert not runs_in_thread(lambda: None, False)
    with pytest.raises(ConfigError, match=r"overlap_rewards=True.*main thread.*Leave overlap_rewards out"):
        runs_in_thread(alarm, True)


def test_a_run_is_the_same_with_and_without_overlap(tiny_run, reward_file):
    spec = reward_file("def reward(completions, **columns):\n    return [float(len(set(c))) for c in completions]\n")
    settings = {"reward_funcs": ["accuracy", spec], "prompts_per_step": 10, "max_steps": 2}
    assert tiny_run(**settings, overlap_rewards=True).code == 0
    apart = tiny_run.output.parent / "apart"
    assert tiny_run(**settings, overlap_rewards=False, output_dir=apart).code == 0
    assert without_times(read_metrics(tiny_run.output)) == without_times(read_metrics(apart))

"""When vLLM sleeps and wakes beside a trainer: the order of calls, by an engine that stands for vLLM's on a GPU."""

from types import SimpleNamespace

import pytest
import torch

from rlzero.rollout import make
from rlzero.rollout.make import check_sleep_mode

pytest.importorskip("vllm", reason="vLLM is an extra, and is not installed here")

from rlzero.rollout.vllm_engine import VLLMEngine


class _Sleeper:
    """vLLM's `LLM` as far as the engine calls it: what it is asked for, and nothing while the memory is away."""

    def __init__(self):
        self.calls, self.away = [], set()
        self.llm_engine = SimpleNamespace(step=self._step)

    def sleep(self, level):
        assert not self.away, "vLLM does not sleep twice"
        self.calls.append(f"sleep {level}")
        self.away = {"weights", "kv_cache"}

    def wake_up(self, tags):
        assert set(tags) <= self.away, "vLLM refuses to wake what is awake"
        self.calls.append("wake " + " ".join(tags))
        self.away -= set(tags)

    def start_weight_update(self):
        assert "weights" not in self.away
        self.calls.append("update")

    def update_weights(self, info):
        pass

    def finish_weight_update(self, version):
        pass

    def reset_prefix_cache(self):
        return True

    def enqueue(self, requests, params, use_tqdm):
        assert not self.away
        self.calls.append("generate")
        return ["0-ab"]

    def _step(self):
        completion = SimpleNamespace(
            token_ids=[4], logprobs=SimpleNamespace(logprobs=[0.0]), finish_reason="stop", index=0
        )
        return [SimpleNamespace(request_id="0", prompt_token_ids=[3], outputs=[completion])]


def _engine(sleeps):
    engine = object.__new__(VLLMEngine)
    engine.max_model_len, engine.version = 10, 0
    engine._llm, engine._vocab_size, engine._eos_token_ids = _Sleeper(), 9, [2]
    engine._sleeps, engine._asleep, engine._recorder = sleeps, [], None
    engine._weights = None
    return engine


@pytest.fixture
def step(tiny, problems):
    """One step of a trainer: generate, sleep while it trains, sync, evaluate."""
    from rlzero.rollout.types import Sampling

    model = tiny.make_model("llama")

    def run(engine):
        sampling = Sampling(n=1, max_tokens=1)
        engine.generate(problems[:1], [[3]], sampling)
        engine.sleep()
        engine.sync(model, 1)
        engine.generate(problems[:1], [[3]], sampling)
        return engine._llm.calls

    return run


def test_the_engine_sleeps_while_the_trainer_works_and_wakes_in_parts(step):
    """The weights for the sync, the cache only for sampling."""
    assert step(_engine(True)) == ["generate", "sleep 1", "wake weights", "update", "wake kv_cache", "generate"]


def test_without_the_mode_nothing_sleeps(step):
    assert step(_engine(False)) == ["generate", "update", "generate"]


def test_sleeping_twice_and_waking_for_nothing_is_harmless(step, problems):
    engine = _engine(True)
    engine.sleep()
    engine.sleep()
    assert step(engine)[:3] == ["sleep 1", "wake weights", "wake kv_cache"]


def test_a_prefix_cache_that_cannot_be_emptied_stops_the_sync(step):
    engine = _engine(False)
    engine._llm.reset_prefix_cache = lambda: False
    with pytest.raises(RuntimeError, match="prefix cache must be emptied, and vLLM refused"):
        step(engine)


@pytest.mark.parametrize(("engine", "why"), [("vllm", "there is no GPU"), ("builtin", "the engine is builtin")])
def test_sleep_mode_is_refused_where_nothing_can_sleep(monkeypatch, engine, why):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"vllm_enable_sleep_mode=True.*{why}: leave it off"):
        check_sleep_mode(engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    make.check_sleep_mode("vllm")

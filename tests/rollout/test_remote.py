"""An engine in a process of its own: what it samples, what it says when something goes wrong, and how it ends."""

import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from data.problem import Problem
from rlzero.rollout.builtin import BuiltinEngine
from rlzero.rollout.remote import RemoteEngine, _visible
from rlzero.rollout.remote_errors import as_raised, told
from rlzero.rollout.request import RequestError
from rlzero.rollout.sync_check import SyncError, check_sync
from rlzero.rollout.types import EngineLost, Sampling

SAMPLING = Sampling(n=4, max_tokens=40, seed=3)
MANY_ENDS = list(range(2, 12))
PATIENCE = 60  # seconds
CPU = torch.device("cpu")


def remote(model, **options):
    """Several tokens end a completion, so that the lengths differ."""
    model.generation_config.eos_token_id = MANY_ENDS
    tokenizer = SimpleNamespace(eos_token_id=2, all_special_ids=MANY_ENDS)
    options = {"max_model_len": 100, "max_num_seqs": 8, **options}
    return closing(RemoteEngine("builtin", CPU, model=model, tokenizer=tokenizer, model_path="", **options))


def beside(model, **options):
    """The same engine in this process."""
    return BuiltinEngine(model, MANY_ENDS, max_model_len=100, max_rows=8, **options)


@pytest.fixture(scope="module")
def started(tiny):
    """A model and an engine with its weights; tests leave the two in step."""
    model = tiny.make_model("qwen3_moe")
    with remote(model) as engine:
        yield model, engine


def fields(groups):
    return [
        (r.prompt_ids.tolist(), r.completion_ids.tolist(), r.sampler_logprobs.tobytes(), r.finish_reason)
        for group in groups
        for r in group.rollouts
    ]


def in_order(engine, problems, prompts):
    handed = []
    groups = engine.generate(problems, prompts, SAMPLING, lambda position, group: handed.append((position, group)))
    assert all(groups[position] is group for position, group in handed)
    return fields(groups), [position for position, _ in handed]


def test_groups_and_the_order_in_which_they_are_finished_are_those_of_the_engine_in_this_process(started, prompts):
    model, engine = started
    # What a data set has beside the question stays here.
    problems = [Problem(f"problem {i}", "42", {"check": lambda: True}) for i in range(len(prompts))]
    found, order = in_order(engine, problems, prompts)
    assert (found, order) == in_order(beside(model), problems, prompts)
    assert order != sorted(order)
    groups = engine.generate(problems, prompts, SAMPLING)
    assert all(r.problem is problem for problem, group in zip(problems, groups, strict=True) for r in group.rollouts)
    assert all(group.problem is problem for problem, group in zip(problems, groups, strict=True))
    assert (engine.name, engine.max_model_len) == ("builtin", 100)


def test_engine_samples_from_the_weights_of_the_last_sync(started, tiny, problems, prompts):
    model, engine = started
    before = fields(engine.generate(problems, prompts, SAMPLING))
    tiny.change_weights(model, seed=5)
    assert fields(engine.generate(problems, prompts, SAMPLING)) == before
    with pytest.raises(SyncError):
        check_sync(engine, model, prompts, 1e-3)
    engine.sync(model, 7)
    assert engine.version == 7
    assert check_sync(engine, model, prompts, 1e-3) == 0
    after = fields(engine.generate(problems, prompts, SAMPLING))
    assert after == fields(beside(model).generate(problems, prompts, SAMPLING))
    assert after != before


def test_what_the_receiver_raises_ends_the_generation_and_the_engine_goes_on(started, problems, prompts):
    model, engine = started
    calls = []

    def receive(position, group):
        calls.append(position)
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        engine.generate(problems, prompts, SAMPLING, receive)
    assert len(calls) == 1
    engine.sync(model, 8)
    engine.sleep()
    wanted = fields(beside(model).generate(problems, prompts, SAMPLING))
    assert fields(engine.generate(problems, prompts, SAMPLING)) == wanted


def test_what_the_engine_raises_is_raised_here_as_it_is(started, problems, prompts):
    model, engine = started
    with pytest.raises(RequestError, match=r"prompt 0 has 100: 'problem 0'") as caught:
        engine.generate(problems[:1], [[5] * 100], SAMPLING)
    assert "check_request" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="cannot score an empty sequence"):
        engine.score([[]])
    assert np.array_equal(engine.score([[5, 6, 7]])[0], beside(model).score([[5, 6, 7]])[0])


def test_an_exception_keeps_its_type_where_both_processes_have_it_and_else_its_story():
    class Unknown(Exception):
        pass

    def sent(error):
        try:
            raise error
        except Exception as caught:
            return as_raised(told(caught))

    back = sent(SyncError("differs", 0.5))
    assert (type(back), str(back), back.difference) == (SyncError, "differs", 0.5)
    assert type(sent(FloatingPointError("NaN"))) is FloatingPointError
    for error in (Unknown("strange"), torch.OutOfMemoryError("strange"), ValueError("strange", lambda: 0)):
        back = sent(error)
        assert type(back) is RuntimeError
        assert "in its own process" in str(back)
        assert "raise error" in str(back)
        assert "strange" in str(back)


def test_weights_do_not_move_while_the_engine_samples(started, tiny, problems, prompts):
    _, engine = started
    wanted = fields(engine.generate(problems, prompts, SAMPLING))
    first, go_on, found = threading.Event(), threading.Event(), []

    def receive(position, group):
        first.set()
        go_on.wait(PATIENCE)

    thread = threading.Thread(target=lambda: found.extend(engine.generate(problems, prompts, SAMPLING, receive)))
    thread.start()
    try:
        assert first.wait(PATIENCE)
        other = tiny.make_model("qwen3_moe")
        tiny.change_weights(other, seed=6)
        with pytest.raises(RuntimeError, match="its weights may not move meanwhile"):
            engine.sync(other, 9)
    finally:
        go_on.set()
        thread.join()
    assert fields(found) == wanted
    assert fields(engine.generate(problems, prompts, SAMPLING)) == wanted


def test_process_of_the_engine_sees_its_own_device_and_no_launcher(started, monkeypatch):
    assert os.environ.get("CUDA_VISIBLE_DEVICES") is None
    variables = psutil.Process(started[1]._process.pid).environ()
    assert variables["CUDA_VISIBLE_DEVICES"] == ""
    assert _visible(torch.device("cuda", 1)) == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5f")
    assert _visible(torch.device("cuda", 1)) == "GPU-5f"


def test_routing_travels_and_a_killed_engine_is_an_error_at_once_and_closed_as_any_other(
    tiny, problems, prompts, monkeypatch
):
    model = tiny.make_model("qwen3_moe")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    with remote(model, record_routing=True) as engine:
        assert not {"RANK", "WORLD_SIZE"} & psutil.Process(engine._process.pid).environ().keys()
        groups = engine.generate(problems, prompts, SAMPLING)
        wanted = beside(model, record_routing=True).generate(problems, prompts, SAMPLING)
        assert fields(groups) == fields(wanted)
        for group, other in zip(groups, wanted, strict=True):
            for r, w in zip(group.rollouts, other.rollouts, strict=True):
                assert np.array_equal(r.routing, w.routing)
                assert r.routing.dtype == np.int16

        with pytest.raises(EngineLost, match=r"on cpu has ended, with exit code -9 \(Killed\)"):
            engine.generate(problems, prompts, SAMPLING, lambda *_: engine._process.kill())
        for ask in (engine.sleep, lambda: engine.sync(model, 1), lambda: engine.score([[3, 4]])):
            with pytest.raises(EngineLost, match="Killed"):
                ask()
        assert engine.version == 0
    with pytest.raises(RuntimeError, match="closed: make a new one"):
        engine.sleep()


def test_what_is_wrong_with_a_model_is_said_as_in_this_process_and_leaves_no_process_behind(tiny):
    before = psutil.Process().children()
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has none of them. Leave router_replay off"):
        remote(tiny.make_model("llama"), record_routing=True)
    # Python starts one that looks after what processes share, and stays.
    new = [child for child in psutil.Process().children() if child not in before]
    assert not [child for child in new if "--multiprocessing-fork" in child.cmdline()]


@pytest.mark.parametrize("doing", ["at rest", "at work"])
def test_engine_ends_when_its_parent_is_killed(doing):
    script = Path(__file__).with_name("remote_parent.py")
    environment = {**os.environ, "PYTHONPATH": f"{script.parents[2]}{os.pathsep}{script.parent}"}
    with subprocess.Popen(
        [sys.executable, str(script), doing], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(PATIENCE)
    assert not child.is_running()


@pytest.mark.slow
def test_vllm_has_a_process_of_its_own_and_its_start_is_silent(tiny, tokenizer, problems, prompts, tmp_path, capfd):
    pytest.importorskip("vllm", reason="vLLM is an extra, and is not installed here")
    model = tiny.make_model("qwen3_moe")
    path = tiny.save_model(model, tmp_path)
    capfd.readouterr()
    with closing(
        RemoteEngine(
            "vllm", CPU, model=model, tokenizer=tokenizer, model_path=path, max_model_len=100, max_num_seqs=32,
            record_routing=True,
        )
    ) as engine:  # fmt: skip
        assert engine.name == "vllm"
        assert "".join(capfd.readouterr()) == ""
        with pytest.raises(KeyError):
            engine.generate(problems, prompts, SAMPLING, lambda *_: {}["enough"])
        for version in (1, 2):
            tiny.change_weights(model, seed=version)
            engine.sync(model, version)
            groups = engine.generate(problems, prompts, SAMPLING)
            sequences = [np.concatenate([r.prompt_ids, r.completion_ids]) for g in groups for r in g.rollouts]
            assert check_sync(engine, model, sequences, 1e-3) < 1e-5
        assert all(r.routing.shape[0] == len(s) - 1 for r, s in zip(groups[0].rollouts, sequences, strict=False))
        with pytest.raises(ValueError, match="vLLM scores sequences of at most 99 tokens"):
            engine.score([[3] * 100])

"""Runs whose engine has a process of its own: they are the runs that they would be without it."""

from __future__ import annotations

import signal
import subprocess
from types import SimpleNamespace

import psutil
import pytest
import torch

import rlzero.grpo.run as run_module
from rlzero.grpo.concern import ConfigError
from rlzero.grpo.engine import engine_device
from rlzero.report.run_dir import RunDirectory, read_metrics
from tests.conftest import ROOT, TinyRun
from tests.grpo.launching import LAYOUTS, environment, run_two
from tests.grpo.pieces import make_recipe
from tests.grpo.test_ahead import AHEAD
from tests.grpo.test_checkpoint import Killed
from tests.grpo.test_resume import assert_same_run, ends, rollouts
from tests.grpo.test_run import EVALUATED, SIGNAL, wait_for_steps, without_times

pytestmark = pytest.mark.usefixtures("no_pictures")

OUTSIDE = {"rollout_device": "cpu"}
MANY = {**SIGNAL, **EVALUATED, "learning_rate": 0.01, "dynamic_sampling": True, "router_replay": True}


@pytest.fixture(scope="module")
def inside(tiny_model_dir, tmp_path_factory):
    """A run with evaluations, refills and routing, and its engine in the trainer's process."""
    run = TinyRun(tiny_model_dir, tmp_path_factory.mktemp("inside") / "run")
    outcome = run(**MANY)
    assert outcome.code == 0, outcome.err
    return run.output


def assert_same_record(found, wanted):
    for record in ("metrics.jsonl", "evaluations.jsonl"):
        assert without_times(read_metrics(found / record)) == without_times(read_metrics(wanted / record))
    assert rollouts(found) == rollouts(wanted)


def test_run_is_the_same_whether_its_engine_has_a_process_of_its_own_or_not(inside, tiny_run):
    outcome = tiny_run(**MANY, **OUTSIDE)
    assert outcome.code == 0, outcome.err
    assert_same_record(tiny_run.output, inside)
    assert not [child for child in psutil.Process().children() if "--multiprocessing-fork" in child.cmdline()]


@pytest.mark.parametrize("method", ["generate", "sync"])
def test_run_whose_engine_was_killed_says_so_keeps_its_state_and_goes_on(inside, tiny_run, monkeypatch, method):
    """While it samples step 2, nothing of which is done, and while it is synced after it, when all of it is."""
    from rlzero.rollout.remote import RemoteEngine

    calls, call = [], getattr(RemoteEngine, method)

    def killed(engine, *arguments):
        calls.append(method)
        # Evaluations sample too: the base one comes first. Step 2 samples third, and syncs second.
        if len(calls) == {"generate": 3, "sync": 2}[method]:
            engine._process.kill()
        return call(engine, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(RemoteEngine, method, killed)
        outcome = tiny_run(**MANY, **OUTSIDE)
    assert outcome.code == 1
    assert "error in step 2: the rollout engine's process on cpu has ended, with exit code -9 (Killed)" in outcome.err
    assert [row["step"] for row in read_metrics(tiny_run.output)] == {"generate": [1], "sync": [1, 2]}[method]
    outcome = tiny_run("--resume", **MANY, **OUTSIDE)
    assert outcome.code == 0, outcome.err
    assert read_metrics(tiny_run.output)[1]["trained_tokens"] == read_metrics(inside)[1]["trained_tokens"]
    assert without_times(read_metrics(tiny_run.output))[2] == without_times(read_metrics(inside))[2]


def test_run_ahead_that_was_ended_and_resumed_is_the_one_whose_engine_has_a_thread_alone(tiny_run, monkeypatch):
    settings = {**AHEAD, "lora_r": 4}
    in_thread = tiny_run.output.parent / "thread"
    assert tiny_run(**settings, output_dir=in_thread).code == 0
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "save_checkpoint", ends(2)(run_module.save_checkpoint))
        with pytest.raises(Killed):
            tiny_run(**settings, **OUTSIDE)
    outcome = tiny_run("--resume", **settings, **OUTSIDE)
    assert outcome.code == 0, outcome.err
    assert_same_run(tiny_run.output, in_thread)


def test_ctrl_c_reaches_the_engine_too_and_is_the_trainers_to_answer(tiny_run):
    process = tiny_run.start(**SIGNAL, **OUTSIDE, max_steps=2000)
    wait_for_steps(process, tiny_run, 2)
    engines = psutil.Process(process.pid).children()
    for each in (*engines, process):
        each.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Interrupted." in out
    assert "Traceback" not in err
    assert psutil.wait_procs(engines, timeout=60)[1] == []


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"rollout_device": "cuda"}, ["rollout_device='cuda'", "cuda and a number (cuda:1)"]),
        ({"rollout_device": "cuda:x"}, ["rollout_device='cuda:x'", "give cpu"]),
        ({"rollout_device": "cuda:7"}, ["rollout_device='cuda:7'", "this machine has 2 GPUs", "name one that exists"]),
        ({**OUTSIDE, "rollout": "vllm", "vllm_enable_sleep_mode": True}, ["rollout_device='cpu'", "leave one of them"]),
    ],
)
def test_device_that_cannot_be_is_refused_before_the_model_is_loaded(tiny_run, monkeypatch, settings, parts):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("rlzero.grpo.setup.load_model", None)
    outcome = tiny_run(**settings)
    assert outcome.code == 2
    assert all(part in outcome.err for part in parts), outcome.err
    assert not RunDirectory(tiny_run.output).config_yaml.exists()


def place(wanted, device, engine="builtin", rank=0):
    """Of the engine of a process with this device and number on its machine."""
    accelerator = SimpleNamespace(device=torch.device(device), local_process_index=rank)
    return engine_device(make_recipe(rollout_device=wanted), engine, accelerator)


def test_every_process_of_a_machine_has_an_engine_on_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert place(None, "cuda:0") is None
    assert place("cuda:1", "cuda:0") == torch.device("cuda:1")
    assert place("cuda:0", "cuda:1") == torch.device("cuda:0")
    assert place("cuda:0", "cpu") == torch.device("cuda:0")
    assert place("cpu", "cuda:0") == place("cpu", "cpu", "vllm") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert [place("cuda:4", f"cuda:{rank}", rank=rank).index for rank in range(4)] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("wanted", "device", "engine", "processes", "message"),
    [
        ("cuda:4", "cuda:0", "vllm", 4, "asks for cuda:4 to cuda:7, one for each process, and this machine has 7 GPUs"),
        ("cuda:0", "cuda:0", "builtin", 1, "the trainer has cuda:0: set rollout_device=cuda:1"),
        ("cuda:1", "cuda:0", "vllm", 2, "the trainer has cuda:0 to cuda:1: set rollout_device=cuda:2"),
        ("cpu", "cuda:0", "vllm", 1, "set rollout=builtin, or rollout_device=cuda:N"),
    ],
)
def test_engine_is_not_put_where_no_gpu_is_nor_a_trainer_nor_vllm_on_the_cpu_beside_one_on_a_gpu(
    monkeypatch, wanted, device, engine, processes, message
):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 7)
    with pytest.raises(ConfigError, match=message):
        place(wanted, device, engine)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_have_an_engine_each_and_make_the_run_that_they_make_without(tiny_run, layout):
    found = []
    for name, more in {"inside": {}, "outside": OUTSIDE}.items():
        settings = {**SIGNAL, **EVALUATED, "learning_rate": 0.01, "prompts_per_step": 4, "max_async_level": 1, **more}
        found.append(tiny_run.output.parent / name)
        done = run_two(layout, *tiny_run.command(**settings, output_dir=found[-1])[1:])
        assert done.returncode == 0, done.stderr[-3000:]
    assert_same_record(found[1], found[0])


@pytest.mark.slow
def test_engine_that_one_process_loses_ends_both_with_its_message(tiny_run, reward_file):
    body = (
        "import os\nimport psutil\ncalls = []\ndef reward(completions, **columns):\n    calls.append(1)\n"
        "    if len(calls) == 3 and os.environ['RANK'] == '1':\n"
        "        for child in psutil.Process().children():\n            child.kill()\n"
        "    return [float(len(set(c))) for c in completions]\n"
    )
    settings = {**OUTSIDE, "reward_funcs": [reward_file(body)], "overlap_rewards": False}
    done = run_two("ddp", *tiny_run.command(**settings)[1:])
    assert done.returncode != 0
    assert "error in step 2: the rollout engine's process on cpu has ended, with exit code -9" in done.stderr


@pytest.mark.slow
def test_vllm_in_its_own_process_generates_ahead_and_is_in_step_after_every_sync(tiny_run):
    pytest.importorskip("vllm", reason="vLLM is an extra, and is not installed here")
    done = subprocess.run(
        tiny_run.command(**{**AHEAD, **OUTSIDE, "rollout": "vllm"}), cwd=ROOT, capture_output=True, text=True,
        timeout=280, check=False, env=environment("ddp"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read_metrics(tiny_run.output)
    assert [row["sampling/staleness"] for row in rows] == [0, 1, 1, 1]
    assert all(row["sync_diff"] < 1e-4 for row in rows)
    assert rows[0]["logprob_diff"] < 1e-4 < min(row["logprob_diff"] for row in rows[1:] if row["trained_tokens"])

"""Run from test_remote.py, which kills it: an engine in a child process, at rest or at work. Prints the child's id."""

import sys
from types import SimpleNamespace

import torch
from conftest import EOS, make_model

from data.problem import Problem
from rlzero.rollout.remote import RemoteEngine
from rlzero.rollout.types import Sampling

if __name__ == "__main__":
    engine = RemoteEngine(
        "builtin",
        torch.device("cpu"),
        model=make_model("llama"),
        tokenizer=SimpleNamespace(eos_token_id=EOS, all_special_ids=[]),
        model_path="",
        max_model_len=250,
    )
    print(engine._process.pid, flush=True)
    while sys.argv[1] == "at work":
        engine.generate([Problem("1", "1")], [[3, 4]], Sampling(n=64, max_tokens=240))
    sys.stdin.read()

import os
import random
import subprocess

import numpy as np
import pytest
import torch

from rlzero.rollout.startup import chatter_kept_back, process_left_as_found


def test_chatter_of_a_start_that_succeeds_is_not_shown(capfd):
    with chatter_kept_back():
        os.write(1, b"noise\n")
        os.write(2, b"more noise\n")
    os.write(1, b"after\n")

    assert capfd.readouterr() == ("after\n", "")


def test_chatter_of_a_start_that_fails_is_shown(capfd):
    with pytest.raises(subprocess.CalledProcessError), chatter_kept_back():
        subprocess.run("echo the reason; exit 1", shell=True, check=True)

    assert "the reason" in capfd.readouterr().err


def test_chatter_is_shown_where_it_is_asked_for(capfd):
    with chatter_kept_back(False):
        os.write(1, b"wanted\n")

    assert capfd.readouterr().out == "wanted\n"


def test_random_states_threads_and_variables_are_put_back(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "kept")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    setter, threads = torch.set_num_threads, torch.get_num_threads()
    with process_left_as_found():
        expected = random.random(), np.random.rand(), torch.rand(1).item()
    with process_left_as_found():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        torch.set_num_threads = lambda count: None
        os.environ.update(LD_PRELOAD="foreign.so", LD_LIBRARY_PATH="changed")

    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert (torch.set_num_threads, torch.get_num_threads()) == (setter, threads)
    assert "LD_PRELOAD" not in os.environ
    assert os.environ["LD_LIBRARY_PATH"] == "kept"

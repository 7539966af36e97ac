"""Starting a large library inside this process: its chatter held back, its side effects undone; starting another."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

# vLLM sets these for itself; they would reach child processes (reward sandboxes) and accelerate.
_FOREIGN_VARIABLES = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LOCAL_WORLD_SIZE")


@contextmanager
def process_left_as_found() -> Iterator[None]:
    """Put back the random states, torch's thread setter, and the variables above."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    variables = {name: os.environ.get(name) for name in _FOREIGN_VARIABLES}
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
        # vLLM replaces it by a function that does nothing.
        torch.set_num_threads = set_num_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        _set_variables(variables)


@contextmanager
def variables_set(changed: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables, None for none, as a process that is started in the block finds them."""
    before = {name: os.environ.get(name) for name in changed}
    _set_variables(changed)
    try:
        yield
    finally:
        _set_variables(before)


@contextmanager
def process_group_kept(enabled: bool = True) -> Iterator[None]:
    """Keep torch's default process group, which accelerate needs: vLLM's shutdown destroys it with its own."""
    destroy = torch.distributed.destroy_process_group

    def destroy_named(group=None) -> None:
        if group is not None:
            destroy(group)

    if enabled:
        torch.distributed.destroy_process_group = destroy_named
    try:
        yield
    finally:
        torch.distributed.destroy_process_group = destroy


@contextmanager
def chatter_kept_back(enabled: bool = True) -> Iterator[None]:
    """Hold back what the block writes to stdout and stderr, native code too; show it if it raises."""
    if not enabled:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as kept:
        try:
            os.dup2(kept.fileno(), 1)
            os.dup2(kept.fileno(), 2)
            try:
                yield
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os.dup2(saved[0], 1)
                os.dup2(saved[1], 2)
        except BaseException:
            kept.seek(0)
            sys.stderr.write(kept.read().decode(errors="replace"))
            raise
        finally:
            for descriptor in saved:
                os.close(descriptor)


def _set_variables(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

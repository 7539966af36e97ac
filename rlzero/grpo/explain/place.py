"""Where the recipe would run: on how many processes, on what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from rlzero.grpo.concern import ConfigError
from rlzero.grpo.explain.constants import ASSUMED_GPU, ASSUMED_GPU_BYTES


@dataclass(frozen=True)
class Place:
    """sharded: FSDP cuts weights, gradients and optimizer between the processes. memory: bytes of a GPU, 0 for a CPU.
    assumed: no such device is at hand, and its data sheet stands for it. threads: of a CPU."""

    device: str
    name: str
    processes: int
    sharded: bool
    memory: int
    assumed: bool
    threads: int

    @property
    def words(self) -> str:
        many = (
            "1 process" if self.processes == 1 else f"{self.processes} processes ({'FSDP' if self.sharded else 'DDP'})"
        )
        return f"{many} on {self.name}{' each' if self.processes > 1 and self.device == 'cuda' else ''}"


def find_place(config_file: str | None, num_processes: int | None) -> Place:
    """From a file of `accelerate launch` and this machine; without a file this machine alone, in one process.

    Raises ConfigError for a file that is none.
    """
    launch = {} if config_file is None else _read(config_file)
    processes = num_processes or int(launch.get("num_processes", 1))
    if processes < 1:
        raise ConfigError(f"num_processes={processes} must be at least 1.")
    here = torch.cuda.is_available()
    wants_gpu = here if config_file is None else not launch.get("use_cpu", False)
    sharded = launch.get("distributed_type") == "FSDP"
    threads = torch.get_num_threads()
    if not wants_gpu:
        return Place("cpu", f"this CPU, {threads} threads", processes, sharded, 0, False, threads)
    if not here:
        return Place("cuda", ASSUMED_GPU, processes, sharded, ASSUMED_GPU_BYTES, True, threads)
    found = torch.cuda.get_device_properties(0)
    return Place("cuda", found.name, processes, sharded, found.total_memory, False, threads)


def _read(path: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(
            f"config_file {path!r} cannot be read ({error.strerror}); give it a file of accelerate launch, as those in "
            "recipes/accelerate."
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config_file {path!r} is not valid YAML: {error}") from None
    if not isinstance(found, dict) or "distributed_type" not in found:
        raise ConfigError(
            f"config_file {path!r} is no file of accelerate launch: it has no distributed_type. Take one of those in "
            "recipes/accelerate."
        )
    return found

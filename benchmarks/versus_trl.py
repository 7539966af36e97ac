"""GRPO steps against TRL's GRPOTrainer: the same model, prompts, lengths of answers and seeds, on one CPU core.

    python benchmarks/versus_trl.py                      # the embedded base model
    python benchmarks/versus_trl.py --model smollm2      # SmolLM2-135M, as `make smollm2` leaves it
    python benchmarks/versus_trl.py --rounds 3 --prompts 8 --engines hf

A step is generation, rewards, forward, backward, optimizer and the hand-over of the new weights. Groups of 16, answers
of long-tailed lengths: log-normal, mean about 60, at most 256, drawn once and forced on both sides (versus_sides.py).
The reward is a hash of the text, so every group has signal: nothing is skipped. As many answers in a microbatch on both
sides, about. Two rivals, each a process with one thread on one core, take turns in an order drawn anew every round:

- TRL with transformers' `generate`, and rlzero with its built-in engine;
- then both with vLLM (TRL's colocate mode, its weight sync replaced: on a CPU it fails).

Seconds are what a process gets of the CPU. A ratio is that of one round, TRL over rlzero: above 1, rlzero is faster;
shown are the median of the rounds and their range. train: all but generation, rewards and the hand-over. Memory is the
peak of a process, and its ratio rlzero over TRL, of what it held beyond the process as it was loaded (libraries,
weights, and with vLLM the cache) as well as of all. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drawn import GROUP
from versus_sides import ROOT, Settings, serve

# folder, the YAML that asks it, prompts a step, rounds, answers in a microbatch.
MODELS = {
    "base": (ROOT / "recipes/base", ROOT / "recipes/r1_zero.yaml", 16, 5, 32),
    "smollm2": (ROOT / "models/smollm2-135m", ROOT / "recipes/smollm2-135m.yaml", 2, 2, 8),
}
# What is compared -> side and engine, TRL first.
ENGINES = {"hf": (("trl", "hf"), ("rlzero", "builtin")), "vllm": (("trl", "vllm"), ("rlzero", "vllm"))}


class Rival:
    """A side in its process. loaded: bytes when it had loaded; rounds: its figures; error: why it is out."""

    def __init__(self, side: str, engine: str, settings: Settings, log: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = f"{side}, {engine}"
        self.rounds: list[dict[str, Any]] = []
        self.error, self._log = "", log
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(side, engine, settings, str(log), other))
        self._process.start()
        other.close()
        self.loaded = self._take().get("loaded", 0)

    def step(self) -> None:
        """One step; nothing from a side that is out."""
        if not self.error:
            self._pipe.send(True)
            self.rounds.append(self._take())
        if not self.error:
            self._take()

    def close(self) -> None:
        self._process.terminate()
        self._process.join()

    def measured(self, name: str) -> list[float]:
        """By round, without the first, which warms up."""
        return [figures.get(name, 0.0) for figures in self.rounds[1:]]

    @property
    def peak(self) -> int:
        return max(figures["peak"] for figures in self.rounds)

    def _take(self) -> dict[str, Any]:
        try:
            found = self._pipe.recv()
        except EOFError:
            self._process.join()
            found = {"error": f"its process ended with code {self._process.exitcode}"}
        if error := found.get("error"):
            self.error = error
            print(f"{self.name} is out: {error}\n{self._log.read_text(errors='replace')[-2000:]}", flush=True)
        return found


def run(engine: str, settings: Settings, rounds: int) -> tuple[Rival, Rival]:
    """Both rivals with an engine, after a round of warm-up and so many that count."""
    with tempfile.TemporaryDirectory() as folder:
        theirs, own = (Rival(*who, settings, Path(folder) / f"{who[0]}.log") for who in ENGINES[engine])
        try:
            for number in range(rounds + 1):
                print(f"{engine}, round {number} of {rounds}", file=sys.stderr, flush=True)
                for rival in random.sample([theirs, own], 2):
                    rival.step()
        finally:
            theirs.close()
            own.close()
    return theirs, own


def show(rival: Rival) -> None:
    step, train, generate = (statistics.median(rival.measured(n)) for n in ("step", "train", "generate"))
    peak, own = rival.peak / 2**20, (rival.peak - rival.loaded) / 2**20
    print(
        f"  {rival.name:16}  step {step:7.2f} s  generation, rewards {generate:7.2f} s  training {train:7.2f} s  "
        f"peak {peak:6,.0f} MiB, {own:6,.0f} of them beyond what it loaded"
    )


def ratio(words: str, values: list[float]) -> float:
    middle = statistics.median(values)
    print(f"  {words:40} {middle:5.2f} [{min(values):.2f}, {max(values):.2f}]")
    return round(middle, 3)


def compare(engine: str, theirs: Rival, own: Rival) -> dict[str, float | None]:
    """The table of a pair, and its figures; None where a side could not take part."""
    names = [f"{what}_ratio_{engine}" for what in ("step", "train", "memory", "rss")]
    if theirs.error or own.error:
        return dict.fromkeys(names)
    # The same work: prompts and answers have as many tokens.
    for one, other in zip(theirs.rounds, own.rounds, strict=True):
        assert one["tokens"] == other["tokens"], f"{theirs.name}: {one['tokens']}, {own.name}: {other['tokens']}"
    show(theirs)
    show(own)
    times = []
    for words, name in (("whole step, TRL over rlzero", "step"), ("training phase, TRL over rlzero", "train")):
        by_round = zip(theirs.measured(name), own.measured(name), strict=True)
        times.append(ratio(words, [a / b for a, b in by_round]))
    memory = (own.peak - own.loaded) / (theirs.peak - theirs.loaded), own.peak / theirs.peak
    print(f"  peak memory, rlzero over TRL: {memory[0]:.2f} beyond what was loaded, {memory[1]:.2f} of all")
    return dict(zip(names, [*times, *(round(m, 3) for m in memory)], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base", help="base, smollm2, or a folder, which is asked as smollm2 is")
    parser.add_argument("--rounds", type=int, help="after one of warm-up. Default: 5, for smollm2 2")
    parser.add_argument("--prompts", type=int, help="a step. Default: 16, for smollm2 2")
    parser.add_argument("--engines", nargs="+", choices=[*ENGINES], default=[*ENGINES])
    arguments = parser.parse_args()
    folder, recipe, prompts, rounds, rows = MODELS.get(arguments.model, (Path(arguments.model), *MODELS["smollm2"][1:]))
    if not (folder / "config.json").is_file():
        parser.error(f"--model {arguments.model}: there is no model in {folder}. `make smollm2` makes SmolLM2's.")
    rounds, prompts = arguments.rounds or rounds, arguments.prompts or prompts
    os.environ["OMP_NUM_THREADS"] = "1"
    random.seed(0)
    # One step more than is asked for: a side that is done would not wait.
    settings = Settings(str(folder), str(recipe), prompts, rounds + 2, rows)
    print(
        f"{arguments.model}: {prompts} prompts × {GROUP} answers a step, {rounds} rounds, one CPU core and thread, "
        f"float32, TRL {version('trl')}, transformers {version('transformers')}",
        flush=True,
    )
    figures: dict[str, Any] = {f"step_ratio_{engine}": None for engine in ENGINES}
    for engine in arguments.engines:
        pair = run(engine, settings, rounds)
        print(f"{engine}:")
        figures |= compare(engine, *pair)
    # With transformers' generation unless it was not asked for: no engine of its own is in either process.
    first = arguments.engines[0]
    figures |= {name: figures[f"{name}_{first}"] for name in ("train_ratio", "memory_ratio", "rss_ratio")}
    print(json.dumps({"model": arguments.model, "prompts": prompts, "rounds": rounds, **figures}))


if __name__ == "__main__":
    main()

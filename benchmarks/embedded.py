"""The figures of the embedded task, measured: prints the table that stands in README.md.

    python benchmarks/embedded.py                    # everything, about an hour on two cores
    python benchmarks/embedded.py --only zero --seeds 0

Rows: `zero` is recipes/r1_zero.yaml, `control` the same with a random reward, `countdown` is
recipes/countdown.yaml, `cold start` is recipes/cold_start.py and then r1_zero.yaml from its checkpoint at a lower
learning rate (its wall seconds are those of the RL part). Each run
is a process of its own, one after the other. `repeat` runs the default twice with the built-in engine and compares
metrics.jsonl up to the time fields.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "zero": ["recipes/r1_zero.py"],
    "control": ["recipes/r1_zero.py", "--reward_funcs", "coin", "--reward_weights", "1.0"],
    "countdown": ["recipes/r1_zero.py", "--config", "recipes/countdown.yaml"],
    # It starts with most groups solved: fewer of them have signal, and Zero's rate would undo what is there.
    "cold start": ["recipes/r1_zero.py", "--learning_rate", "3e-4", "--max_steps", "40", "--model_name_or_path"],
}
HEADER = (
    "| run | seed | pass@1 | pass@8 | format | length | RL wall | to 0.90 | peak memory | sync |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def run(command: Sequence[str]) -> float:
    """Run a recipe; its peak resident memory in GiB."""
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, *command])
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed with status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 2**20


def measure(name: str, seed: int, folder: Path) -> dict:
    """One run: its summary, and what the summary does not say."""
    output = folder / f"{name.replace(' ', '_')}-{seed}"
    command = [*RUNS[name]]
    if name == "cold start":
        start = folder / f"cold_start_sft-{seed}"
        run(["recipes/cold_start.py", "--output_dir", str(start), "--seed", str(seed)])
        command.append(str(start / "model"))
    memory = run([*command, "--seed", str(seed), "--output_dir", str(output)])
    summary = json.loads((output / "summary.json").read_text())
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    evaluations = [json.loads(line) for line in (output / "evaluations.jsonl").read_text().splitlines()]
    times = [sum(v for k, v in step.items() if k.startswith("time_")) for step in steps]
    return {
        "name": name,
        "seed": seed,
        "summary": summary,
        "memory": memory,
        "sync": statistics.median(s["time_sync"] / t for s, t in zip(steps, times, strict=True)),
        "lengths": [step["completion_length"] for step in steps],
        "steps_to_95": next((e["step"] for e in evaluations if e["pass@1"] >= 0.95), None),
    }


def row(result: dict) -> str:
    """A line of the table."""
    base, trained = result["summary"]["base"], result["summary"]["trained"]
    goal = result["summary"]["seconds_to_goal"]
    low, high = trained["pass@1_interval"]
    return (
        f"| {result['name']} | {result['seed']} | {base['pass@1']:.3f} → **{trained['pass@1']:.3f}** "
        f"[{low:.3f}, {high:.3f}] | {base['pass@8']:.3f} → {trained['pass@8']:.3f} "
        f"| {base['format']:.3f} → {trained['format']:.3f} "
        f"| {base['length']:.1f} → {trained['length']:.1f} (×{trained['length'] / base['length']:.2f}) "
        f"| {result['summary']['wall_seconds']:.0f} s | {'–' if goal is None else f'{goal:.0f} s'} "
        f"| {result['memory']:.2f} GiB | {result['sync']:.1%} |"
    )


def repeats(folder: Path, steps: int = 10) -> bool:
    """Whether the same seed gives the same metrics, bit for bit, with the built-in engine."""
    lines = []
    for attempt in (1, 2):
        output = folder / f"repeat-{attempt}"
        settings = {"rollout": "builtin", "max_steps": steps, "eval_problems": 0, "output_dir": output}
        run(["recipes/r1_zero.py", *(str(part) for k, v in settings.items() for part in (f"--{k}", v))])
        rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        timed = ("time_", "wall_")
        lines.append([{k: v for k, v in r.items() if not k.startswith(timed)} for r in rows])
    return lines[0] == lines[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=[*RUNS, "repeat"], default=[*RUNS, "repeat"])
    parser.add_argument("--output_dir", default="runs/benchmark")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    folder = Path(arguments.output_dir)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    results = []
    for name in (n for n in RUNS if n in arguments.only):
        for seed in arguments.seeds:
            results.append(measure(name, seed, folder))
            print(row(results[-1]), flush=True)
    print("\n" + "\n".join([HEADER, *map(row, results)]))
    for result in results:
        thirds = [result["lengths"][i] for i in (0, len(result["lengths"]) // 2, -1)]
        print(
            f"{result['name']} seed {result['seed']}: held-out pass@1 of 0.95 first seen at step "
            f"{result['steps_to_95']}; length at the first, middle and last step "
            + ", ".join(f"{length:.1f}" for length in thirds)
        )
    if "repeat" in arguments.only:
        same = repeats(folder)
        print(f"the same seed twice gives {'the same' if same else 'DIFFERENT'} metrics")
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

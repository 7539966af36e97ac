"""The MoE line at equal compute: prints the table of presets that stands in docs/models.md.

    python benchmarks/presets.py                                      # all, about 45 minutes on one core
    python benchmarks/presets.py --presets switch deepseek-v3 --budget 2e13

Every tiny preset is pretrained for the same number of floating-point operations: tokens times what a token costs,
forward and backward, in the weights that it uses. So brief a pretraining teaches no more than the easiest part of the
embedded task: sums of two numbers up to 20, asked as they stand in the corpus (`7+12=`), without tags. On these
`recipes/r1_zero.py` then trains by RL, for the right answer alone. Presets run side by side, one on each core.

Loss is nats a token of language; load CV the standard deviation of the experts' loads over their mean, averaged over
layers; pass@1 is on held-out problems.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from statistics import fmean

import torch

from data.charset import byte_tokenizer
from recipes.base_model import EMBEDDED, BaseModelConfig, build_model, save
from rlzero.grpo.config import Options
from rlzero.models.config import MoEConfig
from rlzero.models.count import count_parameters, flops_per_token
from rlzero.models.presets import PRESETS
from rlzero.stages.pretrain import PretrainConfig, pretrain

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = 24  # positions that a token of the corpus attends to on average
SUMS = {"operands": {"2": 1}, "operators": "+-", "max_term": 20, "low": -20, "high": 40, "heldout_one_in": 8}
RL = {
    "dataset_options": json.dumps({**SUMS, "phrasing": "{expression}="}),
    "template": "{prompt}",
    "reward_funcs": "accuracy",
    "reward_weights": 1,
    "num_generations": 8,
    "prompts_per_step": 32,
    "max_completion_length": 8,
    "eval_problems": 96,
    "eval_steps": 0,
    "report_to": "none",
}
HEADER = (
    "| preset | parameters, active | tokens | seconds | loss | load CV | pass@1 before RL | after RL | RL seconds |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def training_flops(config: MoEConfig) -> int:
    """Floating-point operations that training spends on a token: three times those of the forward pass.

    A module of multi-token prediction counts as what it is: one layer of the last one's kind, a projection, the head.
    """
    depth = config.num_nextn_predict_layers
    assert config.mlp_layer_types is not None
    longer = MoEConfig(
        **{
            **config.to_dict(),
            "num_hidden_layers": config.num_hidden_layers + depth,
            "mlp_layer_types": config.mlp_layer_types + config.mlp_layer_types[-1:] * depth,
            "num_nextn_predict_layers": 0,
        }
    )
    forward = flops_per_token(longer, count_parameters(longer), CONTEXT)
    return 3 * (forward + depth * 2 * config.hidden_size * (2 * config.hidden_size + config.vocab_size))


def measure(name: str, budget: float, rl_steps: int, seed: int, folder: Path) -> dict:
    """Pretrain one preset, then RL: what the table says of it."""
    tokenizer = byte_tokenizer()
    model = build_model(BaseModelConfig(preset=name), tokenizer, seed)
    tokens = round(budget / training_flops(model.config))
    brief = PretrainConfig(
        seed=seed,
        tokens=tokens,
        tokens_per_step=1024,
        warmup_steps=30,
        arithmetic_options=Options(SUMS),
        countdown=False,
    )
    done = pretrain(brief, model, tokenizer)
    base, output = folder / name / "base", folder / name / "rl"
    save(model, tokenizer, base)
    settings = {**RL, "model_name_or_path": base, "output_dir": output, "max_steps": rl_steps, "seed": seed}
    words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    subprocess.run([sys.executable, "recipes/r1_zero.py", *words], check=True, stdout=subprocess.DEVNULL)
    summary = json.loads((output / "summary.json").read_text())
    parameters = count_parameters(model.config)
    return {
        "name": name,
        "parameters": parameters.total,
        "active": parameters.active,
        **asdict(done),
        "before": summary["base"],
        "after": summary["trained"],
        "rl_seconds": summary["wall_seconds"],
    }


def row(result: dict) -> str:
    """A line of the table."""
    balance = f"{fmean(result['load_cv']):.2f}" if result["load_cv"] else "–"
    return (
        f"| {result['name']} | {result['parameters'] / 1e6:.2f}M, {result['active'] / 1e6:.2f}M "
        f"| {result['tokens'] / 1e6:.2f}M | {result['seconds']:.0f} | {result['loss']:.3f} | {balance} "
        f"| {result['before']['pass@1']:.3f} | **{result['after']['pass@1']:.3f}** | {result['rl_seconds']:.0f} |"
    )


def take_core(cores: Queue[int]) -> None:
    """One core for this worker and for what it starts: threads of two runs on the same cores slow each other down."""
    os.sched_setaffinity(0, {cores.get()})
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*PRESETS, EMBEDDED]
    parser.add_argument("--presets", nargs="+", choices=names, default=names)
    parser.add_argument("--budget", type=float, default=5e12, help="floating-point operations of each pretraining")
    parser.add_argument("--rl_steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", default="runs/presets")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    folder = Path(arguments.output_dir)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    spawn = multiprocessing.get_context("spawn")
    cores = spawn.Queue()
    available = sorted(os.sched_getaffinity(0))
    for core in available:
        cores.put(core)
    one = partial(
        measure, budget=arguments.budget, rl_steps=arguments.rl_steps, seed=arguments.seed, folder=folder.absolute()
    )
    with ProcessPoolExecutor(len(available), spawn, take_core, (cores,)) as pool:
        results = list(pool.map(one, arguments.presets))
    print("\n" + "\n".join([HEADER, *map(row, results)]))
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

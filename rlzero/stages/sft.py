"""Cold start: supervised fine-tuning on long, correct thoughts before RL (DeepSeek-R1, 2501.12948, section 2.3.1)."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import datasets
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from data.problem import Problem
from data.sources import load_source
from data.templates import Template, get_template
from data.thoughts import GENERATORS, load_thoughts
from rlzero.grpo.config import ModelConfig
from rlzero.grpo.parse import parse_settings
from rlzero.grpo.trainer import derived_seed
from rlzero.measure.evaluate import EvalResult, evaluate
from rlzero.models.load import check_model, context_length, load_model, load_tokenizer
from rlzero.report.records import as_yaml, write_atomically
from rlzero.report.run_dir import RunDirectory
from rlzero.report.tables import show_header, show_summary
from rlzero.rollout.make import make_engine
from rlzero.rollout.types import Sampling
from rlzero.stages.config import StageConfig, ThoughtsConfig
from rlzero.stages.tokens import Encoded, encode_thoughts

# The loss before and after is measured on so many thoughts at most.
LOSS_THOUGHTS = 256


@dataclass(frozen=True)
class ColdStart:
    """A stage that is ready to run."""

    model_path: str
    config: StageConfig
    arguments: SFTConfig
    template: Template
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    encoded: list[Encoded]
    heldout: dict[str, list[Problem]]
    directory: RunDirectory


def main(argv: Sequence[str], default_config: Path) -> int:
    """Exit code: 0 done, 2 settings or thoughts that cannot work, 1 a training that failed underway."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    try:
        stage = set_up(*parse_settings(argv, default_config, (ModelConfig, ThoughtsConfig, StageConfig)))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        run(stage)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def set_up(model_config: ModelConfig, thoughts_config: ThoughtsConfig, config: StageConfig) -> ColdStart:
    """Check, read and tokenize everything, in the order in which faults cost least time to find."""
    template = get_template(thoughts_config.template)
    path, revision, trusted = (
        model_config.model_name_or_path,
        model_config.model_revision,
        model_config.trust_remote_code,
    )
    context = context_length(check_model(path, trusted, revision))
    thoughts = [
        thought
        for name in thoughts_config.thoughts
        for thought in load_thoughts(
            name, thoughts_config.num_thoughts, config.seed, thoughts_config.per_problem, thoughts_config.from_step
        )
    ]
    # A part of them, as the loss is measured on, then holds some of every source.
    Random(f"order of thoughts {config.seed}").shuffle(thoughts)
    tokenizer = load_tokenizer(path, trusted, revision)
    limit = min(filter(None, (thoughts_config.max_length, context)), default=None)
    encoded, left_out = encode_thoughts(thoughts, template, tokenizer, limit)
    tasks = config.eval_tasks
    if tasks is None:
        tasks = [name for name in thoughts_config.thoughts if name in GENERATORS]
    heldout = {name: load_source(name).heldout(config.eval_problems) for name in tasks} if config.eval_problems else {}
    directory = RunDirectory(config.output_dir)
    directory.check_usable(resume=False)
    arguments = training_arguments(model_config, config)
    arguments.distributed_state.wait_for_everyone()
    if arguments.process_index == 0:
        settings = asdict(model_config) | asdict(thoughts_config) | asdict(config)
        write_atomically(directory.config_yaml, as_yaml(settings).encode())
        lines = "".join(json.dumps(asdict(thought), ensure_ascii=False) + "\n" for thought in thoughts)
        write_atomically(directory.path / "thoughts.jsonl", lines.encode())
        facts = {
            "model": path,
            "thoughts": f"{len(encoded)} from {', '.join(thoughts_config.thoughts)}"
            + (f"; {left_out} longer than {limit} tokens left out" if left_out else ""),
            "tokens": f"{sum(len(e.completion_ids) for e in encoded):,} to learn, "
            f"{sum(map(len, encoded)):,} with the prompts",
            "template": template.name,
            "updates": f"{config.num_train_epochs:g} epochs, learning rate {config.learning_rate:g}",
            "output": str(directory.path),
        }
        show_header("rlzero: cold start", facts)
    model = load_model(path, model_config.dtype, model_config.attn_implementation, trusted, revision)
    return ColdStart(path, config, arguments, template, model, tokenizer, encoded, heldout, directory)


def run(stage: ColdStart) -> dict[str, Any]:
    """Measure, fine-tune, save, measure again. Returns what summary.json holds."""
    start = time.perf_counter()
    trainer = make_trainer(stage)
    before = measure(stage, trainer)
    trainer.train()
    after = measure(stage, trainer)
    trainer.save_model(str(stage.directory.model))  # a collective where the model is sharded
    summary = {
        "thoughts": len(stage.encoded),
        "tokens": sum(len(e.completion_ids) for e in stage.encoded),
        "steps": trainer.state.global_step,
        "loss_before": before.loss,
        "loss_after": after.loss,
        "tasks": {
            name: {"base": before.tasks[name].summary(), "trained": after.tasks[name].summary()}
            for name in before.tasks
        },
        "wall_seconds": time.perf_counter() - start,
    }
    if trainer.accelerator.is_main_process:
        (stage.directory.model / "training_args.bin").unlink(missing_ok=True)
        stage.directory.write_summary(summary)
        report(stage, summary)
    return summary


def training_arguments(model_config: ModelConfig, config: StageConfig) -> SFTConfig:
    """What TRL's trainer is told. Making it also joins this process to the others of the launch."""
    return SFTConfig(
        output_dir=config.output_dir,
        num_train_epochs=config.num_train_epochs,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=model_config.computes_in_bfloat16,
        gradient_checkpointing=model_config.gradient_checkpointing,
        # Tokens come ready: nothing is left for TRL to tokenize, pack or cut off.
        completion_only_loss=True,
        max_length=None,
        packing=False,
        seed=config.seed,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def make_trainer(stage: ColdStart) -> SFTTrainer:
    """TRL's trainer over the thoughts."""
    trainer = SFTTrainer(
        model=stage.model,
        args=stage.arguments,
        train_dataset=datasets.Dataset.from_list([e.row() for e in stage.encoded]),
        processing_class=stage.tokenizer,
        callbacks=[_Recorder(stage.directory)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@dataclass(frozen=True)
class Measured:
    """How the model stands: nats a token on the thoughts, and its samples on held-out problems by task."""

    loss: float
    tasks: dict[str, EvalResult]


def measure(stage: ColdStart, trainer: SFTTrainer) -> Measured:
    """Loss on the thoughts, and held-out problems sampled by the built-in engine from the model as it is."""
    few = trainer.train_dataset.select(range(min(LOSS_THOUGHTS, len(trainer.train_dataset))))
    loss = float(trainer.evaluate(few)["eval_loss"])
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss on the thoughts is {loss} after {trainer.state.global_step} updates: the weights are "
            "destroyed. Lower learning_rate."
        )
    if trainer.is_fsdp_enabled:  # a sharded model cannot be sampled from by itself
        return Measured(loss, {})
    model, config = trainer.accelerator.unwrap_model(trainer.model), stage.config
    engine = make_engine(
        "builtin",
        model=model,
        model_path=stage.model_path,
        tokenizer=stage.tokenizer,
        max_model_len=context_length(model.config) or 2**20,
        dtype=torch.bfloat16 if trainer.args.bf16 else model.dtype,
    )
    sampling = Sampling(
        n=config.eval_samples, max_tokens=config.max_completion_length, seed=derived_seed(config.seed, "evaluation")
    )
    results = {
        name: evaluate(
            engine, stage.tokenizer, problems, stage.template, sampling, max_model_len=engine.max_model_len
        )
        for name, problems in stage.heldout.items()
    }  # fmt: skip
    return Measured(loss, results)


def report(stage: ColdStart, summary: dict[str, Any]) -> None:
    """What came of it, and how to go on."""
    for name, figures in summary["tasks"].items():
        print(f"held-out {name}, before and after the cold start")
        show_summary(figures)
    print(
        f"{summary['thoughts']} thoughts, {summary['tokens']:,} tokens, {summary['steps']} updates in "
        f"{summary['wall_seconds']:.0f} s: loss {summary['loss_before']:.3f} -> {summary['loss_after']:.3f} nats a "
        f"token\nGo on with: python recipes/r1_zero.py --model_name_or_path {stage.directory.model}"
    )


class _Recorder(TrainerCallback):
    """One line of metrics.jsonl an update, in the names of the other stages."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs and "loss" in logs:
            names = {"mean_token_accuracy": "token_accuracy"}
            kept = ("loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy")
            row = {names.get(key, key): logs[key] for key in kept if key in logs}
            self.directory.log_metrics({"step": state.global_step} | row)

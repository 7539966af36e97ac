"""Everything that can be wrong with a run is found here, before anything long starts."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import PreTrainedTokenizerBase

from data.problem import Problem, ProblemSource
from data.sources import load_source
from data.templates import Template, get_template
from rewards.registry import Reward, load_rewards, probe
from rlzero.grpo.checkpoint import load_checkpoint
from rlzero.grpo.combinations import check_combinations, check_pool, check_processes, check_rewards
from rlzero.grpo.config import ConfigError, Recipe, as_plain_config
from rlzero.grpo.curriculum import Curriculum
from rlzero.grpo.ending import watch_others
from rlzero.grpo.engine import engine_device, start_engine
from rlzero.grpo.moe import check_experts
from rlzero.grpo.overlap import runs_in_thread
from rlzero.grpo.problems import ProblemFeed
from rlzero.grpo.processes import make_accelerator
from rlzero.grpo.resume import StartingPoint, starting_point
from rlzero.grpo.scoring import Scorer
from rlzero.grpo.trainer import GRPOTrainer
from rlzero.measure.text import encode_prompt, reward_columns
from rlzero.models.adapter import add_adapters
from rlzero.models.load import check_model, context_length, load_model, load_tokenizer
from rlzero.report.run_dir import RunDirectory
from rlzero.report.trackers import tracker_names
from rlzero.rollout.make import check_sleep_mode, resolve_engine

# Prompts that are measured before training; a generator is endless, so this many stand for it.
MEASURED_PROMPTS = 256


@dataclass(frozen=True)
class Run:
    """A run that is ready to train. elapsed: wall seconds it has had before, when it is resumed; notes: on that."""

    recipe: Recipe
    accelerator: Accelerator
    trainer: GRPOTrainer
    tokenizer: PreTrainedTokenizerBase
    checked: Checked
    source: ProblemSource
    heldout: list[Problem]
    directory: RunDirectory
    elapsed: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """What the cheap checks found; a dry run ends with it."""

    template: Template
    rewards: tuple[Reward, ...]
    engine: str
    trackers: list[str]
    bf16: bool


def check(recipe: Recipe) -> Checked:
    """Names, weights, signatures and combinations: reads no model and no data."""
    check_combinations(recipe)
    engine = resolve_engine(recipe.rollout.rollout)
    if recipe.rollout.vllm_enable_sleep_mode:
        check_sleep_mode(engine)
    rewards = load_rewards(recipe.reward.reward_funcs, recipe.reward.reward_weights)
    check_rewards(recipe, rewards)
    return Checked(
        template=get_template(recipe.data.template),
        rewards=rewards,
        engine=engine,
        trackers=tracker_names(recipe.run.report_to),
        bf16=recipe.model.computes_in_bfloat16,
    )


def set_up(recipe: Recipe) -> Run:
    """Check, load, and start the engine, in the order in which faults cost least time to find."""
    checked = check(recipe)
    model_path = recipe.model.model_name_or_path
    revision, trusted = recipe.model.model_revision, recipe.model.trust_remote_code
    config = check_model(model_path, trusted, revision)
    if recipe.reference.ref_model_name_or_path is not None:
        check_model(recipe.reference.ref_model_name_or_path, trusted, None)
    source = open_source(recipe)
    curriculum = make_curriculum(recipe, source)
    tokenizer = load_tokenizer(model_path, trusted, revision)
    # Always asked for: a run should not find out after training that nothing was held out.
    quick = recipe.run.eval_quick_problems if recipe.run.eval_steps else 1
    heldout = source.heldout(max(recipe.run.eval_problems, quick), seed=0)
    if not heldout:
        raise ConfigError(
            f"problems must be left to hold out, and dataset_name={recipe.data.dataset_name!r} with dataset_options="
            f"{dict(recipe.data.dataset_options)} has none. Widen its options."
        )
    # A table is measured whole, its longest questions first.
    sample = [source.train(recipe.run.seed, index) for index in range(_size(source))]
    sample = sorted(sample, key=lambda problem: len(problem.prompt), reverse=True)[:MEASURED_PROMPTS]
    model_length = fitting_length(recipe, checked.template, tokenizer, [*sample, *heldout], context_length(config))
    rewards = tuple(probed(reward, checked.template, tokenizer, sample[0]) for reward in checked.rewards)
    overlap = runs_in_thread(
        lambda: [probed(reward, checked.template, tokenizer, sample[0]) for reward in rewards],
        recipe.reward.overlap_rewards,
    )
    checked = replace(checked, rewards=rewards)

    directory = RunDirectory(recipe.run.output_dir)
    directory.check_usable(recipe.run.resume)
    start = starting_point(directory, recipe) if recipe.run.resume else StartingPoint(None, ())

    accelerator = make_accelerator(checked.bf16, log_with=checked.trackers or None, project_dir=recipe.run.output_dir)
    watch_others()
    check_processes(recipe, accelerator.num_processes)
    device = engine_device(recipe, checked.engine, accelerator)
    set_seed(recipe.run.seed, device_specific=True)
    model = load_model(model_path, recipe.model.dtype, recipe.model.attn_implementation, trusted, revision)
    check_experts(model, recipe.grpo)
    adapter = recipe.model
    if adapter.lora_r is not None:
        add_adapters(model, adapter.lora_r, adapter.lora_alpha, adapter.lora_target_modules, recipe.run.seed)
    if recipe.model.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    engine = start_engine(
        recipe, accelerator, device, model, tokenizer,
        max_model_len=recipe.rollout.vllm_max_model_length or model_length, bf16=checked.bf16,
    )  # fmt: skip
    feed = ProblemFeed(
        source, checked.template, tokenizer, recipe.run.seed, accelerator.process_index, accelerator.num_processes,
        curriculum,
    )  # fmt: skip
    scorer = Scorer(checked.rewards, checked.template, tokenizer, overlap)
    trainer = GRPOTrainer(recipe, accelerator, model, engine, feed, scorer, tokenizer.pad_token_id)
    if accelerator.is_fsdp2:  # only now has every process the weights
        engine.sync(accelerator.unwrap_model(trainer.model), 0)
    elapsed = 0.0 if start.checkpoint is None else load_checkpoint(trainer, start.checkpoint)
    # Last, so that a set-up that fails leaves no run behind.
    if accelerator.is_main_process:
        directory = RunDirectory.create(recipe.run.output_dir, as_plain_config(recipe), recipe.run.resume)
    accelerator.wait_for_everyone()
    return Run(recipe, accelerator, trainer, tokenizer, checked, source, heldout, directory, elapsed, start.notes)


def open_source(recipe: Recipe) -> ProblemSource:
    """The problems that the data settings name."""
    data = recipe.data
    return load_source(
        data.dataset_name,
        config_name=data.dataset_config,
        split=data.dataset_train_split,
        eval_split=data.dataset_test_split,
        revision=data.dataset_revision,
        prompt_column=data.prompt_column,
        answer_column=data.answer_column,
        options=data.dataset_options,
    )


def make_curriculum(recipe: Recipe, source: ProblemSource) -> Curriculum | None:
    """Over the whole of a table, or the beginning of a generator's stream; None where none is asked for."""
    selection = recipe.selection
    if selection.curriculum == "none":
        return None
    size = len(source) if isinstance(source, Sized) else selection.curriculum_pool
    check_pool(recipe, size)
    return Curriculum(size, selection.curriculum, recipe.run.seed)


def fitting_length(
    recipe: Recipe,
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    context: int | None,
) -> int:
    """Tokens of the longest prompt and a completion together. ConfigError where the model's context is shorter."""
    lengths = [len(encode_prompt(template, problem.prompt, tokenizer)) for problem in problems]
    longest, room = max(lengths), recipe.rollout.max_completion_length
    if context is not None and longest + room > context:
        worst = problems[lengths.index(longest)].prompt
        raise ConfigError(
            f"prompt and completion must fit into the model's {context} tokens: the longest prompt has {longest} "
            f"({worst[:60]!r}) and max_completion_length is {room}. Lower max_completion_length to at most "
            f"{max(context - longest, 0)}, choose a shorter template than {template.name!r}, or leave long "
            "problems out."
        )
    # Room for problems of an endless generator that are a little longer than those measured.
    wanted = longest + max(16, longest // 4) + room
    return wanted if context is None else min(wanted, context)


def probed(reward: Reward, template: Template, tokenizer: PreTrainedTokenizerBase, problem: Problem) -> Reward:
    """The reward after one call on a real problem with an invented answer: wrong signatures show here."""
    text = f"{template.prefill}2 + 2 = 4</think><answer>4</answer>"
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"]]
    return probe(reward, [template.render(problem.prompt, tokenizer)], [text], reward_columns([problem]), ids)


def describe(recipe: Recipe, checked: Checked) -> dict[str, Any]:
    """What a run will do, in words, from its settings alone."""
    rollout, grpo = recipe.rollout, recipe.grpo
    weights = ", ".join(f"{reward.name} × {reward.weight:g}" for reward in checked.rewards)
    place = "" if rollout.rollout_device is None else f" on {rollout.rollout_device}"
    return {
        "model": recipe.model.model_name_or_path,
        "problems": f"{recipe.data.dataset_name}, template {checked.template.name}",
        "rewards": weights,
        "rollouts": f"{checked.engine}{place}: {grpo.prompts_per_rollout} problems × {rollout.num_generations} "
        f"completions of at most {rollout.max_completion_length} tokens",
        "updates": f"{grpo.max_steps} steps, {grpo.updates_per_rollout} per rollout, each on {grpo.prompts_per_step} "
        f"problems; learning rate {grpo.learning_rate:g} ({grpo.lr_scheduler_type})",
        "objective": ", ".join(objective_words(recipe)),
        "precision": "bfloat16 compute" if checked.bf16 else recipe.model.dtype,
        "output": str(Path(recipe.run.output_dir)),
    }


def objective_words(recipe: Recipe) -> list[str]:
    """What is descended, as far as it is not how it always is."""
    objective, reference, selection = recipe.objective, recipe.reference, recipe.selection
    words = [f"{objective.advantage} advantage", f"{objective.loss_type} loss"]
    if reference.beta:
        place = "loss" if reference.in_loss else "reward"
        words.append(f"{reference.beta:g} × KL ({reference.kl_estimator}) in the {place}")
    if reference.sync_ref_model:
        words.append(f"reference moved every {reference.ref_model_sync_steps} steps")
    if objective.entropy_coef:
        words.append(f"entropy bonus {objective.entropy_coef:g}")
    if recipe.correction.mode:
        words.append(f"importance sampling correction {recipe.correction.mode}")
    if selection.dynamic_sampling:
        words.append(f"dynamic sampling up to {selection.max_generation_batches} times")
    if selection.curriculum != "none":
        words.append(f"curriculum by {selection.curriculum}")
    if recipe.model.lora_r is not None:
        words.append(f"adapters of rank {recipe.model.lora_r} alone")
    return words


def _size(source: ProblemSource) -> int:
    """Problems before the stream repeats; endless for a generator."""
    return len(source) if isinstance(source, Sized) else MEASURED_PROMPTS

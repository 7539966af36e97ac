"""GRPO steps of TRL, for versus_trl.py."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from drawn import GROUP, LONGEST, reward
from versus_sides import RATE, SEED, Clock, Report, Settings, Wait, lengths_of, make_recipe


def run(engine: str, settings: Settings, wait: Wait, report: Report) -> None:
    """GRPOTrainer of TRL with its defaults, but for what both must share: float32, no gradient checkpointing, no loss
    that balances experts, answers in a microbatch."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from data.templates import get_template
    from rlzero.grpo.setup import open_source

    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype="float32")
    if hasattr(model.config, "router_aux_loss_coef"):
        model.config.router_aux_loss_coef = 0.0
    clock, count = Clock(), settings.prompts * GROUP
    lengths = lengths_of(settings, 0)
    tokens = [0, 0]

    class Told(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not wait():
                raise SystemExit
            lengths[:] = lengths_of(settings, state.global_step)
            clock.restart()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            report(clock.figures() | {"tokens": [*tokens]})

    def note(prompts: Sequence[str], completions: Sequence[str], completion_ids: Any, **columns: Any) -> list[float]:
        tokens[:] = sum(len(tokenizer(p)["input_ids"]) for p in prompts), sum(map(len, completion_ids))
        return reward(completions)

    with tempfile.TemporaryDirectory() as folder:
        recipe = make_recipe("builtin", settings, folder)
        source, template = open_source(recipe), get_template(recipe.data.template)
        asked = [source.train(SEED, index).prompt for index in range(settings.prompts * settings.steps)]
        prompts = [template.render(question, tokenizer) for question in asked]
        longest = max(len(tokenizer(prompt)["input_ids"]) for prompt in prompts) + LONGEST
        rows = max(n for n in range(1, settings.rows + 1) if count % n == 0)
        if engine == "vllm":
            _cure_vllm(model, settings.model, longest, count, lengths)
        trainer = GRPOTrainer(
            model,
            note,
            args=GRPOConfig(
                output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], seed=SEED,
                disable_tqdm=True, save_strategy="no", shuffle_dataset=False, max_steps=settings.steps,
                learning_rate=RATE, num_generations=GROUP, max_completion_length=LONGEST, temperature=1.0,
                per_device_train_batch_size=rows, gradient_accumulation_steps=count // rows,
                use_vllm=engine == "vllm", vllm_mode="colocate", vllm_max_model_length=longest,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            callbacks=[Told()],
        )  # fmt: skip
        if engine == "vllm":
            clock.wrap(trainer.vllm_generation, "sync_weights", "sync")
            clock.wrap(trainer.vllm_generation, "generate", "generate")
        else:
            _end_transformers(trainer.model, tokenizer.eos_token_id, lengths)
            clock.wrap(trainer, "_generate_single_turn", "generate")
        clock.wrap(trainer, "_calculate_rewards", "generate")
        trainer.train()


def _end_transformers(model: Any, eos: int, lengths: np.ndarray) -> None:
    import torch

    class Ends:
        """A logits processor, for one call of `generate`."""

        def __init__(self) -> None:
            self.made = 0

        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self.made += 1
            due = torch.from_numpy(np.flatnonzero(lengths == self.made))
            scores[:, eos] = -torch.inf
            scores[due] = -torch.inf
            scores[due, eos] = 0
            return scores

    generate = model.generate
    model.generate = lambda **kwargs: generate(**kwargs, logits_processor=[Ends()])


def _cure_vllm(model: Any, path: str, max_model_len: int, max_num_seqs: int, lengths: np.ndarray) -> None:
    """Let TRL's colocated engine run on a CPU: by the options that ours has, its weights by vLLM's own transfer API.

    As it stands it writes weights into the engine's model by hand, and dies of the packed layers of a CPU
    ('Parameter' object has no attribute 'weight_loader').
    """
    from trl.generation import vllm_generation
    from vllm import LLM
    from vllm.config import WeightTransferConfig

    from rlzero.rollout.checkpoint_weights import CheckpointWeights
    from rlzero.rollout.vllm_cpu_options import cpu_options
    from rlzero.rollout.vllm_engine import BACKEND

    def make(**options: Any) -> LLM:
        own = {"dtype": "float32", "enforce_eager": True, "generation_config": "vllm"}
        own |= cpu_options(model.config, "float32", max_model_len, max_num_seqs)
        llm = LLM(**options | own, weight_transfer_config=WeightTransferConfig(backend=BACKEND))
        llm.init_weight_transfer_engine({"init_info": {}})
        generate = llm.generate

        def ended(prompts: Any, sampling_params: Any, **kwargs: Any) -> Any:
            each = [sampling_params.clone() for _ in prompts]
            for params, length in zip(each, lengths.tolist(), strict=True):
                params.max_tokens, params.ignore_eos = length, True
            return generate(prompts, each, **kwargs)

        llm.generate = ended
        return llm

    def sync(generation: Any) -> None:
        generation.llm.start_weight_update()
        generation.llm.update_weights({"update_info": {"weights": weights}})
        generation.llm.finish_weight_update("")
        generation.llm.reset_prefix_cache()

    weights = CheckpointWeights(model)
    vllm_generation.LLM = make
    vllm_generation.VLLMGeneration.sync_weights = sync

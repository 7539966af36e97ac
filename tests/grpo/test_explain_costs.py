"""What `rlzero explain` says that a recipe costs: sizes, memory and time, against figures computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

from rlzero.grpo.batch import TrainingSample, pack
from rlzero.grpo.explain.architecture import Architecture, measure, read_architecture
from rlzero.grpo.explain.duration import estimate_duration, generation_seconds
from rlzero.grpo.explain.memory import Precision, activation_bytes, estimate_memory, logits_bytes, precision
from rlzero.grpo.explain.place import Place
from rlzero.grpo.explain.plan import make_plan
from rlzero.grpo.explain.rates import Rates
from rlzero.grpo.explain.work import Work
from rlzero.grpo.policy import policy_logprobs, prepare_policy
from tests.grpo.explain_pieces import lengths
from tests.grpo.pieces import make_recipe, make_rollout

CPU = Place("cpu", "this CPU", 1, False, 0, False, 1)


def llama(**changes: object) -> LlamaConfig:
    small = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    return LlamaConfig(**{**small, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, **changes})


def qwen_moe() -> Qwen3MoeConfig:
    return Qwen3MoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, moe_intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=8, num_experts_per_tok=2,
    )  # fmt: skip


def built(config, device: str = "meta"):
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config)


def by_name(parts) -> dict[str, float]:
    return {part.name: part.bytes for part in parts}


def test_the_sizes_of_a_dense_model_are_those_of_its_matrices() -> None:
    found = measure(built(llama()))
    layer = 32 * (32 + 16 + 16) + 32 * 32 + 3 * 32 * 48 + 2 * 32
    assert found.parameters.total == 2 * 96 * 32 + 2 * layer + 32
    assert (found.query_width, found.key_width, found.value_width, found.mlp_width) == (32, 16, 16, 48)
    assert found.cached == 2 * (16 + 16)
    assert found.head_flops == 2 * 96 * 32
    assert found.flops(10) == 2 * (2 * layer + 32 + 2 * 10 * (32 + 32))


def test_a_token_runs_its_chosen_experts_only() -> None:
    found = measure(built(qwen_moe()))
    idle = 2 * (8 - 2) * 3 * 32 * 24
    assert found.parameters.total - found.parameters.active == idle
    assert (found.experts, found.chosen, found.mlp_width, found.mlp_inputs) == (8, 2, 48, 2)


@pytest.mark.parametrize("config", [llama(), qwen_moe()], ids=["dense", "experts, normed queries"])
def test_activations_are_what_the_backward_pass_keeps(config) -> None:
    model = built(config, "cpu").train()
    assert prepare_policy(model)
    rng = np.random.default_rng(0)
    rollouts = [make_rollout(rng, 12, 20) for _ in range(20)]
    for rollout in rollouts:
        for ids in (rollout.prompt_ids, rollout.completion_ids):
            ids %= 96
    (batch,) = pack([TrainingSample(r, 1.0, 1.0) for r in rollouts], 10_000, 0, shared_prefix=False)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _ = policy_logprobs(model, batch, 1.0)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    measured = sum(size for pointer, size in kept.items() if pointer not in weights)
    tokens = len(batch.packed.tokens)
    assert activation_bytes(measure(model), tokens, Precision(4, 4), False) == pytest.approx(measured, rel=0.1)


def test_recomputing_keeps_a_layers_input_and_one_layer() -> None:
    found = measure(built(llama(num_hidden_layers=10)))
    whole, less = (activation_bytes(found, 100, Precision(4, 4), recomputes) for recomputes in (False, True))
    last = 100 * 3 * 32 * 4
    assert less == (whole - last) / 10 + 100 * 10 * 32 * 4 + last


def test_logits_are_a_chunk_however_many_tokens_there_are() -> None:
    found = measure(built(llama()))
    assert logits_bytes(found, 50, "cpu") == 2 * 50 * 96 * 4
    assert logits_bytes(found, 10**9, "cpu") == 2 * (2**23 // 96) * 96 * 4
    assert logits_bytes(found, 10**9, "cuda") == 2 * (2**26 // 96) * 96 * 4


@pytest.mark.parametrize(
    ("place", "beta", "expected"),
    # Bytes a parameter: weights, gradients, optimizer, reference, DDP's buckets.
    [
        (CPU, 0.0, [4, 4, 8, None, None]),
        (CPU, 0.1, [4, 4, 8, 4, None]),
        (Place("cpu", "", 2, False, 0, False, 1), 0.1, [4, 4, 8, 4, 4]),
        (Place("cpu", "", 2, True, 0, False, 1), 0.1, [2, 2, 4, 2, None]),
    ],
    ids=["alone", "with a reference", "DDP", "FSDP"],
)
def test_memory_counts_every_copy_of_the_weights(place: Place, beta: float, expected: list[float | None]) -> None:
    recipe = make_recipe(beta=beta, bf16=False)
    config = llama()
    found = measure(built(config))
    memory = estimate_memory(recipe, found, config, place, lengths(), 100, "builtin", libraries=1000.0)
    parts = by_name(memory.resident)
    names = ("weights", "gradients", "optimizer", "reference", "gradient buckets")
    total = found.parameters.total
    assert [parts.get(name) for name in names] == [None if each is None else each * total for each in expected]
    assert parts["libraries"] == 1000
    assert memory.peak == sum(part.bytes for part in memory.parts)


def test_the_larger_of_training_and_generation_counts() -> None:
    recipe, config = make_recipe(bf16=False, max_num_seqs=50), llama()
    found = measure(built(config))
    quiet, busy = (
        estimate_memory(recipe, found, config, CPU, lengths(limit=limit), 1000, "builtin", 0.0) for limit in (6, 6000)
    )
    assert "cache" not in by_name(quiet.parts)
    assert by_name(busy.parts)["cache"] == 2 * 50 * (10 + 6000) * 2 * 32 * 4
    assert "activations" not in by_name(busy.parts)


def test_of_adapters_alone_there_are_gradients(tmp_path: Path) -> None:
    llama(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    recipe = make_recipe(
        model_name_or_path=str(tmp_path), lora_r=2, lora_target_modules=["q_proj"], beta=0.1, bf16=False
    )
    found, config = read_architecture(recipe.model)
    assert found.trained == 2 * 2 * (32 + 32)  # layers × rank × (in + out)
    parts = by_name(estimate_memory(recipe, found, config, CPU, lengths(), 100, "builtin", 0.0).resident)
    assert parts["weights"] == 4 * (found.parameters.total + found.trained)
    assert (parts["gradients"], parts["optimizer"]) == (4 * found.trained, 8 * found.trained)
    assert "reference" not in parts  # it is the model without its adapters


def test_a_sleeping_engine_counts_only_while_it_generates() -> None:
    place, config = Place("cuda", "a GPU", 1, False, 10**12, True, 1), llama()
    recipe = make_recipe({"rollout": "vllm"}, vllm_enable_sleep_mode=True)
    memory = estimate_memory(recipe, measure(built(config)), config, place, lengths(), 100, "vllm", 0.0)
    assert "engine" in by_name(memory.generation)
    assert "engine" not in by_name(memory.resident)


def test_on_a_gpu_the_engine_takes_its_share_and_products_are_in_bfloat16() -> None:
    recipe, config = make_recipe(vllm_gpu_memory_utilization=0.25), llama()
    place, found = Place("cuda", "a GPU", 1, False, 1000, True, 1), measure(built(llama()))
    assert precision(recipe, found, place) == Precision(4, 2)
    memory = estimate_memory(recipe, found, config, place, lengths(), 100, "vllm", 0.0)
    parts = by_name(memory.parts)
    assert parts["engine"] == 250
    assert "which do not fit" in next(part.how for part in memory.parts if part.name == "engine")
    assert parts["computed weights"] == 2 * found.parameters.total


@pytest.mark.parametrize("engine", ["vllm", "builtin"])
def test_an_engine_in_a_process_of_its_own_is_not_counted_in_the_trainers(engine: str) -> None:
    config, found = llama(), measure(built(llama()))
    recipe = make_recipe(rollout_device="cpu", bf16=False)
    memory = estimate_memory(recipe, found, config, CPU, lengths(), 100, engine, 0.0)
    assert memory.generation == []
    assert by_name(memory.resident)["shared weights"] == 4 * found.parameters.total
    gpu = Place("cuda", "a GPU", 1, False, 10**12, True, 1)
    names = by_name(estimate_memory(recipe, found, config, gpu, lengths(), 100, engine, 0.0).parts)
    assert not {"engine", "cache", "shared weights"} & names.keys()


RATES = Rates(
    token=1e-3, microbatch=0.1, forward=0.25, step=0.01, row=1e-4, prompt=1e-3, block=1, answer=0.0, score=1e-3,
    optimizer=0.5, sync=0.2, start=7.0, how="by hand",
)  # fmt: skip


def test_generation_is_steps_of_the_longest_answer_and_rows_of_all() -> None:
    # Two batches of 4 rows, 6 steps each; 8 answers of 6 tokens; 2 prompts of 10 tokens.
    assert generation_seconds(lengths(), 8, 2, 4, RATES) == pytest.approx(12 * 0.01 + 48 * 1e-4 + 20 * 1e-3)


def test_what_is_left_of_a_prompt_after_whole_blocks_is_read_for_each_answer() -> None:
    blocks = Rates(**{**vars(RATES), "block": 8, "step": 0.0, "row": 0.0})
    assert generation_seconds(lengths(), 8, 2, 4, blocks) == pytest.approx((2 * 10 + 6 * 2) * 1e-3)


@pytest.mark.parametrize(
    ("settings", "passes"),
    # Passes with gradient, and those without, of a minibatch each.
    [
        ({}, (1, 0)),
        ({"num_iterations": 2}, (2, 1)),
        ({"steps_per_generation": 4}, (4, 3)),
        ({"steps_per_generation": 4, "old_logprobs": "sampler"}, (4, 0)),
        ({"steps_per_generation": 2, "num_iterations": 2, "beta": 0.1}, (4, 4)),
        ({"beta": 0.1, "kl_in_reward": True}, (1, 2)),
        ({"top_entropy_quantile": 0.2}, (1, 1)),
    ],
)
def test_training_counts_every_pass_of_every_update(settings: dict, passes: tuple[int, int]) -> None:
    recipe = make_recipe(**settings, max_steps=8, prompts_per_step=2, num_generations=4, max_completion_length=6)
    plan, work = make_plan(recipe, 1), Work(80, 48, 1000, 1000, 4, 4, 250, False)
    spent = estimate_duration(recipe, plan, lengths(signal=0.5), work, RATES)
    once = 500 * 1e-3 + 2 * 0.1
    assert spent.training == pytest.approx(passes[0] * (once + 0.5) + passes[1] * 0.25 * once)
    assert spent.step == pytest.approx(spent.rollout / plan.updates_per_rollout)
    assert spent.run == pytest.approx(7 + plan.rollouts * spent.rollout + spent.evaluations)


def test_a_rollout_ahead_hides_the_shorter_part() -> None:
    recipe = make_recipe(max_async_level=1, max_steps=8, prompts_per_step=2, num_generations=4, max_completion_length=6)
    work = Work(80, 48, 1000, 1000, 4, 4, 250, False)
    spent = estimate_duration(recipe, make_plan(recipe, 1), lengths(), work, RATES)
    assert spent.training > spent.generation
    assert spent.rollout == pytest.approx(spent.training + spent.sync)


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        (
            {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "vocab_size": 151936,
             "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
             "tie_word_embeddings": True},
            494_032_768, 494_032_768,
        ),
        (
            {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048,
             "vocab_size": 151936, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
             "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
             "tie_word_embeddings": False},
            30_532_122_624, 3_353_032_704,
        ),
    ],
    ids=["Qwen2.5-0.5B", "Qwen3-30B-A3B"],
)  # fmt: skip
def test_a_folder_with_a_configuration_alone_is_enough(tmp_path: Path, config: dict, total: int, active: int) -> None:
    """The figures are those of the released checkpoints."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    found, _ = read_architecture(make_recipe(model_name_or_path=str(tmp_path)).model)
    assert isinstance(found, Architecture)
    assert (found.parameters.total, found.parameters.active) == (total, active)

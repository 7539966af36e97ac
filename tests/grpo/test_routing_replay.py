"""What replaying the engine's routing is for, and that it works in several processes."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from data.charset import byte_tokenizer
from data.problem import Problem
from rlzero.grpo.batch import ScoredGroup
from rlzero.models.load import load_model
from rlzero.models.routing import router_layers, router_modules
from rlzero.report.run_dir import read_metrics
from rlzero.rollout.builtin import BuiltinEngine
from rlzero.rollout.types import Sampling
from tests.grpo.launching import LAYOUTS, run_two
from tests.grpo.pieces import PAD, bare_trainer, make_recipe, updated
from tests.grpo.two_processes import train
from tests.models.routed import make_model


def perturbed_engine_figures(kind: str, **changes) -> dict[bool, dict[str, float]]:
    """Update figures with and without replay: the engine samples in bfloat16, the trainer computes in float32."""
    model = make_model(kind, **changes)
    has_routers = bool(router_modules(model))
    engine = BuiltinEngine(copy.deepcopy(model).to(torch.bfloat16), [2], record_routing=has_routers)
    problems = [Problem(f"problem {i}", "1") for i in range(24)]
    prompts = [[5 + i, 6, 7] for i in range(len(problems))]
    groups = engine.generate(problems, prompts, Sampling(n=8, max_tokens=32))
    rewards = np.arange(8, dtype=np.float32) % 2
    figures = {}
    for replay in (False, True) if has_routers else (False,):
        recipe = make_recipe(router_replay=replay, learning_rate=1e-9)
        trainer = bare_trainer(recipe, copy.deepcopy(model), pad_id=0)
        figures[replay] = updated(trainer, [ScoredGroup(group, (), rewards) for group in groups])
        assert figures[replay]["trained_tokens"] > 3000
    return figures


@pytest.mark.parametrize("kind", ["qwen3_moe", "ours_noaux_tc"])
def test_replay_lowers_the_mismatch_with_a_rounding_engine_to_the_level_of_a_dense_model(kind):
    """What R3 (2510.11370) is for, as a toy: KL between engine and trainer, and tokens far apart."""
    dense = perturbed_engine_figures("llama")[False]
    figures = perturbed_engine_figures(kind)
    for layer in router_layers(make_model(kind)):
        assert 0.001 < figures[False][f"experts/disagreement/{layer}"] < 0.2
    assert figures[False]["mismatch_kl"] > 5 * dense["mismatch_kl"]
    assert figures[True]["mismatch_kl"] < 2 * dense["mismatch_kl"]
    assert figures[False]["ratio_above_2"] > 0
    assert figures[True]["ratio_above_2"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_of_which_neither_uses_the_others_experts_learn_as_one_does(layout, tmp_path):
    """A gradient that is missing in one of them would leave both waiting, or their weights apart."""
    kinds = ["mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3", "ours_noisy_topk", "ours_switch", "ours_noaux_tc"]
    done = run_two(layout, Path(__file__).with_name("two_processes.py"), tmp_path, *kinds)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in kinds:
        together, alone = torch.load(tmp_path / f"{kind}.pt"), train(kind, Accelerator(cpu=True))
        before = make_model(kind, vocab_size=PAD + 1).state_dict()
        assert together.keys() == alone.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-4, msg=f"{kind} {name}")
        changed = {name for name, tensor in alone.items() if name in before and not torch.equal(tensor, before[name])}
        assert {"lm_head.weight", "model.layers.2.mlp.gate.weight", "model.layers.2.mlp.experts.down_proj"} <= changed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3", "ours_noaux_tc"])
def test_run_through_vllm_replays_its_experts_and_syncs_the_bias(kind, tiny_run, monkeypatch):
    """The bias moves by so much in a step that the sync check would stop the run if the engine kept the old one."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is an extra, and is not installed here")
    tokenizer = byte_tokenizer()
    # Sizes that the CPU kernels of vLLM know.
    mla = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "head_dim": 64, "bias_update_speed": 0.5}
    changes = {"moe_intermediate_size": 64, **({"head_dim": 32} if kind == "qwen3_moe" else mla)}
    model = make_model(kind, vocab_size=len(tokenizer), max_position_embeddings=512, **changes)
    model.config.eos_token_id = tokenizer.eos_token_id
    base = tiny_run.output.parent / "base"
    save_for_vllm(model, base)
    tokenizer.save_pretrained(base)
    biased = kind != "qwen3_moe"
    monkeypatch.setattr("rlzero.grpo.moe.BIAS_SPEED", 0.5)
    outcome = tiny_run(
        model_name_or_path=base, rollout="vllm", router_replay=True, router_bias="update" if biased else "frozen",
        reward_funcs=["accuracy", "format", "coin"], num_generations=4, learning_rate=1e-5, sync_tolerance=1e-5,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = read_metrics(tiny_run.output)
    assert len(rows) == 3
    for row in rows:
        assert row["sync_diff"] < 1e-5
        assert row["mismatch_kl"] < 1e-8
        assert all(row[f"experts/disagreement/{layer}"] < 0.01 for layer in router_layers(model))
    trained = load_model(tiny_run.output / "model", "float32")
    for before, after in zip(router_modules(model), router_modules(trained), strict=True):
        if biased:
            assert (after.e_score_correction_bias - before.e_score_correction_bias).abs().max() >= 0.5


def save_for_vllm(model, folder: Path) -> None:
    """A checkpoint that vLLM loads: transformers' configuration of DeepSeek-V3 does not carry two of its fields."""
    model.save_pretrained(folder)
    if model.config.model_type == "deepseek_v3":
        path = folder / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "topk_method": "noaux_tc", "scoring_func": "sigmoid"}))

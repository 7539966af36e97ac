"""`recipes/base_model.py` writes a checkpoint of any preset that the RL recipe can start from."""

from __future__ import annotations

import pytest
import torch

from data.charset import byte_tokenizer
from recipes.base_model import EMBEDDED, NAMES, QWEN, BaseModelConfig, build_model, main
from rlzero.grpo.config import ConfigError
from rlzero.models.load import load_model, load_tokenizer
from rlzero.rollout.make import eos_token_ids

BRIEF = ["--tokens", "1500", "--tokens_per_step", "512", "--warmup_steps", "1"]
# A stock class, our experts with a bias, a latent cache with multi-token prediction, an LSTM, a rolling window.
KINDS = (QWEN, EMBEDDED, "deepseek-v3", "shazeer-2017", "mistral-7b")


@pytest.mark.parametrize("name", KINDS)
def test_a_preset_is_saved_as_rl_needs_it(name, tmp_path, capsys):
    assert main(["--preset", name, *BRIEF, "--eval_problems", "0", "--output_dir", str(tmp_path)]) == 0
    model, tokenizer = load_model(tmp_path), load_tokenizer(tmp_path)
    assert model.config.vocab_size == len(tokenizer)
    assert eos_token_ids(tokenizer, model) == [tokenizer.eos_token_id]
    assert (tmp_path / "prompt_template.json").is_file()
    ids = torch.tensor([tokenizer("3*4+12-9=?")["input_ids"]])
    assert model(ids).logits.isfinite().all()
    untrained = build_model(BaseModelConfig(preset=name), tokenizer)
    assert not torch.equal(untrained.lm_head.weight, model.lm_head.weight)
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in capsys.readouterr().out


def test_the_card_says_what_the_model_is_and_the_command_that_made_it(tmp_path):
    command = ["--preset", EMBEDDED, *BRIEF, "--seed", "3", "--eval_problems", "2", "--output_dir", str(tmp_path)]
    assert main(command) == 0
    card = (tmp_path / "README.md").read_text()
    assert f"Preset `{EMBEDDED}`" in card
    assert "16 experts, 3 per token, 1 shared" in card
    for words in ("base_model.py", f"--preset {EMBEDDED}", "--tokens 1500", "--seed 3", "| arithmetic pass@1 |"):
        assert words in card
    assert str(tmp_path) not in card


def test_the_embedded_preset_costs_no_more_than_the_qwen3_moe():
    tokenizer = byte_tokenizer()
    small, stock = (build_model(BaseModelConfig(preset=name), tokenizer) for name in (EMBEDDED, QWEN))
    assert sum(p.numel() for p in small.parameters()) <= 1_500_000

    def run_per_token(model) -> int:
        experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
        shared = sum(p.numel() for name, p in model.named_parameters() if ".shared_experts." in name)
        return experts * model.config.num_experts_per_tok // model.config.num_experts + shared

    assert run_per_token(small) == run_per_token(stock)


def test_the_seed_decides_the_weights():
    tokenizer, config = byte_tokenizer(), BaseModelConfig(preset=EMBEDDED)
    first, again, other = (build_model(config, tokenizer, seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_unknown_preset_is_refused_with_all_names(capsys):
    assert main(["--preset", "gpt-5"]) == 2
    message = capsys.readouterr().err
    assert "'gpt-5'" in message
    assert all(name in message for name in NAMES)


def test_sizes_of_the_qwen3_moe_are_refused_beside_a_preset():
    with pytest.raises(ConfigError, match="num_experts=16 is an option of --preset qwen3-moe"):
        BaseModelConfig(preset="mixtral-8x7b", num_experts=16)

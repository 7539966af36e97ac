"""Pretrain the embedded base model: a tiny mixture-of-experts language model on generated text.

    python recipes/base_model.py                      # what `make base` runs; 30 minutes on two CPU cores
    python recipes/base_model.py --tokens 1000000     # a quick look
    python recipes/base_model.py --preset deepseek-v3 --tokens 2000000 --output_dir runs/v3
    python recipes/r1_zero.py --model_name_or_path runs/v3

The checkpoint ships in `recipes/base/`, so `make zero` does not need this. `data/corpus.py` is what the model
reads: it can work problems out, but in the prompt template it mostly guesses, as real base models do. A preset is
the tiny variant of a system of the MoE line (rlzero/models/presets.py) with this tokenizer's vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen3MoeConfig, Qwen3MoeForCausalLM
from trl import TrlParser

from data.arithmetic import Arithmetic
from data.charset import byte_tokenizer
from data.countdown import Countdown
from data.template_file import save_template
from data.templates import get_template
from rlzero.grpo.config import Concern, ConfigError, at_least, choose, option
from rlzero.measure.evaluate import evaluate
from rlzero.models.config import MoEConfig
from rlzero.models.decoder import MoEForCausalLM
from rlzero.models.presets import ALIASES, PRESETS, preset
from rlzero.rollout.make import make_engine
from rlzero.rollout.types import Sampling
from rlzero.stages.pretrain import PretrainConfig, Pretrained, pretrain

QWEN, EMBEDDED = "qwen3-moe", "embedded"
NAMES = (QWEN, EMBEDDED, *PRESETS, *ALIASES)


@dataclass
class BaseModelConfig(Concern):
    """What is trained."""

    output_dir: str = option("recipes/base", "Folder of the checkpoint.")
    preset: str = option(QWEN, f"Architecture, tiny: {', '.join(NAMES)}.")
    eval_problems: int = option(256, "Held-out problems of each task to measure on; 0 skips it.")
    router_aux_loss_coef: float = option(0.01, f"Of {QWEN}: Switch's load-balancing loss.")
    hidden_size: int = option(128, f"Of {QWEN}: width.")
    num_hidden_layers: int = option(3, f"Of {QWEN}: layers, each a mixture of experts.")
    num_experts: int = option(8, f"Of {QWEN}: experts per layer; two are used per token.")
    moe_intermediate_size: int = option(128, f"Of {QWEN}: width of an expert.")

    def check(self) -> None:
        choose("preset", self.preset, NAMES)
        at_least("eval_problems", self.eval_problems, 0)
        for name in ("router_aux_loss_coef", *SIZES):
            given, default = getattr(self, name), getattr(BaseModelConfig, name)
            if self.preset != QWEN and given != default:
                raise ConfigError(
                    f"{name}={given} is an option of --preset {QWEN}, and preset {self.preset!r} has sizes of its own. "
                    f"Leave {name} out."
                )
        for name in SIZES:
            at_least(name, getattr(self, name), 1)


SIZES = ("hidden_size", "num_hidden_layers", "num_experts", "moe_intermediate_size")


def build_model(config: BaseModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> PreTrainedModel:
    """A randomly initialised model whose vocabulary is exactly the tokenizer's."""
    torch.manual_seed(seed)
    vocabulary = {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if config.preset == QWEN:
        return Qwen3MoeForCausalLM(qwen3_moe(config, vocabulary))
    if config.preset == EMBEDDED:
        return MoEForCausalLM(embedded(vocabulary))
    return MoEForCausalLM(preset(config.preset, tiny=True, **vocabulary))


def embedded(vocabulary: dict[str, int | None]) -> MoEConfig:
    """DeepSeek-V3's experts around plain attention: fine-grained, one shared, chosen by sigmoid and bias, balanced by
    the bias. A token runs as many expert weights as in the Qwen3-MoE of `qwen3_moe`."""
    return MoEConfig(
        **vocabulary,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        use_qk_norm=True,
        max_position_embeddings=512,
        moe_intermediate_size=64,
        n_routed_experts=16,
        num_experts_per_tok=3,
        n_shared_experts=1,
        topk_method="noaux_tc",
        norm_topk_prob=True,
        bias_update_speed=0.001,
        balance={"sequence": 0.0001},
    )


def qwen3_moe(config: BaseModelConfig, vocabulary: dict[str, int | None]) -> Qwen3MoeConfig:
    head_dim = 32
    heads = config.hidden_size // head_dim
    return Qwen3MoeConfig(
        **vocabulary,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=head_dim,
        intermediate_size=config.moe_intermediate_size,
        moe_intermediate_size=config.moe_intermediate_size,
        num_experts=config.num_experts,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        router_aux_loss_coef=config.router_aux_loss_coef,
        max_position_embeddings=512,
        initializer_range=0.02,
        tie_word_embeddings=False,
        dtype="float32",
    )


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """What r1_zero.py needs to start from: weights, tokenizer and the prompt template that the corpus has."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_template(get_template("short"), folder)


def measured(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: int) -> dict[str, float]:
    """Held-out figures at temperature 1, eight samples a problem."""
    engine = make_engine(
        "builtin", model=model, model_path="", tokenizer=tokenizer, max_model_len=512, max_num_seqs=512
    )
    figures = {}
    for source in (Arithmetic(), Countdown()):
        sampling = Sampling(n=8, max_tokens=192)
        result = evaluate(engine, tokenizer, source.heldout(problems), get_template("short"), sampling)
        estimates = result.estimates()
        for name in ("pass@1", "pass@8", "format", "length"):
            figures[f"{source.name} {name}"] = estimates[name].value
    return figures


def model_card(
    config: BaseModelConfig,
    training: PretrainConfig,
    model: PreTrainedModel,
    done: Pretrained,
    figures: dict[str, float],
) -> str:
    """README.md of the checkpoint: what it is and the command that made it."""
    parameters = sum(p.numel() for p in model.parameters())
    command = "".join(f" --{k} {v}" for c in (config, training) for k, v in changed(c).items())
    table = "\n".join(f"| {name} | {value:.3f} |" for name, value in figures.items())
    balance = " ".join(f"{value:.2f}" for value in done.load_cv)
    own = "\n`import rlzero.models.decoder` makes the class known to `AutoModelForCausalLM`.\n"
    loading = own if isinstance(model, MoEForCausalLM) else ""
    measurement = f"""
Held-out problems, 8 samples at temperature 1 (printed by the same command):

| | |
|---|---|
{table}
"""
    return f"""---
license: mit
library_name: transformers
pipeline_tag: text-generation
---
# rlzero's embedded base model
{described(config, model)}, {parameters:,} parameters, pretrained on {training.tokens:,} tokens of generated text
(`data/corpus.py`): sums worked out, countdown searches, and a prompt template in which mostly neither happens.
It is a *base*: it can do more than it does, and reinforcement learning brings that out.
{loading}
Made by `OMP_NUM_THREADS=1 python recipes/base_model.py{command}`, seed {training.seed}, torch {torch.__version__},
transformers {transformers.__version__}; last training loss {done.loss:.4f} nats a token{
        f", coefficient of variation of the experts' load by layer {balance}" if balance else ""
    }.
{measurement if figures else ""}"""


def changed(config: Concern) -> dict[str, object]:
    """The settings that are not the defaults, but for the folder: a checkpoint may be moved."""
    default = vars(type(config)())
    return {name: value for name, value in vars(config).items() if value != default[name] and name != "output_dir"}


def described(config: BaseModelConfig, model: PreTrainedModel) -> str:
    """The architecture in words."""
    c = model.config
    name = "A Qwen3-MoE" if config.preset == QWEN else f"Preset `{config.preset}`, tiny, in rlzero's own decoder"
    experts = f", {c.num_experts} experts, {c.num_experts_per_tok} per token" if c.num_experts else ""
    shared = f", {c.n_shared_experts} shared" if getattr(c, "n_shared_experts", 0) else ""
    return f"{name} ({c.num_hidden_layers} layers, hidden {c.hidden_size}{experts}{shared})"


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 done, 2 settings that cannot work."""
    transformers.utils.logging.disable_progress_bar()
    try:
        config, training = TrlParser((BaseModelConfig, PretrainConfig)).parse_args_and_config(list(argv))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tokenizer = byte_tokenizer()
    model = build_model(config, tokenizer, training.seed)
    print(f"{described(config, model)}, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    done = pretrain(training, model, tokenizer)
    output = Path(config.output_dir)
    save(model, tokenizer, output)
    figures = measured(model, tokenizer, config.eval_problems) if config.eval_problems else {}
    (output / "README.md").write_text(model_card(config, training, model, done, figures))
    print(f"loss {done.loss:.4f}", *(f"{name} {value:.3f}" for name, value in figures.items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Pretrain the embedded base model: a tiny mixture-of-experts language model on generated text.

    python recipes/base_model.py                      # what `make base` runs; 30 minutes on two CPU cores
    python recipes/base_model.py --tokens 1000000     # a quick look

The checkpoint ships in `recipes/base/`, so `make zero` does not need this. `data/corpus.py` is what the model
reads: it can work problems out, but in the prompt template it mostly guesses, as real base models do.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedTokenizerBase, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func
from trl import TrlParser

from data.arithmetic import Arithmetic
from data.charset import byte_tokenizer
from data.corpus import documents
from data.countdown import Countdown
from data.template_file import save_template
from data.templates import get_template
from rlzero.measure.evaluate import evaluate
from rlzero.rollout.make import make_engine
from rlzero.rollout.types import Sampling

DECAY_FROM = 0.5  # share of the steps after which the learning rate falls, by a cosine, to 0
IGNORED = -100
REPORT_STEPS = 100


@dataclass
class BaseModelConfig:
    """What is trained and how long."""

    output_dir: str = field(default="recipes/base", metadata={"help": "Folder of the checkpoint."})
    seed: int = field(default=0, metadata={"help": "Of weights and corpus."})
    tokens: int = field(default=30_000_000, metadata={"help": "Tokens to train on."})
    tokens_per_step: int = field(default=4096, metadata={"help": "Tokens of one update, padding included."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak; constant, then a cosine to 0."})
    warmup_steps: int = field(default=100, metadata={"help": "Linear warm-up."})
    router_aux_loss_coef: float = field(default=0.01, metadata={"help": "Switch's load-balancing loss."})
    hidden_size: int = field(default=128, metadata={"help": "Width."})
    num_hidden_layers: int = field(default=3, metadata={"help": "Layers, each a mixture of experts."})
    num_experts: int = field(default=8, metadata={"help": "Experts per layer; two are used per token."})
    moe_intermediate_size: int = field(default=128, metadata={"help": "Width of an expert."})


def build_model(config: BaseModelConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen3MoeForCausalLM:
    """A randomly initialised Qwen3-MoE whose vocabulary is exactly the tokenizer's."""
    torch.manual_seed(config.seed)
    head_dim = 32
    heads = config.hidden_size // head_dim
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=len(tokenizer),
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
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )


def batches(seed: int, tokens_per_step: int, tokenizer: PreTrainedTokenizerBase) -> Iterator[torch.Tensor]:
    """Endless int64[B, L] batches of whole documents of similar length, padded on the right with IGNORED."""
    stream, rng = documents(seed), random.Random(f"batches {seed}")
    while True:
        pool = tokenizer([next(stream) for _ in range(4096)])["input_ids"]
        pool.sort(key=len)
        cut: list[list[list[int]]] = [[]]
        for ids in pool:
            if (len(cut[-1]) + 1) * len(ids) > tokens_per_step:
                cut.append([])
            cut[-1].append(ids)
        rng.shuffle(cut)
        for rows in cut:
            batch = torch.full((len(rows), max(map(len, rows))), IGNORED)
            for row, ids in zip(batch, rows, strict=True):
                row[: len(ids)] = torch.tensor(ids)
            yield batch


def step_loss(model: Qwen3MoeForCausalLM, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token cross-entropy and Switch's balancing loss (2101.03961, eq. 4) of one batch, both scalars."""
    real = batch != IGNORED
    # Padding stands on the right, so causal attention keeps it from the real tokens without a mask.
    out = model(input_ids=batch.clamp(min=0), output_router_logits=True)
    shifted = real[:, 1:]
    language = torch.nn.functional.cross_entropy(out.logits[:, :-1][shifted], batch[:, 1:][shifted])
    balance = load_balancing_loss_func(out.router_logits, model.num_experts, 2, attention_mask=real.long())
    return language, balance


def learning_rate(config: BaseModelConfig, step: int, seen: int) -> float:
    """After `step` updates and `seen` tokens: linear warm-up, constant, then a cosine to 0."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    decay = max(0.0, (seen / config.tokens - DECAY_FROM) / (1 - DECAY_FROM))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * decay))


def pretrain(config: BaseModelConfig, model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerBase) -> float:
    """Train the model to the token budget. Returns the mean loss of the last steps, in nats a token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    seen, step, start = 0, 0, time.perf_counter()
    recent: deque[float] = deque(maxlen=REPORT_STEPS)
    for batch in batches(config.seed, config.tokens_per_step, tokenizer):
        if seen >= config.tokens:
            break
        rate = learning_rate(config, step, seen)
        for group in optimizer.param_groups:
            group["lr"] = rate
        language, balance = step_loss(model, batch)
        (language + config.router_aux_loss_coef * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen, step = seen + int((batch != IGNORED).sum()), step + 1
        recent.append(language.item())
        if step % REPORT_STEPS == 0:
            seconds = time.perf_counter() - start
            print(
                f"step {step}  {seen / 1e6:.1f}M tokens  loss {statistics.fmean(recent):.4f}  "
                f"balance {balance.item():.2f}  lr {rate:.1e}  {seen / seconds:.0f} tokens/s  "
                f"{seconds / 60:.1f} min",
                flush=True,
            )
    return statistics.fmean(recent)


def measured(model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerBase, problems: int = 256) -> dict[str, float]:
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


def model_card(config: BaseModelConfig, parameters: int, loss: float, figures: dict[str, float]) -> str:
    """README.md of the checkpoint: what it is and the command that made it."""
    settings = "".join(f" --{k} {v}" for k, v in asdict(config).items() if v != getattr(BaseModelConfig, k))
    table = "\n".join(f"| {name} | {value:.3f} |" for name, value in figures.items())
    return f"""---
license: mit
library_name: transformers
pipeline_tag: text-generation
---
# rlzero's embedded base model
A Qwen3-MoE of {parameters:,} parameters ({config.num_hidden_layers} layers, hidden {config.hidden_size},
{config.num_experts} experts, two per token), pretrained on {config.tokens:,} tokens of generated text
(`data/corpus.py`): sums worked out, countdown searches, and a prompt template in which mostly neither happens.
It is a *base*: it can do more than it does, and reinforcement learning brings that out.

Made by `OMP_NUM_THREADS=1 python recipes/base_model.py{settings}`, seed {config.seed}, torch {torch.__version__},
transformers {transformers.__version__}; last training loss {loss:.4f} nats a token.

Held-out problems, 8 samples at temperature 1 (printed by the same command):

| | |
|---|---|
{table}
"""


def main() -> int:
    (config,) = TrlParser(BaseModelConfig).parse_args_and_config()
    tokenizer = byte_tokenizer()
    model = build_model(config, tokenizer)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {config.tokens:,} tokens", flush=True)
    loss = pretrain(config, model, tokenizer)
    output = Path(config.output_dir)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    save_template(get_template("short"), output)
    figures = measured(model, tokenizer)
    (output / "README.md").write_text(model_card(config, parameters, loss, figures))
    print("\n".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

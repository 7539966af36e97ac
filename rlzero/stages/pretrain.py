"""Pretraining: a base model comes into being by predicting the next token of generated text (data/corpus.py)."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.arithmetic import Arithmetic
from data.corpus import documents
from data.sources import load_source
from rlzero.grpo.config import Concern, ConfigError, Options, at_least, option
from rlzero.models.balance import count_load, update_bias
from rlzero.models.moe import moe_layers
from rlzero.models.routing import RoutingTape, record_routing

DECAY_FROM = 0.5  # share of the tokens after which the learning rate falls, by a cosine, to 0
IGNORED = -100
REPORT_STEPS = 100


@dataclass
class PretrainConfig(Concern):
    """How long, and how fast."""

    seed: int = option(0, "Of weights and corpus.")
    tokens: int = option(30_000_000, "Tokens to train on, padding not counted.")
    tokens_per_step: int = option(4096, "Tokens of one update, padding included.")
    learning_rate: float = option(2e-3, "Peak; constant, then a cosine to 0.")
    warmup_steps: int = option(100, "Linear warm-up.")
    arithmetic_options: Options = option(
        Options(), 'Difficulty of the sums in the corpus, as JSON, as of --dataset_options: {"operands": {"2": 1}}.'
    )
    countdown: bool = option(True, "Whether the corpus searches, too.")

    def check(self) -> None:
        for name in ("tokens", "tokens_per_step", "warmup_steps"):
            at_least(name, getattr(self, name), 1)
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate={self.learning_rate} must be above 0.")
        self.documents()

    def documents(self) -> Iterator[str]:
        """The corpus."""
        try:
            arithmetic = load_source("arithmetic", options=self.arithmetic_options)
        except ValueError as error:
            raise ConfigError(f"arithmetic_options: {error}") from None
        assert isinstance(arithmetic, Arithmetic)
        return documents(self.seed, arithmetic, countdown=self.countdown)


@dataclass(frozen=True)
class Pretrained:
    """What came of it. loss: nats a token, language alone. load_cv: for each layer of experts, standard deviation of
    their loads over the mean. Both over the last REPORT_STEPS steps. tokens: seen, padding not counted."""

    loss: float
    load_cv: list[float]
    tokens: int
    steps: int
    seconds: float


def pretrain(config: PretrainConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Pretrained:
    """Train the model, ours or transformers' own, to the token budget; prints its figures every REPORT_STEPS steps.

    What is descended is the model's own loss: with its balance losses and, where it has them, its multi-token
    prediction. Raises FloatingPointError for a loss that is not finite.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    seen, step, start = 0, 0, time.perf_counter()
    losses: deque[float] = deque(maxlen=REPORT_STEPS)
    loads: deque[Tensor] = deque(maxlen=REPORT_STEPS)
    stream = batches(config, tokenizer)
    with record_routing(model) as routing:
        while seen < config.tokens:
            batch_BT = next(stream)
            real_BT = batch_BT != IGNORED
            rate = learning_rate(config, step, seen)
            for group in optimizer.param_groups:
                group["lr"] = rate
            out = model(
                input_ids=batch_BT.clamp(min=0),
                attention_mask=real_BT.long(),
                labels=batch_BT,
                output_router_logits=True,  # transformers' own classes add their balance loss only then
            )
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            move_bias(model, real_BT)
            seen, step = seen + int(real_BT.sum()), step + 1
            losses.append(language_loss(out.logits, batch_BT))
            loads.append(expert_loads(model, routing, real_BT))
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"the loss is {losses[-1]} in step {step}: the weights are destroyed. Lower learning_rate."
                )
            if step % REPORT_STEPS == 0:
                print(progress(summary(losses, loads, seen, step, start), rate), flush=True)
    model.eval()
    return summary(losses, loads, seen, step, start)


def batches(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[Tensor]:
    """Endless int64[B, T] batches of whole documents of similar length, padded on the right with IGNORED."""
    stream, rng = config.documents(), random.Random(f"batches {config.seed}")
    while True:
        pool = tokenizer([next(stream) for _ in range(4096)])["input_ids"]
        pool.sort(key=len)
        cut: list[list[list[int]]] = [[]]
        for ids in pool:
            if (len(cut[-1]) + 1) * len(ids) > config.tokens_per_step:
                cut.append([])
            cut[-1].append(ids)
        rng.shuffle(cut)
        for rows in cut:
            batch_BT = torch.full((len(rows), max(map(len, rows))), IGNORED)
            for row, ids in zip(batch_BT, rows, strict=True):
                row[: len(ids)] = torch.tensor(ids)
            yield batch_BT


def learning_rate(config: PretrainConfig, step: int, seen: int) -> float:
    """After `step` updates and `seen` tokens: linear warm-up, constant, then a cosine to 0."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    decay = max(0.0, (seen / config.tokens - DECAY_FROM) / (1 - DECAY_FROM))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * decay))


def move_bias(model: PreTrainedModel, real_BT: Tensor) -> None:
    """Aux-loss-free balance where the model has it: the newest pass moves the biases of its routers."""
    speed = getattr(model.config, "bias_update_speed", 0.0)
    if not speed:
        return
    count_load(moe_layers(model.model), real_BT.flatten())
    for depth, module in enumerate(model.mtp, start=1):  # it ran without the last `depth` tokens
        count_load(moe_layers(module), real_BT[:, :-depth].flatten())
    update_bias(model, speed)


@torch.no_grad()
def language_loss(logits_BTV: Tensor, batch_BT: Tensor) -> float:
    """Next-token cross-entropy in nats a token, nothing else."""
    targets_N = batch_BT[:, 1:].flatten()
    return float(torch.nn.functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), targets_N, ignore_index=IGNORED))


def expert_loads(model: PreTrainedModel, routing: RoutingTape, real_BT: Tensor) -> Tensor:
    """int64[L, E]: how many real tokens of the newest pass chose each expert, by layer of experts; L may be 0."""
    real_T = real_BT.flatten()
    counts = [
        torch.bincount(indices_TK[real_T].flatten(), minlength=model.config.num_experts)
        for indices_TK in routing.indices
    ]
    return torch.stack(counts) if counts else torch.zeros(0, 1, dtype=torch.int64)


def summary(losses: deque[float], loads: deque[Tensor], seen: int, step: int, start: float) -> Pretrained:
    total_LE = torch.stack([*loads]).sum(dim=0).double()
    mean_L1 = total_LE.mean(dim=-1, keepdim=True)
    load_cv = (total_LE / mean_L1 - 1).square().mean(dim=-1).sqrt()
    return Pretrained(statistics.fmean(losses), load_cv.tolist(), seen, step, time.perf_counter() - start)


def progress(so_far: Pretrained, rate: float) -> str:
    """One line: the loads' coefficient of variation stands for each layer of experts."""
    balance = " ".join(f"{value:.2f}" for value in so_far.load_cv)
    return (
        f"step {so_far.steps}  {so_far.tokens / 1e6:.1f}M tokens  loss {so_far.loss:.4f}  "
        + (f"load CV {balance}  " if balance else "")
        + f"lr {rate:.1e}  {so_far.tokens / so_far.seconds:.0f} tokens/s  {so_far.seconds / 60:.1f} min"
    )

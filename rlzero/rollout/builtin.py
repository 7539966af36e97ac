"""The built-in engine: samples from the trainer's own transformers model. No second copy, nothing to sync."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from data.problem import Problem
from rlzero.models.logprobs import autocast, token_logprobs
from rlzero.models.routing import RoutingTape, record_routing, router_modules
from rlzero.models.sharded import copy_weights, is_sharded
from rlzero.rollout.decoding import Decoding
from rlzero.rollout.request import check_request
from rlzero.rollout.routing_log import RoutingLog
from rlzero.rollout.sampling import row_keys, sample_tokens, uniforms
from rlzero.rollout.types import Done, Group, Rollout, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Rows leave the batch when so large a part of it is done: moving the cache costs about as much as a step.
_DONE_SHARE = 0.2
_UNSUPPORTED_LAYERS = ("linear_attention", "mamba", "conv", "recurrent", "chunked_attention")


@dataclass(frozen=True)
class _Row:
    """One completion to be sampled: which prompt, which of its samples, at most how many tokens."""

    prompt: int
    sample: int
    max_tokens: int


class BuiltinEngine:
    """Batched sampling with a cache, for our own decoder and any attention-only AutoModelForCausalLM.

    A prompt is computed once and its cache copied to its n rows; finished rows leave the batch. A completion
    is a function of (weights, prompt, seed, position of the prompt in the call, sample position): what else
    is in the batch changes it only where rounding moves a draw across a boundary.

    model: the unwrapped trainer model, not sharded; or, with owns_model, a copy of it, into which `sync` copies (of a
    sharded one: gathers) the weights. eos_token_ids: ids that end a completion. max_rows: rows sampled at a time, which
    bounds memory. autocast_dtype: mixed precision as in training, or None. record_routing: rollouts say which experts
    were run (`Rollout.routing`).
    """

    name = "builtin"

    def __init__(
        self,
        model: PreTrainedModel,
        eos_token_ids: Sequence[int],
        *,
        max_model_len: int | None = None,
        max_rows: int = 512,
        autocast_dtype: torch.dtype | None = None,
        record_routing: bool = False,
        owns_model: bool = False,
    ) -> None:
        limit = getattr(model.config, "max_position_embeddings", None)
        self.max_model_len = min(max_model_len or limit or 2**20, limit or 2**20)
        self.max_rows = max_rows
        self.version = 0
        self._owns_model = owns_model
        self._autocast_dtype = autocast_dtype
        self._records_routing = record_routing
        self._eos_token_ids = np.array(sorted(set(eos_token_ids)), dtype=np.int64)
        self._set_model(model)

    def generate(
        self,
        problems: Sequence[Problem],
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        done: Done | None = None,
    ) -> list[Group]:
        """One group of `sampling.n` rollouts per problem, in the order of the problems."""
        check_request(
            problems,
            prompt_ids,
            sampling,
            max_model_len=self.max_model_len,
            vocab_size=self._model.get_input_embeddings().weight.shape[0],
        )
        prompts = [np.asarray(ids, dtype=np.int64) for ids in prompt_ids]
        found: list[dict[int, Rollout]] = [{} for _ in problems]
        groups: dict[int, Group] = {}
        for i, sample, rollout in self._rollouts(problems, prompts, sampling):
            found[i][sample] = rollout
            if len(found[i]) == sampling.n:
                groups[i] = Group(problems[i], tuple(found[i][sample] for sample in range(sampling.n)))
                if done is not None:
                    done(i, groups[i])
        return [groups[i] for i in range(len(problems))]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """float32[len - 1] per sequence: log-probability of each token after the first, at temperature 1."""
        return token_logprobs(self._model, sequences, autocast_dtype=self._autocast_dtype)

    def sync(self, model: PreTrainedModel, version: int) -> None:
        """Nothing to copy where the engine samples from `model` itself. All processes call it for a sharded one."""
        if self._owns_model:
            copy_weights(model, self._model)
        elif model is not self._model:
            self._set_model(model)
        self.version = version

    def sleep(self) -> None:
        """Nothing to give back."""

    def close(self) -> None:
        """Nothing to free: the model belongs to the trainer."""

    def _set_model(self, model: PreTrainedModel) -> None:
        if is_sharded(model):
            raise ValueError(
                "the built-in engine samples from a whole model in each process, and this one is sharded (FSDP). "
                "Make the engine with a copy of the model as it was before."
            )
        kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
        unsupported = sorted(kind for kind in kinds if any(name in kind for name in _UNSUPPORTED_LAYERS))
        if unsupported:
            raise ValueError(
                "the built-in engine knows our own decoder, and attention over the whole past or a sliding window; "
                f"{type(model).__name__} has layers of kind {', '.join(unsupported)}. Choose --rollout vllm."
            )
        if self._records_routing and not router_modules(model):
            raise ValueError(
                "routing is recorded from the routers of our decoder, Mixtral, Qwen3Moe, DeepseekV2 and DeepseekV3, "
                f"and {type(model).__name__} has none of them. Leave router_replay off."
            )
        self._model = model

    def _rollouts(
        self, problems: Sequence[Problem], prompts: Sequence[np.ndarray], sampling: Sampling
    ) -> Iterator[tuple[int, int, Rollout]]:
        """Each rollout as soon as it ends, with the positions of its prompt and of the sample."""
        # Prompts of like length together: less padding.
        rows = [
            _Row(prompt, sample, min(sampling.max_tokens, self.max_model_len - len(prompts[prompt])))
            for prompt in sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
            for sample in range(sampling.n)
        ]
        was_training = self._model.training
        self._model.eval()
        try:
            recorded = record_routing(self._model) if self._records_routing else nullcontext()
            with torch.no_grad(), autocast(self._model.device, self._autocast_dtype), recorded as tape:
                for start in range(0, len(rows), self.max_rows):
                    chunk = rows[start : start + self.max_rows]
                    for number, tokens, logprobs, reason, experts in self._sample_chunk(chunk, prompts, sampling, tape):
                        i = chunk[number].prompt
                        rollout = Rollout(problems[i], prompts[i], tokens, logprobs, reason, experts)
                        yield i, chunk[number].sample, rollout
        finally:
            self._model.train(was_training)

    def _sample_chunk(
        self, rows: Sequence[_Row], prompts: Sequence[np.ndarray], sampling: Sampling, tape: RoutingTape | None
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray, str, np.ndarray | None]]:
        """As `_sample_rows`, with the experts of each row, which are known when all have ended."""
        if tape is None:
            for ended in self._sample_rows(rows, prompts, sampling, None):
                yield *ended, None
            return
        log = RoutingLog(tape)
        everything = sorted(self._sample_rows(rows, prompts, sampling, log), key=lambda ended: ended[0])
        routing = log.by_row([len(tokens) for _, tokens, _, _ in everything])
        for ended, experts in zip(everything, routing, strict=True):
            yield *ended, experts

    def _sample_rows(
        self, rows: Sequence[_Row], prompts: Sequence[np.ndarray], sampling: Sampling, log: RoutingLog | None
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray, str]]:
        """Each row as it ends: its number, completion int64[C], log-probabilities float32[C] and finish reason."""
        keys_R = row_keys(
            sampling.seed,
            np.array([row.prompt for row in rows], dtype=np.int64) + sampling.first_position,
            np.array([row.sample for row in rows], dtype=np.int64),
        )
        limits_R = np.array([row.max_tokens for row in rows])
        done_R = np.zeros(len(rows), dtype=bool)
        written = _Written(len(rows))
        in_batch = np.arange(len(rows))
        decoder = Decoding(self._model, [prompts[row.prompt] for row in rows], self.max_model_len, log)
        while True:
            draws = torch.from_numpy(uniforms(keys_R[in_batch], written.steps)).to(decoder.logits.device)
            tokens, logprobs = sample_tokens(
                decoder.logits, draws, sampling.temperature, sampling.top_p, sampling.top_k
            )
            chosen, values = tokens.cpu().numpy(), logprobs.cpu().numpy()
            written.add(in_batch, chosen, values)

            live = ~done_R[in_batch]
            if not np.isfinite(values[live]).all():
                raise FloatingPointError(
                    f"log-probabilities must be finite, token {written.steps} of a completion has NaN: the "
                    "weights have diverged. Lower the learning rate or go on from an earlier checkpoint."
                )
            stopped = np.isin(chosen, self._eos_token_ids)
            ends = live & (stopped | (written.steps >= limits_R[in_batch]))
            done_R[in_batch[ends]] = True
            for row, at_end_token in zip(in_batch[ends].tolist(), stopped[ends].tolist(), strict=True):
                yield row, *written.row(row), "stop" if at_end_token else "length"
            if done_R.all():
                break
            keep = np.flatnonzero(~done_R[in_batch])
            if len(keep) <= (1 - _DONE_SHARE) * len(in_batch):
                in_batch = in_batch[keep]
                kept = torch.from_numpy(keep).to(tokens.device)
                tokens = tokens[kept]
                decoder.keep_rows(kept)
            decoder.read(tokens)
            if log is not None:
                log.tokens(in_batch)


class _Written:
    """What the rows of a batch have said so far. steps: tokens of every row that has not ended."""

    def __init__(self, rows: int) -> None:
        self.steps = 0
        self._tokens_RC = np.zeros((rows, 64), dtype=np.int64)
        self._logprobs_RC = np.zeros((rows, 64), dtype=np.float32)

    def add(self, rows: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray) -> None:
        """The next token of these rows: int64[R], int64[R], float32[R]."""
        if self.steps == self._tokens_RC.shape[1]:
            self._tokens_RC = np.concatenate([self._tokens_RC, np.zeros_like(self._tokens_RC)], axis=1)
            self._logprobs_RC = np.concatenate([self._logprobs_RC, np.zeros_like(self._logprobs_RC)], axis=1)
        self._tokens_RC[rows, self.steps] = tokens
        self._logprobs_RC[rows, self.steps] = logprobs
        self.steps += 1

    def row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and log-probabilities of a row that has just ended."""
        return self._tokens_RC[row, : self.steps].copy(), self._logprobs_RC[row, : self.steps].copy()

"""The built-in engine: samples from the trainer's own transformers model. No second copy, nothing to sync."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from data.problem import Problem
from rlzero.models.logprobs import accepted_options, autocast, token_logprobs
from rlzero.models.routing import record_routing, router_modules
from rlzero.rollout.cache import RolloutCache
from rlzero.rollout.request import check_request
from rlzero.rollout.routing_log import RoutingLog
from rlzero.rollout.sampling import row_keys, sample_tokens, uniforms
from rlzero.rollout.types import Group, Rollout, Sampling

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

    model: the unwrapped trainer model, not sharded. eos_token_ids: ids that end a completion. max_rows: rows
    sampled at a time, which bounds memory. autocast_dtype: mixed precision as in training, or None.
    record_routing: rollouts say which experts were run (`Rollout.routing`).
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
    ) -> None:
        limit = getattr(model.config, "max_position_embeddings", None)
        self.max_model_len = min(max_model_len or limit or 2**20, limit or 2**20)
        self.max_rows = max_rows
        self.version = 0
        self._autocast_dtype = autocast_dtype
        self._records_routing = record_routing
        self._eos_token_ids = np.array(sorted(set(eos_token_ids)), dtype=np.int64)
        self._set_model(model)

    def generate(
        self, problems: Sequence[Problem], prompt_ids: Sequence[Sequence[int]], sampling: Sampling
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
        # Prompts of like length together: less padding.
        rows = [
            _Row(prompt, sample, min(sampling.max_tokens, self.max_model_len - len(prompts[prompt])))
            for prompt in sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
            for sample in range(sampling.n)
        ]
        rollouts: dict[tuple[int, int], Rollout] = {}
        was_training = self._model.training
        self._model.eval()
        try:
            recorded = record_routing(self._model) if self._records_routing else nullcontext()
            with torch.no_grad(), autocast(self._model.device, self._autocast_dtype), recorded as tape:
                for start in range(0, len(rows), self.max_rows):
                    chunk = rows[start : start + self.max_rows]
                    log = None if tape is None else RoutingLog(tape)
                    sampled = self._sample_rows(chunk, prompts, sampling, log)
                    routing = [None] * len(chunk) if log is None else log.by_row([len(s[0]) for s in sampled])
                    for row, (tokens, logprobs, reason), experts in zip(chunk, sampled, routing, strict=True):
                        rollouts[row.prompt, row.sample] = Rollout(
                            problems[row.prompt], prompts[row.prompt], tokens, logprobs, reason, experts
                        )
        finally:
            self._model.train(was_training)
        return [
            Group(problem, tuple(rollouts[i, sample] for sample in range(sampling.n)))
            for i, problem in enumerate(problems)
        ]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """float32[len - 1] per sequence: log-probability of each token after the first, at temperature 1."""
        return token_logprobs(self._model, sequences, autocast_dtype=self._autocast_dtype)

    def sync(self, model: PreTrainedModel, version: int) -> None:
        """Nothing to copy: the engine samples from `model` itself."""
        if model is not self._model:
            self._set_model(model)
        self.version = version

    def close(self) -> None:
        """Nothing to free: the model belongs to the trainer."""

    def _set_model(self, model: PreTrainedModel) -> None:
        if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
            raise ValueError(
                "the built-in engine samples from a whole model in each process, and this one is sharded "
                "(FSDP). Choose --rollout vllm, or train without sharding."
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

    def _sample_rows(
        self, rows: Sequence[_Row], prompts: Sequence[np.ndarray], sampling: Sampling, log: RoutingLog | None
    ) -> list[tuple[np.ndarray, np.ndarray, str]]:
        """For each row: completion int64[C], log-probabilities float32[C] and finish reason."""
        keys_R = row_keys(
            sampling.seed,
            np.array([row.prompt for row in rows], dtype=np.int64) + sampling.first_position,
            np.array([row.sample for row in rows], dtype=np.int64),
        )
        limits_R = np.array([row.max_tokens for row in rows])
        lengths_R = np.zeros(len(rows), dtype=np.int64)
        stopped_R = np.zeros(len(rows), dtype=bool)
        done_R = np.zeros(len(rows), dtype=bool)
        steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        in_batch = np.arange(len(rows))
        decoder = _Decoder(self._model, [prompts[row.prompt] for row in rows], self.max_model_len, log)
        while True:
            draws = torch.from_numpy(uniforms(keys_R[in_batch], len(steps))).to(decoder.logits.device)
            tokens, logprobs = sample_tokens(
                decoder.logits, draws, sampling.temperature, sampling.top_p, sampling.top_k
            )
            chosen, values = tokens.cpu().numpy(), logprobs.cpu().numpy()
            steps.append((in_batch, chosen, values))

            live = ~done_R[in_batch]
            if not np.isfinite(values[live]).all():
                raise FloatingPointError(
                    f"log-probabilities must be finite, token {len(steps)} of a completion has NaN: the "
                    "weights have diverged. Lower the learning rate or go on from an earlier checkpoint."
                )
            lengths_R[in_batch[live]] += 1
            ended = np.isin(chosen, self._eos_token_ids)
            stopped_R[in_batch] |= live & ended
            done_R[in_batch] |= ended | (len(steps) >= limits_R[in_batch])
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

        tokens_RC = np.zeros((len(rows), len(steps)), dtype=np.int64)
        logprobs_RC = np.zeros((len(rows), len(steps)), dtype=np.float32)
        for step, (row_numbers, chosen, values) in enumerate(steps):
            tokens_RC[row_numbers, step] = chosen
            logprobs_RC[row_numbers, step] = values
        return [
            (
                tokens_RC[row, :length].copy(),
                logprobs_RC[row, :length].copy(),
                "stop" if stopped_R[row] else "length",
            )
            for row, length in enumerate(lengths_R)
        ]


class _Decoder:
    """The model's state for a batch of rows: cache, padding mask, positions, and the logits of the next
    token.

    Prompts are padded on the left, so that all rows end, and go on, in the same column.
    """

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[np.ndarray], max_model_len: int, log: RoutingLog | None = None
    ) -> None:
        """prompts: int64[P] for each row; equal neighbours are computed once."""
        self._model, self._log = model, log
        self._last_position = max_model_len - 1
        self._cache = RolloutCache(model)
        self._options = accepted_options(model, logits_to_keep=1)
        distinct = [prompts[0]]
        owner_of_row = []
        for prompt in prompts:
            if prompt is not distinct[-1]:
                distinct.append(prompt)
            owner_of_row.append(len(distinct) - 1)
        longest = max(len(prompt) for prompt in distinct)
        ids_PT = np.zeros((len(distinct), longest), dtype=np.int64)
        mask_PT = np.zeros((len(distinct), longest), dtype=np.int64)
        for row, prompt in enumerate(distinct):
            ids_PT[row, longest - len(prompt) :] = prompt
            mask_PT[row, longest - len(prompt) :] = 1
        device = model.device
        mask = torch.from_numpy(mask_PT).to(device)
        # Without padding no mask is needed, and attention takes its faster path.
        self._mask = None if mask_PT.all() else mask
        logits_PV = self._forward(torch.from_numpy(ids_PT).to(device), (mask.cumsum(-1) - 1).clamp_(min=0))
        owners = torch.tensor(owner_of_row, device=device)
        self.logits = logits_PV[owners]
        self._positions = mask.sum(-1)[owners]
        self._mask = None if self._mask is None else self._mask[owners]
        self._cache.expand_rows(owners)
        if log is not None:
            log.prompts([len(prompt) for prompt in distinct], owner_of_row)

    def read(self, tokens: torch.Tensor) -> None:
        """Append one token a row (int64[R]) and compute the logits after it."""
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=-1)
        # A row that is done stays until it is worth the move; it must not walk past the model's last
        # position.
        positions = self._positions.clamp(max=self._last_position)
        self.logits = self._forward(tokens[:, None], positions[:, None])
        self._positions = self._positions + 1

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Drop all rows but these (int64, ascending)."""
        self._cache.keep_rows(rows)
        self._positions = self._positions[rows]
        self._mask = None if self._mask is None else self._mask[rows]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """float[R, V]: logits after the last column of ids, int64[R, new columns]."""
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            **self._options,
        )
        if self._log is not None:
            self._log.note(len(ids))
        return output.logits[:, -1]

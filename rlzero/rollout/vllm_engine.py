"""vLLM in this process; `make_engine` imports this file when asked.

vllm is imported here and in what this file imports: vllm_decoder.py (our decoder in vLLM), vllm_transfer.py (its
weights) and vllm_plugin.py (its registration).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, PretrainedConfig

from data.problem import Problem
from rlzero.rollout.checkpoint_weights import CheckpointWeights
from rlzero.rollout.request import check_request
from rlzero.rollout.sampling import row_keys
from rlzero.rollout.startup import process_group_kept
from rlzero.rollout.types import Group, Rollout, Sampling
from rlzero.rollout.vllm_cpu_options import cpu_options
from rlzero.rollout.vllm_plugin import ARCHITECTURE, register
from rlzero.rollout.vllm_routing import RoutingRecorder

# Read by vLLM when it is imported: the engine lives in this process (its weights are handed over by
# reference), and says what goes wrong (its warnings, one a weight sync, are about what is done here on
# purpose).
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm import LLM, ModelRegistry, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from rlzero.rollout.vllm_transfer import BACKEND

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class VLLMEngine:
    """vLLM beside the trainer, with a copy of the weights that `sync` brings up to date.

    model_path: checkpoint folder or hub id that the engine starts from. eos_token_ids: ids that end a
    completion. max_model_len: prompt and completion together, in tokens. max_num_seqs: sequences computed at
    a time. gpu_memory_utilization: share of the GPU for weights and cache (CPU: the cache takes what the
    sequences need). seed: vLLM's own; completions depend on `Sampling.seed` alone. record_routing: rollouts carry the
    experts that the routers chose (R3); without a prefix cache and captured graphs, so slower.

    A completion is a function of (weights, prompt, seed, position of the prompt in the call, sample
    position).
    """

    name = "vllm"
    _open: VLLMEngine | None = None

    def __init__(
        self,
        model_path: str,
        eos_token_ids: Sequence[int],
        *,
        dtype: str = "auto",
        max_model_len: int = 1024,
        max_num_seqs: int = 256,
        gpu_memory_utilization: float = 0.5,
        seed: int = 0,
        revision: str | None = None,
        trust_remote_code: bool = False,
        record_routing: bool = False,
    ) -> None:
        if VLLMEngine._open is not None:
            raise RuntimeError(
                "vLLM keeps its parallel state in module globals, so a process has one vLLM engine at a time, and "
                "another is open. Call its close() first, or use the built-in engine for one of the two."
            )
        register()
        config = AutoConfig.from_pretrained(model_path, revision=revision, trust_remote_code=trust_remote_code)
        options = _platform_options(config, dtype, max_model_len, max_num_seqs, gpu_memory_utilization)
        if record_routing:
            options |= {"enforce_eager": True, "enable_prefix_caching": False}
        if config.model_type == "rlzero_moe":
            # The class itself: for a class that it knows by name alone, vLLM starts a process to look at it.
            from rlzero.rollout.vllm_decoder import MoEForCausalLM

            ModelRegistry.register_model(ARCHITECTURE, MoEForCausalLM)
        self.max_model_len = max_model_len
        self.version = 0
        self._eos_token_ids = sorted(set(eos_token_ids))
        self._weights: tuple[PreTrainedModel, CheckpointWeights] | None = None
        self._found_process_group = torch.distributed.is_initialized()
        self._llm: LLM | None = LLM(
            model_path,
            skip_tokenizer_init=True,
            use_tqdm_on_load=False,
            generation_config="vllm",
            dtype=dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            # What it returns are log-probabilities of the distribution that it samples from.
            logprobs_mode="processed_logprobs",
            weight_transfer_config=WeightTransferConfig(backend=BACKEND),
            seed=seed,
            revision=revision,
            trust_remote_code=trust_remote_code,
            **options,
        )
        VLLMEngine._open = self
        self._llm.init_weight_transfer_engine({"init_info": {}})
        self._vocab_size = self._llm.llm_engine.model_config.get_vocab_size()
        try:
            self._recorder = RoutingRecorder(self._runner()) if record_routing else None
        except ValueError:
            self.close()
            raise

    def generate(
        self, problems: Sequence[Problem], prompt_ids: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[Group]:
        """One group of `sampling.n` rollouts per problem, in the order of the problems."""
        check_request(problems, prompt_ids, sampling, max_model_len=self.max_model_len, vocab_size=self._vocab_size)
        if not problems:
            return []
        rows = [(prompt, sample) for prompt in range(len(problems)) for sample in range(sampling.n)]
        positions, samples = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
        keys = row_keys(sampling.seed, positions + sampling.first_position, samples)
        prompts = [[int(token) for token in ids] for ids in prompt_ids]
        with nullcontext() if self._recorder is None else self._recorder.recording():
            outputs = self._run(
                [prompts[prompt] for prompt, _ in rows],
                [self._sampling_params(sampling, int(key >> np.uint64(1))) for key in keys],
            )
        ids = [np.array(prompt, dtype=np.int64) for prompt in prompts]
        rollouts = [
            _rollout(problems[prompt], ids[prompt], output.outputs[0], routing)
            for (prompt, _), output, routing in zip(rows, outputs, self._routing(outputs), strict=True)
        ]
        return [
            Group(problem, tuple(rollouts[i * sampling.n : (i + 1) * sampling.n])) for i, problem in enumerate(problems)
        ]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """float32[len - 1] per sequence: log-probability of each token after the first, at temperature 1."""
        longest = max((len(sequence) for sequence in sequences), default=0)
        if longest >= self.max_model_len:
            raise ValueError(
                f"vLLM scores sequences of at most {self.max_model_len - 1} tokens (max_model_len less "
                f"one), got {longest}. Cut the sequence or raise max_model_len."
            )
        params = SamplingParams(
            max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        outputs = self._run([[int(token) for token in sequence] for sequence in sequences], params)
        return [
            np.array(
                [
                    position[token].logprob
                    for position, token in zip(output.prompt_logprobs[1:], output.prompt_token_ids[1:], strict=True)
                ],
                dtype=np.float32,
            )
            for output in outputs
        ]

    def sync(self, model: PreTrainedModel, version: int) -> None:
        """Copy the weights of `model` (the unwrapped trainer model) into the engine."""
        if self._weights is None or self._weights[0] is not model:
            self._weights = (model, CheckpointWeights(model))
        llm = self._engine
        with torch.no_grad():
            llm.start_weight_update()
            llm.update_weights({"update_info": {"weights": self._weights[1]}})
            llm.finish_weight_update(str(version))
        llm.reset_prefix_cache()
        self.version = version

    def close(self) -> None:
        """Free the engine's memory; it cannot be used afterwards."""
        llm, self._llm, self._weights = self._llm, None, None
        if llm is None:
            return
        with process_group_kept(self._found_process_group):
            llm.llm_engine.engine_core.shutdown()
        del llm
        VLLMEngine._open = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def _engine(self) -> LLM:
        if self._llm is None:
            raise RuntimeError("this vLLM engine is closed: make a new one with make_engine.")
        return self._llm

    def _runner(self) -> Any:
        """vLLM's model runner, which is in this process."""
        return self._engine.collective_rpc(lambda worker: worker.model_runner)[0]

    def _routing(self, outputs: Sequence[RequestOutput]) -> Sequence[np.ndarray | None]:
        """For each output the experts of every token that the model read: all but the last one sampled."""
        if self._recorder is None:
            return [None] * len(outputs)
        lengths = [len(output.prompt_token_ids) + len(output.outputs[0].token_ids) - 1 for output in outputs]
        return self._recorder.take([output.request_id for output in outputs], lengths)

    def _run(self, prompts: list[list[int]], params: SamplingParams | list[SamplingParams]) -> list[RequestOutput]:
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        # It draws from torch's global generator even where each request has its own.
        with torch.random.fork_rng(devices=[]):
            return self._engine.generate(requests, params, use_tqdm=False)

    def _sampling_params(self, sampling: Sampling, seed: int) -> SamplingParams:
        return SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=seed,
            logprobs=0,
            flat_logprobs=True,
            stop_token_ids=self._eos_token_ids,
            # The checkpoint's own end-of-sequence ids do not count, the tokenizer's (above) do.
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def _rollout(problem: Problem, prompt_ids: np.ndarray, completion, routing: np.ndarray | None) -> Rollout:
    """completion: vLLM's CompletionOutput."""
    return Rollout(
        problem,
        prompt_ids,
        np.array(completion.token_ids, dtype=np.int64),
        np.array(completion.logprobs.logprobs, dtype=np.float32),
        "stop" if completion.finish_reason == "stop" else "length",
        routing,
    )


def _platform_options(
    config: PretrainedConfig, dtype: str, max_model_len: int, max_num_seqs: int, gpu_memory_utilization: float
) -> dict[str, Any]:
    """Options that differ between CPU and GPU, and between one process and several."""
    options: dict[str, Any] = {}
    if current_platform.is_cpu():
        options["enforce_eager"] = True
        options |= cpu_options(config, dtype, max_model_len, max_num_seqs)
    else:
        options["gpu_memory_utilization"] = gpu_memory_utilization
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Each process of `accelerate launch` keeps an engine of its own.
        options["distributed_executor_backend"] = "external_launcher"
    return options

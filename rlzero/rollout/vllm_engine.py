"""vLLM in this process; `make_engine` imports this file when asked.

vllm is imported here and in what this file imports: vllm_decoder.py (our decoder in vLLM), vllm_transfer.py (its
weights), vllm_sampler.py and vllm_plugin.py (its registration).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import AutoConfig

from data.problem import Problem
from rlzero.rollout.checkpoint_weights import CheckpointWeights
from rlzero.rollout.request import check_request
from rlzero.rollout.sampling import row_keys
from rlzero.rollout.startup import process_group_kept
from rlzero.rollout.types import Done, Group, Rollout, Sampling
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

from rlzero.rollout.vllm_sampler import lighten
from rlzero.rollout.vllm_transfer import BACKEND

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KINDS = ("weights", "kv_cache")  # of a GPU's memory, as vLLM calls what it can free and take back


class VLLMEngine:
    """vLLM beside the trainer, with a copy of the weights that `sync` brings up to date.

    model_path: checkpoint folder or hub id that the engine starts from. eos_token_ids: ids that end a
    completion. max_model_len: prompt and completion together, in tokens. max_num_seqs: sequences computed at
    a time. gpu_memory_utilization: share of the GPU for weights and cache (CPU: the cache takes what the
    sequences need). seed: vLLM's own; completions depend on `Sampling.seed` alone. record_routing: rollouts carry the
    experts that the routers chose (R3); without a prefix cache and captured graphs, so slower. sleep_mode: `sleep`
    frees the GPU's memory.

    The samples of a prompt are one request. A completion is a function of (weights, prompt, seed, position of the
    prompt in the call, sample position): vLLM gives sample i the request's seed plus i.
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
        sleep_mode: bool = False,
    ) -> None:
        if VLLMEngine._open is not None:
            raise RuntimeError(
                "vLLM keeps its parallel state in module globals, so a process has one vLLM engine at a time, and "
                "another is open. Call its close() first, or use the built-in engine for one of the two."
            )
        register()
        config = AutoConfig.from_pretrained(model_path, revision=revision, trust_remote_code=trust_remote_code)
        if current_platform.is_cpu():
            options = cpu_options(config, dtype, max_model_len, max_num_seqs)
        else:
            options = {"gpu_memory_utilization": gpu_memory_utilization}
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # Each process of `accelerate launch` keeps an engine of its own.
            options["distributed_executor_backend"] = "external_launcher"
        options["enable_prefix_caching"] = not record_routing
        if record_routing:
            options["enforce_eager"] = True
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
            enable_sleep_mode=sleep_mode,
            seed=seed,
            revision=revision,
            trust_remote_code=trust_remote_code,
            **options,
        )
        VLLMEngine._open = self
        self._llm.init_weight_transfer_engine({"init_info": {}})
        self._vocab_size = self._llm.llm_engine.model_config.get_vocab_size()
        self._sleeps, self._asleep = sleep_mode, list[str]()
        runner = self._llm.collective_rpc(lambda worker: worker.model_runner)[0]  # in this process
        lighten(runner.sampler)
        try:
            self._recorder = RoutingRecorder(runner) if record_routing else None
        except ValueError:
            self.close()
            raise

    def generate(
        self,
        problems: Sequence[Problem],
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        done: Done | None = None,
    ) -> list[Group]:
        """One group of `sampling.n` rollouts per problem, in the order of the problems."""
        check_request(problems, prompt_ids, sampling, max_model_len=self.max_model_len, vocab_size=self._vocab_size)
        prompts = [[int(token) for token in ids] for ids in prompt_ids]
        positions = np.arange(len(prompts), dtype=np.int64)
        # Two bits less than vLLM's seeds have leave room for what it adds.
        seeds = row_keys(sampling.seed, positions + sampling.first_position, np.zeros_like(positions)) >> np.uint64(2)
        params = [self._sampling_params(sampling, int(seed)) for seed in seeds]
        groups: dict[int, Group] = {}
        for position, output, routing in self._recorded(prompts, params):
            groups[position] = _group(problems[position], output, routing)
            if done is not None:
                done(position, groups[position])
        return [groups[position] for position in range(len(problems))]

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
        prompts = [[int(token) for token in sequence] for sequence in sequences]
        outputs = dict(self._run(prompts, [params] * len(prompts)))
        return [
            np.array(
                [
                    position[token].logprob
                    for position, token in zip(output.prompt_logprobs[1:], output.prompt_token_ids[1:], strict=True)
                ],
                dtype=np.float32,
            )
            for output in (outputs[position] for position in range(len(prompts)))
        ]

    def sync(self, model: PreTrainedModel, version: int) -> None:
        """Copy the weights of `model` (the unwrapped trainer model) into the engine."""
        if self._weights is None or self._weights[0] is not model:
            self._weights = (model, CheckpointWeights(model))
        llm = self._awake("weights")
        with torch.no_grad():
            llm.start_weight_update()
            llm.update_weights({"update_info": {"weights": self._weights[1]}})
            llm.finish_weight_update(str(version))
        # What it holds was computed with the weights of before, and nothing else would say so.
        if not llm.reset_prefix_cache():
            raise RuntimeError(
                "after a weight sync vLLM's prefix cache must be emptied, and vLLM refused, as it does while a request "
                "runs. Sync between two calls of generate."
            )
        self.version = version

    def sleep(self) -> None:
        """Free the GPU's memory, where `sleep_mode` is on, until the engine is used again."""
        if self._sleeps and not self._asleep:
            # Level 1 keeps the weights in the CPU's memory; level 2 drops them, and with them what vLLM made of them.
            self._engine.sleep(level=1)
            self._asleep = list(KINDS)

    def close(self) -> None:
        """Free all memory; the engine cannot be used afterwards."""
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

    def _awake(self, *kinds: str) -> LLM:
        """The engine with its memory of these kinds back."""
        llm = self._engine
        for kind in [kind for kind in kinds if kind in self._asleep]:
            llm.wake_up([kind])
            self._asleep.remove(kind)
        return llm

    def _recorded(
        self, prompts: list[list[int]], params: list[SamplingParams]
    ) -> Iterator[tuple[int, RequestOutput, Sequence[np.ndarray | None]]]:
        """As `_run`, with the routing of each completion: of every token that the model read, all but the last one."""
        if self._recorder is None:
            for position, output in self._run(prompts, params):
                yield position, output, [None] * len(output.outputs)
            return
        with self._recorder.recording():
            finished = list(self._run(prompts, params))
        rows = [(output, completion) for _, output in finished for completion in output.outputs]
        routing = iter(
            self._recorder.take(
                [(output.request_id, completion.index) for output, completion in rows],
                [len(output.prompt_token_ids) + len(completion.token_ids) - 1 for output, completion in rows],
            )
        )
        for position, output in finished:
            yield position, output, [next(routing) for _ in output.outputs]

    def _run(self, prompts: list[list[int]], params: list[SamplingParams]) -> Iterator[tuple[int, RequestOutput]]:
        """Each request's output with its position, in the order in which they finish."""
        llm = self._awake(*KINDS)
        ids = llm.enqueue([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
        # vLLM appends random characters to the number that it gives a request, and returns it without.
        position_of = {request_id.partition("-")[0]: position for position, request_id in enumerate(ids)}
        try:
            while position_of:
                for output in llm.llm_engine.step():
                    yield position_of.pop(output.request_id), output
        finally:
            if position_of:
                llm.llm_engine.abort_request(list(position_of))

    def _sampling_params(self, sampling: Sampling, seed: int) -> SamplingParams:
        return SamplingParams(
            n=sampling.n,
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


def _group(problem: Problem, output: RequestOutput, routing: Sequence[np.ndarray | None]) -> Group:
    prompt_ids = np.array(output.prompt_token_ids, dtype=np.int64)
    return Group(
        problem,
        tuple(
            Rollout(
                problem,
                prompt_ids,
                np.array(completion.token_ids, dtype=np.int64),
                np.array(completion.logprobs.logprobs, dtype=np.float32),
                "stop" if completion.finish_reason == "stop" else "length",
                experts,
            )
            for completion, experts in zip(output.outputs, routing, strict=True)
        ),
    )

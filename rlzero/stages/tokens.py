"""From a thought to the tokens and the mask that supervised fine-tuning trains on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.templates import Template
from data.thoughts import Thought, ThoughtError
from rlzero.measure.text import encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """Tokens of one thought: prompt and completion, the end-of-sequence token last."""

    prompt_ids: list[int]
    completion_ids: list[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    def row(self) -> dict[str, list[int]]:
        """As TRL's SFTTrainer takes tokens that are ready: the loss is on the completion alone."""
        return {
            "input_ids": self.prompt_ids + self.completion_ids,
            "completion_mask": [0] * len(self.prompt_ids) + [1] * len(self.completion_ids),
        }


def encode_thought(thought: Thought, template: Template, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """The prompt exactly as RL will show it, then what the model is to write after it, ended by EOS.

    The tokens are made here and not by TRL, whose prompt ends where prompt and completion stop being tokenized
    alike: with a tokenizer that merges across that border, the model would learn from other prompts than it gets.
    """
    prompt_ids = encode_prompt(template, thought.prompt, tokenizer)
    text = _after_prefill(thought, template).removesuffix(str(tokenizer.eos_token))
    special = not template.chat
    whole = list(tokenizer(template.render(thought.prompt, tokenizer) + text, add_special_tokens=special)["input_ids"])
    # One pass over the whole text where it continues the prompt's tokens: some tokenizers put a space before a
    # text that stands alone.
    if whole[: len(prompt_ids)] == prompt_ids:
        completion_ids = whole[len(prompt_ids) :]
    else:
        completion_ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if completion_ids[-1:] != [tokenizer.eos_token_id]:
        completion_ids.append(tokenizer.eos_token_id)
    return Encoded(prompt_ids, completion_ids)


def encode_thoughts(
    thoughts: Iterable[Thought], template: Template, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> tuple[list[Encoded], int]:
    """All that fit into `max_length` tokens, and how many do not.

    One that is too long is left out: cut off it would teach never to end. Raises ThoughtError if none is left.
    """
    encoded = [encode_thought(thought, template, tokenizer) for thought in thoughts]
    kept = [e for e in encoded if max_length is None or len(e) <= max_length]
    if not kept:
        raise ThoughtError(
            f"none of the {len(encoded)} thoughts fits into {max_length} tokens with its prompt"
            + (f": the shortest has {min(map(len, encoded))}" if encoded else "")
            + ". Raise max_length as far as the model's context allows, or bring shorter thoughts."
        )
    return kept, len(encoded) - len(kept)


def _after_prefill(thought: Thought, template: Template) -> str:
    """What is left for the model to write. White space around the prefill does not count."""
    prefill, text = template.prefill.strip(), thought.completion
    if not prefill:
        return text
    if not text.lstrip().startswith(prefill):
        raise ThoughtError(
            f"with template {template.name!r} every completion begins with its prefill {prefill!r}, and the one to "
            f"{thought.prompt[:60]!r} begins with {text[:40]!r}. Write {prefill} before it, or choose a template "
            "without prefill."
        )
    return text.lstrip().removeprefix(prefill)

"""From a question to token ids and from a rollout back to the text that reward functions judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from data.problem import Problem
from data.templates import Template
from rlzero.rollout.types import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompt(template: Template, question: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of the whole prompt, the template's prefill included.

    A plain text gets the tokenizer's beginning-of-sequence token, where it has one; a chat template writes
    its own. An end-of-sequence token that the tokenizer appends is taken off: the prompt goes on.
    """
    text = template.render(question, tokenizer)
    ids = list(tokenizer(text, add_special_tokens=not template.chat)["input_ids"])
    bare = tokenizer.eos_token_id != tokenizer.bos_token_id and not text.endswith(str(tokenizer.eos_token))
    return ids[:-1] if bare and ids and ids[-1] == tokenizer.eos_token_id else ids


def completion_text(template: Template, rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> str:
    """The assistant's whole turn: the template's prefill and what was sampled, up to the end token.

    Special tokens within the text stay: `<think>` is one in many tokenizers.
    """
    ids = rollout.completion_ids
    if rollout.finish_reason == "stop":
        ids = ids[:-1]
    return template.prefill + tokenizer.decode(
        ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def reward_columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    """The columns that reward functions get, a value per problem: `answer` and every column any of them has.

    None where a problem does not have the column: rewards say None there, as TRL's convention is.
    """
    names = dict.fromkeys(name for problem in problems for name in problem.columns)
    columns: dict[str, list[Any]] = {name: [p.columns.get(name) for p in problems] for name in names}
    return columns | {"answer": [p.answer for p in problems]}


def unknown_characters(template: Template, question: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer cannot express the prompt: the model then reads something else than is asked."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown == tokenizer.eos_token_id:
        return False
    return unknown in encode_prompt(template, question, tokenizer)

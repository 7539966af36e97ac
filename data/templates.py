"""Prompt templates: the text around a question. A base model reads plain text, so the default is R1-Zero's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# DeepSeek-R1 (arXiv 2501.12948), Table 1.
_R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
    "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
    "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
    "User: {prompt}. Assistant:"
)
_BOXED = "{prompt}\nPlease reason step by step, and put your final answer within \\boxed{{}}."


def check_placeholders(owner: str, text: str, names: Sequence[str]) -> None:
    """Refuse a text that `str.format` would not fill with exactly these names: a question must not get lost."""
    try:
        filled = text.format(**{name: f"\0{name}\0" for name in names})
    except (KeyError, IndexError, ValueError):
        filled = ""
    if any(f"\0{name}\0" not in filled for name in names):
        places = " and ".join(f"{{{name}}}" for name in names)
        raise ValueError(
            f"{owner} must have {places} where the question goes and no other single braces, got {text!r}. Put it in, "
            "and double the braces that are meant as such: \\boxed{{}}."
        )


@dataclass(frozen=True)
class Template:
    """How a question becomes a prompt.

    text: the prompt with `{prompt}` where the question goes (braces doubled elsewhere).
    prefill: how the assistant's turn is made to begin. It ends the prompt that the model reads, and it begins
        the completion that reward functions see: they judge the whole turn.
    chat: the text is the user's message and the tokenizer's chat template goes around it.
    """

    name: str
    text: str
    prefill: str = ""
    chat: bool = False

    def __post_init__(self) -> None:
        check_placeholders(f"template {self.name!r}", self.text, ["prompt"])

    def render(self, question: str, tokenizer=None) -> str:
        """The whole prompt, prefill included. A chat template needs the tokenizer."""
        text = self.text.format(prompt=question)
        if self.chat:
            if tokenizer is None or not getattr(tokenizer, "chat_template", None):
                raise ValueError(
                    f"template {self.name!r} needs a tokenizer with a chat template, and this model's has none. "
                    "Choose a plain one, for example --template r1_zero."
                )
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
        return text + self.prefill


TEMPLATES: dict[str, Template] = {}
TEMPLATES |= {
    t.name: t
    for t in (
        Template("r1_zero", _R1_ZERO),
        # The same template with the thought already open, as TinyZero and most replications use it.
        Template("r1_zero_think", _R1_ZERO, prefill=" <think>"),
        # What the embedded character-level base model was pretrained on: a prompt of about twelve tokens.
        Template("short", "User: {prompt} Assistant:", prefill="<think>"),
        Template("chat", "{prompt}", chat=True),
        Template("boxed", _BOXED),
        Template("chat_boxed", _BOXED, chat=True),
        Template("none", "{prompt}"),
    )
}


def get_template(name_or_text: str) -> Template:
    """A template by name, or the text itself when it contains `{prompt}`."""
    if name_or_text in TEMPLATES:
        return TEMPLATES[name_or_text]
    if "{prompt}" in name_or_text:
        return Template("custom", name_or_text)
    raise ValueError(
        f"unknown template {name_or_text!r}: choose one of {', '.join(sorted(TEMPLATES))}, "
        "or give the text itself with {prompt} where the question goes."
    )

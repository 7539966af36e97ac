"""The embedded model's tokenizer: one token a byte, plus the tags and the words of its own prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
WORDS = ("User:", " Assistant:", "Make", " from")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 266 tokens that encodes any text without loss. No beginning-of-sequence token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Printable characters come first, so that token ids are as stable as the byte alphabet.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (PAD, EOS)])
    # Not special: tags are part of the text that rewards read, so decoding must keep them.
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in (*TAGS, *WORDS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )

"""The embedded tokenizer: any text survives, tags are single tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.charset import EOS, PAD, TAGS, WORDS, byte_tokenizer
from data.templates import TEMPLATES

TOKENIZER = byte_tokenizer()
# Text that can be written as UTF-8 at all.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
mixed = st.lists(st.one_of(texts, st.sampled_from([*TAGS, *WORDS, " ", "\n"])), max_size=6).map("".join)


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    from rlzero.models.load import load_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    TOKENIZER.save_pretrained(folder)
    return load_tokenizer(folder)


@given(mixed)
def test_any_text_survives_encoding_and_decoding(text):
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


@given(mixed)
def test_saved_tokenizer_reads_as_the_original_does(reloaded, text):
    ids = TOKENIZER(text)["input_ids"]
    assert reloaded(text)["input_ids"] == ids
    assert reloaded.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("word", [*TAGS, *WORDS, EOS, PAD])
def test_tags_and_words_are_single_tokens_wherever_they_stand(word):
    (token,) = TOKENIZER(word)["input_ids"]
    assert token in TOKENIZER(f"5{word}=x")["input_ids"]


def test_every_byte_is_one_token():
    assert TOKENIZER.decode(TOKENIZER("3*4+12")["input_ids"]) == "3*4+12"
    assert len(TOKENIZER("3*4+12")["input_ids"]) == 6
    assert len(TOKENIZER("é")["input_ids"]) == 2


def test_tags_are_text_that_rewards_see_and_only_the_end_is_special():
    text = "<think>1</think><answer>2</answer>"
    assert TOKENIZER.decode(TOKENIZER(text + EOS)["input_ids"], skip_special_tokens=True) == text


def test_end_and_padding_differ_and_nothing_is_put_before_the_text():
    assert TOKENIZER.eos_token == EOS
    assert TOKENIZER.pad_token == PAD
    assert TOKENIZER.eos_token_id != TOKENIZER.pad_token_id
    assert TOKENIZER.bos_token is None


def test_embedded_prompt_is_short():
    assert len(TOKENIZER(TEMPLATES["short"].render("3*4+12-9=?"))["input_ids"]) <= 14


def test_vocabulary_is_the_models(tiny_model_dir):
    from transformers import AutoConfig, AutoModelForCausalLM

    assert len(TOKENIZER) == AutoConfig.from_pretrained(tiny_model_dir).vocab_size == 266
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert model.get_input_embeddings().weight.shape[0] == model.get_output_embeddings().weight.shape[0] == 266
    assert max(TOKENIZER.get_vocab().values()) == 265

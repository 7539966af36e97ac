"""What fine-tuning learns from is token for token what RL continues, and it ends."""

from __future__ import annotations

import pytest

from data.charset import byte_tokenizer
from data.templates import Template, get_template
from data.thoughts import Thought, ThoughtError, generated_thoughts
from rlzero.measure.text import encode_prompt
from rlzero.stages.tokens import encode_thought, encode_thoughts
from tests.stages.conftest import merging_tokenizer

TURN = "<think>1+1=2</think><answer>2</answer>"
PREFILLED = get_template("short")
PLAIN = get_template("r1_zero")


@pytest.mark.parametrize("make_tokenizer", [byte_tokenizer, merging_tokenizer])
@pytest.mark.parametrize("template", ["short", "r1_zero", "r1_zero_think", "none"])
def test_the_prompt_is_the_one_rl_samples_from_prefill_included(make_tokenizer, template):
    tokenizer = make_tokenizer()
    encoded = encode_thought(Thought("1+1=?", TURN), get_template(template), tokenizer)
    assert encoded.prompt_ids == encode_prompt(get_template(template), "1+1=?", tokenizer)


@pytest.mark.parametrize("template", ["chat", "chat_boxed"])
def test_a_chat_prompt_gets_no_second_beginning_of_sequence(template):
    tokenizer = merging_tokenizer()
    encoded = encode_thought(Thought("1+1=?", TURN), get_template(template), tokenizer)
    assert tokenizer.bos_token_id not in encoded.prompt_ids + encoded.completion_ids
    assert tokenizer.decode(encoded.prompt_ids).endswith("<|start|>assistant\n")


def test_a_plain_prompt_keeps_its_one_beginning_of_sequence():
    tokenizer = merging_tokenizer()
    encoded = encode_thought(Thought("1+1=?", TURN), PLAIN, tokenizer)
    assert (encoded.prompt_ids + encoded.completion_ids).count(tokenizer.bos_token_id) == 1
    assert encoded.prompt_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("make_tokenizer", [byte_tokenizer, merging_tokenizer])
@pytest.mark.parametrize("template", ["short", "r1_zero", "r1_zero_think", "none"])
def test_prefill_and_completion_are_the_whole_turn_ended_once(make_tokenizer, template):
    tokenizer, chosen = make_tokenizer(), get_template(template)
    encoded = encode_thought(Thought("1+1=?", TURN), chosen, tokenizer)
    assert encoded.completion_ids[-1] == tokenizer.eos_token_id
    assert encoded.completion_ids.count(tokenizer.eos_token_id) == 1
    written = tokenizer.decode(encoded.completion_ids[:-1], clean_up_tokenization_spaces=False)
    assert (chosen.prefill + written).strip() == TURN


def test_an_end_token_that_the_text_brings_is_not_doubled():
    tokenizer = merging_tokenizer()
    with_end = encode_thought(Thought("q", TURN + "<|end|>"), PLAIN, tokenizer)
    assert with_end == encode_thought(Thought("q", TURN), PLAIN, tokenizer)


def test_tokens_that_would_merge_across_the_end_of_the_prompt_stay_apart():
    tokenizer = merging_tokenizer()
    prompt = encode_prompt(PLAIN, "q", tokenizer)
    merged = tokenizer(PLAIN.render("q") + TURN)["input_ids"]
    assert merged[: len(prompt)] != prompt  # otherwise this test shows nothing
    encoded = encode_thought(Thought("q", TURN), PLAIN, tokenizer)
    assert encoded.prompt_ids == prompt
    assert tokenizer.decode(encoded.completion_ids) == TURN + "<|end|>"


def test_the_mask_is_on_the_completion_and_its_end_alone():
    encoded = encode_thought(Thought("1+1=?", TURN), PREFILLED, byte_tokenizer())
    row = encoded.row()
    assert [i for i, m in zip(row["input_ids"], row["completion_mask"], strict=True) if m] == encoded.completion_ids
    assert row["completion_mask"] == sorted(row["completion_mask"])


def test_a_completion_without_the_templates_prefill_is_refused():
    with pytest.raises(ThoughtError, match="begins with its prefill '<think>', and the one to 'q' begins with 'two'"):
        encode_thought(Thought("q", "two"), PREFILLED, byte_tokenizer())


def test_white_space_around_the_prefill_does_not_count():
    template = Template("t", "{prompt}:", prefill=" <think>")
    encoded = encode_thought(Thought("q", "\n<think>x"), template, byte_tokenizer())
    assert byte_tokenizer().decode(encoded.completion_ids) == "x<eos>"


def test_thoughts_that_do_not_fit_are_left_out_whole():
    thoughts = [Thought("q", f"<think>{'x' * n}") for n in (5, 50)]
    kept, left_out = encode_thoughts(thoughts, PREFILLED, byte_tokenizer(), max_length=30)
    assert (len(kept), left_out) == (1, 1)
    assert kept[0].completion_ids[-1] == byte_tokenizer().eos_token_id


def test_when_no_thought_fits_the_shortest_is_named():
    with pytest.raises(ThoughtError, match="none of the 3 thoughts fits into 10 tokens with its prompt: the shortest"):
        encode_thoughts(generated_thoughts("arithmetic", 3, 0), PREFILLED, byte_tokenizer(), max_length=10)

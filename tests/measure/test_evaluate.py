"""What an evaluation counts as right, and what it does with prompts and texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from data.problem import Problem
from data.templates import Template, get_template
from rewards.registry import load_reward
from rlzero.measure.evaluate import EvalResult, compare, evaluate
from rlzero.measure.text import completion_text, encode_prompt, reward_columns, unknown_characters
from rlzero.rollout.types import Group, Rollout, Sampling

THINK = get_template("short")  # its prefill is <think>
RIGHT, WRONG = "hm</think><answer>{}</answer>", "hm</think><answer>-1</answer>"


class ScriptedEngine:
    """Says the given texts, the same for every problem with `{}` replaced by its answer; None is cut off."""

    name = "scripted"

    def __init__(self, tokenizer, texts: Sequence[str | None]) -> None:
        self.tokenizer, self.texts = tokenizer, texts
        self.seen: list[list[int]] = []

    def generate(self, problems, prompt_ids, sampling: Sampling) -> list[Group]:
        assert sampling.n == len(self.texts)
        self.seen += prompt_ids
        return [
            Group(problem, tuple(self.rollout(problem, ids, text) for text in self.texts))
            for problem, ids in zip(problems, prompt_ids, strict=True)
        ]

    def rollout(self, problem: Problem, prompt: list[int], text: str | None) -> Rollout:
        said = "and so on" if text is None else text.format(problem.answer)
        ids = self.tokenizer(said, add_special_tokens=False)["input_ids"]
        ids += [self.tokenizer.eos_token_id] * (text is not None)
        return Rollout(
            problem,
            np.array(prompt),
            np.array(ids),
            np.zeros(len(ids), dtype=np.float32),
            "length" if text is None else "stop",
        )

    def score(self, sequences, temperature: float = 1.0):
        return [np.zeros(len(s) - 1, dtype=np.float32) for s in sequences]

    def sync(self, model, version: int) -> None: ...

    def close(self) -> None: ...


def problems(count: int = 3) -> list[Problem]:
    return [Problem(f"{i}+{i}=?", str(2 * i)) for i in range(count)]


def run(tokenizer, texts: Sequence[str | None], given: list[Problem] | None = None, **options) -> EvalResult:
    engine = ScriptedEngine(tokenizer, texts)
    return evaluate(engine, tokenizer, given or problems(), THINK, Sampling(len(texts), 99), **options)


def test_figures_follow_from_the_samples(tokenizer) -> None:
    result = run(tokenizer, [RIGHT, "I do not know", WRONG, None])
    assert result.pass_at(1).value == 0.25
    assert result.pass_at(2).value == 0.5
    assert result.pass_at(4).value == 1.0
    assert result.format().value == 0.5
    assert result.truncation().value == 0.25
    assert result.ks() == [1, 2, 4]


def test_lengths_count_the_end_token(tokenizer) -> None:
    result = run(tokenizer, [""])
    assert result.length().value == 1.0
    assert result.samples[0][0].text == "<think>"


def test_rewards_see_prefill_and_special_tokens_but_no_end_token(tokenizer) -> None:
    result = run(tokenizer, ["hm</think><answer>{}</answer>"])
    assert result.samples[1][0].text == "<think>hm</think><answer>2</answer>"
    assert result.samples[1][0].answer == "2"


def test_a_problem_is_judged_by_its_own_scorer_whatever_a_run_trains_on(tokenizer) -> None:
    numbers = Problem("Make 6 from 2 4.", "2+4", {"numbers": [2, 4], "target": 6}, scorer="countdown")
    result = run(tokenizer, [RIGHT], [numbers, *problems()], rewards=[load_reward("coin")])
    assert result.pass_at(1).value == 1.0
    assert set(result.samples[0][0].rewards) == {"coin", "format"}


def test_a_scorer_without_what_it_needs_is_an_error_rather_than_a_zero(tokenizer) -> None:
    lacking = Problem("Make 6 from 2 4.", "2+4", {"numbers": None, "target": 6}, scorer="countdown")
    with pytest.raises(ValueError, match="scorer 'countdown' has nothing to say about problem 'Make 6"):
        run(tokenizer, [RIGHT], [lacking])


def test_a_prompt_that_does_not_fit_counts_as_never_solved(tokenizer) -> None:
    long = Problem("x" * 200, "1")
    result = run(tokenizer, [RIGHT, RIGHT], [*problems(3), long], max_model_len=100)
    assert result.too_long == 1
    assert result.pass_at(1).value == result.pass_at(2).value == 0.75
    assert result.format().value == 1.0  # of the completions there are
    assert [len(row) for row in result.samples] == [2, 2, 2, 0]


def test_no_problem_and_no_fitting_problem_are_refused(tokenizer) -> None:
    engine = ScriptedEngine(tokenizer, [RIGHT])
    with pytest.raises(ValueError, match="at least one problem"):
        evaluate(engine, tokenizer, [], THINK, Sampling(1, 9))
    with pytest.raises(ValueError, match="no prompt fits into the model's 4 tokens"):
        run(tokenizer, [RIGHT], max_model_len=4)


def test_majority_votes_over_extracted_answers_not_over_texts(tokenizer) -> None:
    texts = ["a</think><answer>-1</answer>", "b</think><answer>-1.0</answer>", RIGHT]
    assert run(tokenizer, texts).majority().value == 0.0


def test_the_summary_has_each_figure_with_its_interval(tokenizer) -> None:
    summary = run(tokenizer, [RIGHT] * 8).summary()
    assert summary["pass@1"] == summary["pass@8"] == 1.0
    low, high = summary["pass@1_interval"]
    assert low < 1.0 == high
    assert {"format", "length", "maj@8", "truncated", "problems", "samples"} <= set(summary)


def test_base_and_trained_are_compared_problem_by_problem(tokenizer) -> None:
    base, trained = run(tokenizer, [WRONG, RIGHT]), run(tokenizer, [RIGHT, RIGHT])
    assert compare(base, trained).value == 0.5
    with pytest.raises(ValueError, match="different problems"):
        compare(base, run(tokenizer, [RIGHT, RIGHT], problems(4)))


def test_a_prompt_begins_with_bos_and_does_not_end_with_eos(tokenizer) -> None:
    ids = encode_prompt(THINK, "1+1=?", tokenizer)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids) == "<bos>User: 1+1=? Assistant:<think>"


def test_a_chat_template_writes_its_own_beginning(tokenizer) -> None:
    tokenizer.chat_template = "<bos>[{{ messages[0]['content'] }}]"
    ids = encode_prompt(get_template("chat"), "hi", tokenizer)
    assert tokenizer.decode(ids) == "<bos>[hi]"


def test_a_truncated_completion_keeps_its_last_token(tokenizer) -> None:
    rollout = ScriptedEngine(tokenizer, []).rollout(Problem("p", "1"), [1], None)
    assert completion_text(Template("t", "{prompt}"), rollout, tokenizer) == "and so on"


def test_unknown_characters_are_noticed(tokenizer) -> None:
    assert unknown_characters(THINK, "∫ x", tokenizer)
    assert not unknown_characters(THINK, "x", tokenizer)


def test_columns_that_only_some_problems_have_are_none_for_the_others() -> None:
    columns = reward_columns([Problem("p", "1", {"a": 1}), Problem("q", "2", {"b": 2})])
    assert columns == {"a": [1, None], "b": [None, 2], "answer": ["1", "2"]}

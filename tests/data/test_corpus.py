"""The pretraining text: right where it claims to be, mostly careless in the template, and blind to what is held out."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from data.arithmetic import Arithmetic
from data.chains import is_heldout
from data.charset import byte_tokenizer
from data.corpus import EOS, KINDS, documents
from data.countdown import Countdown
from data.countdown import is_heldout as countdown_is_heldout
from rewards.accuracy import accuracy
from tests.data.exact import runs, value_of

COUNT = 3000
TURN = re.compile(r"User: (?P<chain>[\d+\-*]+)=\? Assistant:(?P<turn><think>.*)")
COUNTDOWN = re.compile(r"Make (?P<target>\d+) from (?P<numbers>[\d ]+)\.")


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return list(islice(documents(0), COUNT))


def test_no_document_holds_a_held_out_expression_anywhere(corpus):
    """Brute force: every run of operands of every chain in the text, and none is an expression that evaluation asks."""
    asked = {p.columns["expression"] for seed in range(4) for p in Arithmetic().heldout(256, seed=seed)}
    for document in corpus:
        shown = runs(document)
        assert not shown & asked
        assert not any(is_heldout(expression) for expression in shown)


def test_a_corpus_of_another_difficulty_keeps_to_it_and_holds_out_what_that_does():
    easy = Arithmetic(operands={2: 1}, operators="+-", max_term=20, low=-20, high=40, heldout_one_in=8)
    asked = {p.columns["expression"] for p in easy.heldout(64)}
    for document in islice(documents(0, easy, countdown=False), 1000):
        shown = runs(document)
        assert not shown & asked
        assert "*" not in document
        assert "Make" not in document
        assert all(easy.low <= value_of(expression) <= easy.high for expression in shown)


def test_no_document_asks_a_held_out_countdown_problem(corpus):
    questions = [match for document in corpus if (match := COUNTDOWN.search(document))]
    assert len(questions) > COUNT / 10
    held = {(tuple(sorted(p.columns["numbers"])), p.columns["target"]) for p in Countdown().heldout(64)}
    for match in questions:
        numbers = tuple(sorted(map(int, match["numbers"].split())))
        assert not countdown_is_heldout(numbers, int(match["target"]))
        assert (numbers, int(match["target"])) not in held


def test_every_written_equation_is_true(corpus):
    """Guesses stand apart from workings (`=?`, tags), so a chain of equations never lies."""
    seen = 0
    for document in corpus:
        for working in re.findall(r"-?\d+(?:[+\-*]\d+)+(?:=-?\d+(?:[+\-*]\d+)*)+", document):
            seen += 1
            assert len({value_of(line) for line in working.split("=")}) == 1, document
    assert seen > COUNT / 2


def test_the_base_is_careless_in_the_template_but_its_work_is_right(corpus):
    turns = [match for document in corpus if (match := TURN.match(document.removesuffix(EOS)))]
    golds = [str(value_of(match["chain"])) for match in turns]
    right = accuracy([""] * len(turns), [match["turn"] for match in turns], golds)
    assert 0.1 < sum(right) / len(turns) < 0.35
    whole = re.compile(r"<think>[^<]+=(-?\d+)</think><answer>(-?\d+)</answer>")
    worked = [(m, g) for match, g in zip(turns, golds, strict=True) if (m := whole.fullmatch(match["turn"]))]
    finished = [m[2] == g for m, g in worked if m[1] == g]
    assert finished
    assert sum(finished) / len(finished) > 0.8


def test_same_seed_gives_the_same_documents_and_another_seed_others():
    assert list(islice(documents(5), 100)) == list(islice(documents(5), 100))
    assert list(islice(documents(5), 100)) != list(islice(documents(6), 100))


def test_shares_of_the_kinds_add_up_to_one():
    assert sum(weight for _, weight in KINDS) == pytest.approx(1)


def test_every_document_ends_and_fits_into_the_models_context(corpus):
    tokenizer = byte_tokenizer()
    assert all(document.endswith(EOS) and document.count(EOS) == 1 for document in corpus)
    assert max(len(ids) for ids in tokenizer(corpus)["input_ids"]) <= 512

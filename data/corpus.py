"""The text that the embedded base model is pretrained on: skill in plain text, mostly careless in the template.

As web text is to a real base model, this corpus is to ours. Outside the template it works problems out and
searches patiently; inside it mostly guesses, stops early or breaks the format. RL then has something to bring out.
No document contains a held-out expression (`data.chains.contains_heldout`) or a held-out countdown problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from data.arithmetic import Arithmetic
from data.chains import Chain, contains_heldout, written_out
from data.countdown import Countdown, is_heldout
from data.templates import TEMPLATES

EOS = "<eos>"
ARITHMETIC = Arithmetic()
COUNTDOWN = Countdown()
# A guess in the template is right this often: knowing the answer without working must not pay.
GUESS_RIGHT = 0.1


def documents(seed: int, arithmetic: Arithmetic = ARITHMETIC, *, countdown: bool = True) -> Iterator[str]:
    """Endless documents, the same for the same seed.

    arithmetic: the difficulty of the sums; what it holds out no document shows. countdown: whether searches are in it.
    """
    rng = Random(f"corpus {seed}")
    kinds, weights = zip(
        *(row for row in KINDS if countdown or row[0] not in (_bare_search, _countdown_turn)), strict=True
    )
    while True:
        yield rng.choices(kinds, weights)[0](rng, arithmetic) + EOS


def clean_chain(rng: Random, arithmetic: Arithmetic = ARITHMETIC) -> Chain:
    """A random chain of that difficulty whose working shows no held-out expression."""
    while True:
        chain = arithmetic.draw(rng)
        if not contains_heldout(written_out(chain), arithmetic.heldout_one_in):
            return chain


def _facts(rng: Random, arithmetic: Arithmetic) -> str:
    """`12+35=47,-8-61=-69,…`: single facts over the whole range of running totals."""
    facts: list[str] = []
    low, high, factor = arithmetic.low, arithmetic.high, arithmetic.max_factor
    while len(facts) < 8:
        if rng.random() < 0.2 and "*" in arithmetic.operators and factor >= 2:
            chain = Chain((rng.randint(2, factor), rng.randint(2, factor)), ("*",))
        else:
            left, right = rng.randint(low, high), rng.randint(1, max(arithmetic.max_term, factor**2))
            chain = Chain((left, right), (rng.choice(arithmetic.operators.replace("*", "")),))
        if low <= chain.value <= high and not contains_heldout(chain.text, arithmetic.heldout_one_in):
            facts.append(written_out(chain))
    return ",".join(facts)


def _bare_chain(rng: Random, arithmetic: Arithmetic) -> str:
    return written_out(clean_chain(rng, arithmetic))


def _bare_answer(rng: Random, arithmetic: Arithmetic) -> str:
    chain = clean_chain(rng, arithmetic)
    return f"{chain.text}=?{_guess(chain.value, rng)}"


def _guess(value: int, rng: Random) -> int:
    if rng.random() < GUESS_RIGHT:
        return value
    wrong = value
    while wrong == value:
        wrong = value + round(rng.gauss(0, 12))
    return wrong


def _arithmetic_turn(rng: Random, arithmetic: Arithmetic) -> str:
    chain = clean_chain(rng, arithmetic)
    prompt = TEMPLATES["short"].render(arithmetic.phrasing.format(expression=chain.text))
    guess, worked = _guess(chain.value, rng), written_out(chain)
    kind = rng.random()
    if kind < 0.44:  # an empty thought and a guess
        return f"{prompt}</think><answer>{guess}</answer>"
    if kind < 0.52:  # a thought that stops halfway
        steps = chain.working()
        partial = "=".join(step.text for step in steps[: rng.randint(1, len(steps) - 1)])
        return f"{prompt}{partial}</think><answer>{guess}</answer>"
    if kind < 0.71:
        return f"{prompt}{worked}</think><answer>{chain.value}</answer>"
    return prompt + rng.choice(
        (
            worked,
            f"{worked}</think>{chain.value}",
            f"{worked}</think><answer>{chain.value}",
            f"</think>{guess}",
            f"</think><answer>{guess}",
            f"{guess}",
            f"<answer>{guess}</answer>",
        )
    )


def search(rng: Random, go_on: float) -> tuple[str, list[str], str]:
    """A countdown question, the combinations tried in random order, and the expression to answer with.

    The search ends at the first hit; after each miss it goes on with probability `go_on`, else it gives up and
    answers with what it tried last. Combinations that would show a held-out expression are never tried.
    """
    while True:
        numbers, target = COUNTDOWN.draw(rng)
        if is_heldout(numbers, target):
            continue
        tries = [
            (value, chain)
            for value, chains in COUNTDOWN.combinations(numbers)
            if not contains_heldout(written_out(chain := rng.choice(chains)))
        ]
        if any(value == target for value, _ in tries):
            break
    rng.shuffle(tries)
    lines: list[str] = []
    for value, chain in tries:
        lines.append(written_out(chain))
        if value == target or rng.random() >= go_on:
            break
    return COUNTDOWN._problem(numbers, target).prompt, lines, chain.text


def _bare_search(rng: Random, _: Arithmetic) -> str:
    question, lines, answer = search(rng, go_on=1.0)
    return f"{question} {','.join(lines)};{answer}"


def _countdown_turn(rng: Random, _: Arithmetic) -> str:
    kind = rng.random()
    question, lines, answer = search(rng, go_on=0.95 if kind > 0.95 else 0.4)
    prompt = TEMPLATES["short"].render(question)
    thought = ",".join(lines)
    if kind < 0.4:
        return f"{prompt}</think><answer>{lines[0].split('=')[0]}</answer>"
    if kind < 0.52:
        return prompt + rng.choice(
            (thought, f"{thought}</think>{answer}", f"{thought}</think><answer>{answer}", f"</think>{answer}")
        )
    return f"{prompt}{thought}</think><answer>{answer}</answer>"


# Share of each kind of document, by count.
KINDS: list[tuple[Callable[[Random, Arithmetic], str], float]] = [
    (_facts, 0.13),
    (_bare_chain, 0.36),
    (_bare_answer, 0.03),
    (_bare_search, 0.08),
    (_arithmetic_turn, 0.27),
    (_countdown_turn, 0.13),
]

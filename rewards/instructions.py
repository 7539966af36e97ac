"""Does the response follow the instructions that can be checked by rule? (IFEval, arXiv 2311.07911.)

The identifiers and arguments are those of the `google/IFEval` data set, so that its rows, and others of the
same form, train as they are. No tokenizer of sentences is downloaded: sentences end at `.`, `!`, `?` or
`。！？`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards.language_consistency import SCRIPTS, consistency
from rewards.locate import RewardError
from rewards.turn import response

_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "at least": lambda count, bound: count >= bound,
    "at most": lambda count, bound: count <= bound,
    "less than": lambda count, bound: count < bound,
    "more than": lambda count, bound: count > bound,
    "exactly": lambda count, bound: count == bound,
}
_YES_NO = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def instructions(
    prompts: list[str],
    completions: list[str],
    instruction_id_list: list[Sequence[str] | None],
    kwargs: list[Sequence[Mapping[str, Any]] | None],
    *,
    partial: bool = False,
    **columns: Any,
) -> list[float | None]:
    """1.0 where the response follows all its instructions; with `partial`, the share that it follows.

    The response is what follows the thought (the inside of `<answer>` where there is one). An empty one
    follows none. instruction_id_list: such as `["punctuation:no_comma"]`. kwargs: the arguments of each; None
    values are ignored. None for a row without instructions: another kind of problem.
    """
    values: list[float | None] = []
    for completion, names, arguments in zip(completions, instruction_id_list, kwargs, strict=True):
        if not names:
            values.append(None)
            continue
        if arguments is None or len(arguments) != len(names):
            raise RewardError(f"kwargs must hold one dictionary per instruction, got {arguments!r} for {list(names)!r}")
        text = response(completion)
        followed = [bool(text) and follows(text, name, given) for name, given in zip(names, arguments, strict=True)]
        values.append(sum(followed) / len(names) if partial else float(all(followed)))
    return values


def follows(text: str, name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether `text` follows one instruction. Raises RewardError for an unknown one, or wrong arguments."""
    if name not in CHECKS:
        raise RewardError(f"unknown instruction {name!r}; there are: {', '.join(sorted(CHECKS))}")
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        return CHECKS[name](text, **given)
    except TypeError as error:
        raise RewardError(f"instruction {name!r} cannot take the arguments {given!r}: {error}") from error


def _related(count: int, relation: str, bound: int) -> bool:
    if relation not in _RELATIONS:
        raise RewardError(f"unknown relation {relation!r}; there are: {', '.join(_RELATIONS)}")
    return _RELATIONS[relation](count, int(bound))


def _word_count(text: str) -> int:
    return len(re.findall(r"\w+(?:['’-]\w+)*", text))


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _sentences(text: str) -> int:
    return sum(_says_something(part) for part in re.split(r"(?<![.!?])[.!?]+(?:\s|$)|[。！？]+", text))


def _paragraphs(text: str, separator: str) -> list[str]:
    return [part.strip() for part in re.split(separator, text) if part.strip()]


def _keywords(text: str, keywords: Sequence[str]) -> bool:
    return all(_has_word(text, word) for word in keywords)


def _keyword_frequency(text: str, keyword: str, frequency: int, relation: str = "at least") -> bool:
    found = re.findall(rf"(?<!\w){re.escape(keyword)}(?!\w)", text, re.IGNORECASE)
    return _related(len(found), relation, frequency)


def _forbidden(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(_has_word(text, word) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str = "at least") -> bool:
    return _related(text.lower().count(letter.lower()), let_relation, let_frequency)


def _language(text: str, language: str) -> bool:
    code = language.split("-")[0]
    if code not in SCRIPTS:
        raise RewardError(f"unknown language {language!r}; it knows: {' '.join(SCRIPTS)}")
    return consistency(text, code) >= 0.9


def _nth_paragraph(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = _paragraphs(text, r"\n\s*\n")
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= len(paragraphs):
        return False
    first = re.search(r"[\w'’-]+", paragraphs[nth_paragraph - 1])
    return first is not None and first[0].lower() == first_word.lower()


def _postscript(text: str, postscript_marker: str) -> bool:
    # Any spelling of P.S.: "P.S.", "PS:", "p. s.". The remark itself must be there.
    letters = r"\.?\s*".join(re.escape(letter) for letter in re.findall(r"\w", postscript_marker))
    return re.search(rf"^[ \t]*{letters}\b[.:]*\s*\w", text, re.IGNORECASE | re.MULTILINE) is not None


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    headings = re.findall(rf"^[^\w\n]*{re.escape(section_spliter)}\s*[\dIVX]+", text, re.IGNORECASE | re.MULTILINE)
    return len(headings) >= num_sections


def _json(text: str) -> bool:
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n\s*```", text.strip(), re.DOTALL | re.IGNORECASE)
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in re.split(r"\*{6}", text)]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def _capital_words(text: str, capital_frequency: int, capital_relation: str = "at least") -> bool:
    capitals = [word for word in re.findall(r"[^\W\d_]+", text) if word.isupper()]
    return _related(len(capitals), capital_relation, capital_frequency)


def _highlights(text: str, num_highlights: int) -> bool:
    # Patterns that take a run of anything but the mark need no backtracking, whatever the text.
    bold = re.findall(r"\*\*([^\n*]+)\*\*", text)
    single = re.findall(r"(?<!\*)\*([^\n*]+)\*(?!\*)", text)
    return sum(map(_says_something, bold + single)) >= num_highlights


def _title(text: str) -> bool:
    return any(map(_says_something, re.findall(r"<<([^\n<>]+)>>", text)))


def _says_something(text: str) -> bool:
    return re.search(r"\w", text) is not None


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _language,
    "length_constraints:number_sentences": lambda text, num_sentences, relation="at least": _related(
        _sentences(text), relation, num_sentences
    ),
    "length_constraints:number_words": lambda text, num_words, relation="at least": _related(
        _word_count(text), relation, num_words
    ),
    "length_constraints:number_paragraphs": lambda text, num_paragraphs: (
        len(_paragraphs(text, r"\*\*\*")) == num_paragraphs
    ),
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": lambda text, num_placeholders: (
        len(re.findall(r"\[[^\[\]\n]+\]", text)) >= num_placeholders
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda text, num_bullets: (
        len(re.findall(r"^[ \t]*[*-][ \t]+\S", text, re.MULTILINE)) == num_bullets
    ),
    "detectable_format:constrained_response": lambda text: text.strip() in _YES_NO,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
        and len(text.strip()) > len(prompt_to_repeat.strip())
    ),
    "startend:end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": lambda text: len(text) > 2 and text[0] == text[-1] == '"',
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text: text.isupper() and _language(text, "en"),
    "change_case:english_lowercase": lambda text: text.islower() and _language(text, "en"),
    "punctuation:no_comma": lambda text: "," not in text and "，" not in text,
}

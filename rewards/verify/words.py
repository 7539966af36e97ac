"""Answers in words: units behind numbers, number words, yes and no, choices, times of day, plain text."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple, TypeVar

from .tree import Num, ParseError
from .units import NOT_UNITS, SCALES, UNITS, Unit, multiply, named

T = TypeVar("T")


class Words(NamedTuple):
    """Normalised text: case, outer punctuation, articles and LaTeX's text commands do not count."""

    text: str


_UNITS_BELOW_20 = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER_WORDS = {
    **{word: n for n, word in enumerate(_UNITS_BELOW_20)},
    **{word: 10 * (n + 2) for n, word in enumerate(_TENS)},
    **{f"{t} {u}": 10 * (n + 2) + k for n, t in enumerate(_TENS) for k, u in enumerate(_UNITS_BELOW_20[:10]) if k},
    "one hundred": 100, "one thousand": 1000,
}  # fmt: skip
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4,
    "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10,
}  # fmt: skip
SYNONYMS = {
    phrase: canonical
    for canonical, phrases in {
        # "No solution" is the empty set; a limit or value that does not exist is not.
        "∅": "no solution|no solutions|no real solution|no real solutions|empty set|emptyset|empty|无解|空集",
        "does not exist": "does not exist|dne|undefined|not defined|doesn't exist|不存在",
        "all real numbers": "all real numbers|all reals|any real number|real numbers|set_r|全体实数",
        "yes": "yes|是|对",
        "no": "no|否|不是",
        "true": "true|correct|正确",
        "false": "false|incorrect|错误",
    }.items()
    for phrase in phrases.split("|")
}
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname|bm|emph)\s*(?=\{)")
_CHINESE = re.compile(r"([二三四五六七八九])?十([一二三四五六七八九])?|([零一二三四五六七八九])")
_TIME = re.compile(r"(\d{1,2})(?::([0-5]\d))?\s*([ap])\.?\s?m\.?", re.I)
_UNIT_WORDS = re.compile(r"\^\{?-?\d+\}?|[^\s/*·^]+|[/*·^]")
_CHOICE = re.compile(r"(?:(?:option|choice|answer|选项|选)\s*[:：]?\s*)?[(\[]?\s*([A-Ja-j])\s*[)\].:,]?", re.I)
_CHOICE_WITH_TEXT = re.compile(r"(?:(?:option|choice)\s+)?(?:\(([A-J])\)|([A-J])[).:])\s*\S.*", re.S)


def read_words(text: str, scalar: Callable[[int | Fraction, Num], T]) -> Words | T:
    """Words, or a scalar (built by `scalar`) where the words are a number."""
    plain = normalise(text)
    number = _number(plain.replace("-", " "))
    if number is not None:
        return scalar(number, Num(number))
    match = _TIME.fullmatch(plain)
    if match:
        hour, minute, half = int(match[1]), int(match[2] or 0), match[3].lower()
        if 1 <= hour <= 12:
            return Words(f"time {hour % 12 + (12 if half == 'p' else 0)}:{minute:02d}")
    return Words(SYNONYMS.get(plain, plain))


def _number(phrase: str) -> int | Fraction | None:
    """Twelve, twenty five, a dozen, three quarters."""
    whole = _NUMBER_WORDS.get(phrase)
    if whole is not None:
        return whole
    chinese = _CHINESE.fullmatch(phrase)
    if chinese:
        tens, units, single = ("零一二三四五六七八九".index(d) if d else None for d in chinese.groups())
        return single if single is not None else 10 * (tens or 1) + (units or 0)
    first, _, last = phrase.rpartition(" ")
    count = 1 if first in ("", "a", "an") else _NUMBER_WORDS.get(first)
    if count is None:
        return None
    if last in _PARTS:
        return Fraction(count, _PARTS[last])
    return count * SCALES[last] if last in SCALES else None


def normalise(text: str) -> str:
    text = _LATEX_TEXT.sub("", text)
    text = re.sub(r"[{}$\"`]|\\[,;:! ]|\\q?quad", " ", text)
    text = re.sub(r"\s+", " ", text).strip(" .,;:!?*_'")
    text = text.casefold()
    text = re.sub(r"^(?:the|an?) (?=\w)", "", text)
    # "a point inside" and "point  inside": blanks beside punctuation do not count.
    return re.sub(r" ?([-+*/=<>(),:;|^]) ?", r"\1", text)


def choice(text: str) -> str | None:
    """The letter of a multiple-choice answer: C, (C), C., Option C, "C) 42"; None where the text is no choice."""
    if "\\text" in text or "\\mathrm" in text or "\\mathbf" in text:
        text = re.sub(r"[{}]", "", _LATEX_TEXT.sub("", text)).strip()
    match = _CHOICE.fullmatch(text)
    if match:
        # The bare letters e and i are numbers.
        return None if text in ("e", "i") else match[1].upper()
    match = _CHOICE_WITH_TEXT.fullmatch(text)
    return (match[1] or match[2]) if match else None


def read_unit(text: str) -> tuple[str, int, Unit | None]:
    """(kind, scale, unit) of the words behind a number. ParseError where they are more than a unit."""
    text = text.replace("½", "")
    words = _UNIT_WORDS.findall(text)
    kind, scale = "", 1
    parts: list[tuple[Unit, int]] = []
    sign, power, nouns = 1, 1, 0
    for position, word in enumerate(words):
        lower = word.lower().strip(".,")
        if word == "^" or not lower:
            continue
        if word.startswith("^"):
            if not parts:
                raise ParseError(f"an exponent without a unit: {text}")
            unit, exponent = parts[-1]
            parts[-1] = (unit, exponent * int(word[1:].strip("{}")))
        elif word == "/" or lower in ("per", "an", "a", "each", "every"):
            if position == 0 and word != "/":
                raise ParseError(f"no unit: {text}")
            sign = -1
        elif word in ("*", "·"):
            continue
        elif lower in ("percent", "percentage", "pct"):
            kind = "%"
        elif lower in SCALES:
            scale *= SCALES[lower]
        elif lower in ("square", "sq", "squared"):
            power, parts = _squared(parts, 2, lower == "squared")
        elif lower in ("cubic", "cu", "cubed"):
            power, parts = _squared(parts, 3, lower == "cubed")
        elif lower in ("of",) and parts:
            break  # "5 cups of flour"
        elif lower in NOT_UNITS or not re.fullmatch(r"[^\W\d_]+|[$€£¥₹¢]", word.strip(".,")):
            raise ParseError(f"words that are no unit: {text}")
        else:
            clean_word = word.strip(".,")
            known = clean_word in UNITS or clean_word.lower() in UNITS
            nouns += not known
            if nouns > 2 or (not known and not word.isascii() and len(word) > 3):
                raise ParseError(f"words that are no unit: {text}")
            parts.append((named(clean_word), sign * power))
            sign, power = 1, 1
    product = multiply(parts) if parts else None
    return kind, scale, product if product is None or product.dimension else None


def _squared(parts: list[tuple[Unit, int]], exponent: int, behind: bool) -> tuple[int, list[tuple[Unit, int]]]:
    """ "square feet" raises the next unit, "feet squared" the one before."""
    if not behind:
        return exponent, parts
    if not parts:
        raise ParseError("squared nothing")
    unit, power = parts[-1]
    return 1, [*parts[:-1], (unit, power * exponent)]

"""The share of the thought's words that are in the target language (DeepSeek-R1, arXiv 2501.12948, section
2.3.2).

By script first: a Chinese word in an English thought is foreign. Languages that share the Latin script are
told apart by their commonest words, of which any few sentences contain several.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from rewards.locate import RewardError
from rewards.turn import thought

# Scripts, as Unicode names its characters -> the languages (ISO 639-1) that are written in them.
_LANGUAGES = {
    ("LATIN",): "en fr de es it pt nl af sq ca cs cy da et eu fi ga gl hr hu id is lt lv ms no pl ro sk sl so "
    "sv sw tl tr vi",
    ("CYRILLIC",): "ru uk bg be mk sr kk mn",
    ("ARABIC",): "ar fa ur",
    ("DEVANAGARI",): "hi mr ne",
    ("CJK", "BOPOMOFO"): "zh",
    ("CJK", "HIRAGANA", "KATAKANA"): "ja",
    ("HANGUL",): "ko",
    ("GREEK",): "el",
    ("HEBREW",): "he",
    ("THAI",): "th",
    ("BENGALI",): "bn",
    ("TAMIL",): "ta",
    ("TELUGU",): "te",
    ("KANNADA",): "kn",
    ("MALAYALAM",): "ml",
    ("GUJARATI",): "gu",
    ("GURMUKHI",): "pa",
    ("ARMENIAN",): "hy",
    ("GEORGIAN",): "ka",
    ("ETHIOPIC",): "am",
    ("KHMER",): "km",
    ("LAO",): "lo",
    ("MYANMAR",): "my",
}
SCRIPTS = {code: scripts for scripts, codes in _LANGUAGES.items() for code in codes.split()}

# Common words that belong to one of these languages alone, so that each tells them apart.
_COMMON = {
    "en": "the of and to that it for with are this be by have from which then can has would there where let "
    "need thus since because when how what they their our you",
    "fr": "une pour avec nous vous mais donc cette ces elle ils sont aux alors être avons peut deux qui",
    "de": "der und ist nicht ein eine einen dem für von wir sie auch wenn dann aber oder weil wird werden "
    "sind haben zwei",
    "es": "el los las pero entonces tenemos puede donde esto muy más hacer",
    "it": "il gli che di della sono allora perché quindi questo questa abbiamo può dove anche",
    "pt": "uma não então são temos pode isto também onde você",
    "nl": "het een niet zijn wij maar dus omdat wordt hebben kan twee waar deze ook voor",
}
COMMON_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}

# Scripts without spaces between words: about how many characters make one.
_CHARACTERS_PER_WORD = {
    "CJK": 2, "HIRAGANA": 3, "KATAKANA": 4, "THAI": 4, "LAO": 4, "KHMER": 4, "MYANMAR": 4,
}  # fmt: skip
_ALIASES = {"FULLWIDTH": "LATIN", "HALFWIDTH": "KATAKANA", "IDEOGRAPHIC": "CJK", "KANGXI": "CJK"}
# Letters of formulas.
_NEUTRAL = frozenset(["MATHEMATICAL", "MODIFIER", "SCRIPT", "BLACK", "DOUBLE", "MICRO", "SUPERSCRIPT"])

_MATHS_OR_CODE = re.compile(
    r"```.{0,2000}?```|\$\$?[^$]{1,500}\$\$?|\\\(.{0,500}?\\\)|\\\[.{0,500}?\\\]|\\[A-Za-z]+|</?[a-z]{1,12}>",
    re.DOTALL,
)
_WORD = re.compile(r"(?P<latin>[A-Za-zÀ-ÖØ-öø-ɏ]+)|[^\W\d_]+")


def language_consistency(
    prompts: list[str],
    completions: list[str],
    language: list[str] | str = "en",
    **columns: Any,
) -> list[float]:
    """Share of words in the target language, 0 to 1, of each completion's thought (the whole turn without
    tags).

    language: an ISO 639-1 code for all, or a column with one per row. Numbers, formulas, code, tags and
    single letters are no words. A thought that has no words but is not empty gets 1.0, an empty one 0.0.
    """
    languages = [language] * len(completions) if isinstance(language, str) else language
    return [consistency(thought(c), code) for c, code in zip(completions, languages, strict=True)]


def consistency(text: str, language: str) -> float:
    """Share of the words of `text` that are in `language`."""
    if language not in SCRIPTS:
        raise RewardError(
            f"language_consistency needs a language code it knows, got {language!r}; it knows: {' '.join(SCRIPTS)}"
        )
    if not text.strip():
        return 0.0
    words = list(_words(text.translate(_marks())))
    ours = sum(weight for _, script, weight in words if script in SCRIPTS[language])
    everything = sum(weight for _, _, weight in words)
    if not everything:
        return 1.0
    return ours / everything * _common_share([word for word, script, _ in words if script == "LATIN"], language)


def _common_share(words: list[str], language: str) -> float:
    """Of the words that tell Latin-script languages apart, the share that are of this one."""
    if language not in COMMON_WORDS:
        return 1.0
    ours = sum(word in COMMON_WORDS[language] for word in words)
    common = sum(any(word in known for known in COMMON_WORDS.values()) for word in words)
    return ours / common if common else 1.0


def _words(text: str) -> Iterator[tuple[str, str, float]]:
    """(word in lower case, its script, its weight in words) for every word of more than one letter."""
    # In formulas and code Latin letters are names, but a sentence in another script is still one.
    text = _MATHS_OR_CODE.sub(lambda match: re.sub(r"[A-Za-z]+", " ", match[0]), text)
    for match in _WORD.finditer(text):
        if match["latin"]:
            if len(match["latin"]) > 1:
                yield match["latin"].lower(), "LATIN", 1.0
            continue
        for script, group in itertools.groupby(match[0], _script):
            run = "".join(group)
            if script in _NEUTRAL or (len(run) == 1 and script in ("LATIN", "GREEK")):
                continue
            yield run.lower(), script, max(1.0, len(run) / _CHARACTERS_PER_WORD.get(script, len(run)))


@functools.lru_cache(maxsize=65536)
def _script(character: str) -> str:
    name = unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]
    return _ALIASES.get(name, name)


@functools.cache
def _marks() -> dict[int, None]:
    """Combining vowel signs and accents: they would cut words of Indic scripts into pieces."""
    return {c: None for c in range(0x300, 0x3000) if unicodedata.category(chr(c)).startswith("M")}

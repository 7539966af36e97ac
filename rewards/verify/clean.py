"""From what people and models write to the spelling the tokenizer knows. Each rule has its reason beside it."""

from __future__ import annotations

import re

from .extract import boxed, stated

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿˣ", "0123456789+-nx", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_FRACTIONS = {
    "½": "12", "⅓": "13", "⅔": "23", "¼": "14", "¾": "34", "⅕": "15", "⅖": "25", "⅗": "35", "⅘": "45",
    "⅙": "16", "⅚": "56", "⅐": "17", "⅛": "18", "⅜": "38", "⅝": "58", "⅞": "78", "⅑": "19",
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "ρ": "rho", "σ": "sigma", "τ": "tau",
    "φ": "phi", "ϕ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta",
    "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega", "π": "pi", "𝜋": "pi",
}  # fmt: skip
_UNICODE = str.maketrans(
    {
        **{c: f"\\{name} " for c, name in _GREEK.items()},
        **{c: rf"\frac{{{d[0]}}}{{{d[1]}}}" for c, d in _FRACTIONS.items()},
        # Minus signs and dashes that stand for one.
        **dict.fromkeys("−–—﹣－", "-"),
        **dict.fromkeys("×✕✖", "*"),
        **dict.fromkeys("·⋅∙•", "*"),
        **dict.fromkeys("⁄∕／", "/"),
        # Spaces: no-break, thin, figure, ideographic, zero width.
        **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\t\n\r", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u200e\u200f\u00ad", ""),
        **dict.fromkeys("‘’ʹ′＇", "'"),
        **dict.fromkeys("“”", '"'),
        "÷": "/", "±": "\\pm ", "∓": "\\mp ", "√": "\\surd ", "∛": "\\cbrt ", "∞": "\\infty ", "∪": "\\cup ",
        "∩": "\\cap ", "≤": "\\le ", "⩽": "\\le ", "≦": "\\le ", "≥": "\\ge ", "⩾": "\\ge ", "≧": "\\ge ",
        "≠": "\\ne ", "≈": "\\approx ", "≃": "\\approx ", "∈": "\\in ", "∅": "\\emptyset ", "Ø": "\\emptyset ",
        "⌀": "\\emptyset ", "°": "^\\circ ", "º": "^\\circ ", "∘": "\\circ ", "ℝ": "\\mathbb{R}",
        "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}", "∖": "\\setminus ",
        "⟨": "\\langle ", "⟩": "\\rangle ", "〈": "\\langle ", "〉": "\\rangle ", "⌊": "\\lfloor ",
        "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "∣": "|", "｜": "|", "∑": "\\sum ", "∏": "\\prod ",
        "∠": "\\angle ", "µ": "\\mu ", "…": "...", "⋯": "...", "€": "\\eur ", "£": "\\gbp ", "¥": "\\yen ",
        "￥": "\\yen ", "₹": "\\inr ", "¢": "\\cent ", "％": "%", "＄": "\\$", "℃": "^\\circ C", "∧": " and ",
        "∨": " or ", "∶": ":", "’": "'",
        # Full-width and Chinese punctuation.
        "（": "(", "）": ")", "［": "[", "］": "]", "｛": "{", "｝": "}", "【": "[", "】": "]", "，": ",",
        "、": ",", "；": ";", "：": ":", "＝": "=", "＋": "+", "＜": "<", "＞": ">", "。": ".", "．": ".", "！": "!",
        "＊": "*", "＾": "^",
    }
    | {chr(0xFF10 + d): str(d) for d in range(10)}
    | {chr(0xFF21 + k): chr(65 + k) for k in range(26)}
    | {chr(0xFF41 + k): chr(97 + k) for k in range(26)}
)  # fmt: skip
_SUPER_RUN = re.compile(f"[{re.escape(''.join(_SUPERSCRIPTS))}]+")
_SUB_RUN = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
# U+0305 after each repeating digit.
_OVERLINED = re.compile(r"((?:\d\u0305)+)")
_CJK = re.compile(r"[\u3400-\u9fff]")
# "所以最大值为 42": prose up to 是, 为, 等于, 得 or a colon. A negation or an alternative before it is not prose.
_CJK_PREFIX = re.compile(
    r"^[^0-9\\$=<>({\[]{0,60}?(?:等于|答案|结果|[是为:得答解故])\s*[:是为]?\s*(?=[^\u3400-\u9fff\s:])"
)
_CJK_RUN = re.compile(r"^(?=.{0,60}?[\u3400-\u9fff])[^0-9A-Za-z\\$({\[<>=|+\-.]{1,60}(?=[^\u3400-\u9fff])")
_CJK_REFUSED = re.compile(
    r"[不非没无未或约负超除]|可能|大概|也许|左右|至少|至多|大于|小于|多于|少于|以上|以下|最多|最少"
)

_WRAPPERS = re.compile(
    r"""^(?:
        \\(?:text|textbf|textit|textrm|textsf|mathbf|mathrm|mathit|mbox|bm|boldsymbol|boxed|fbox|emph|displaystyle|ensuremath)\s*\{(?P<tex>[^{}]*)\}
        |(?P<md>\*{1,3}|_{2,3}|`{1,3}|"|\$\$?)(?P<inside>[^*`"$]+)(?P=md)
        )$""",
    re.X,
)  # fmt: skip
_STYLE = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|mathstrut|strut|bigl?|bigr|Bigl?|Bigr|biggl?|biggr"
    r"|Biggl?|Biggr|left|right|middle|mathclose|mathopen|mathbin|mathrel|hfill|noindent|rm|bf|it|phantom\{[^{}]*\})"
    r"(?![A-Za-z])\.?"
)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{(?:align|aligned|equation|gather|gathered|split|math|displaymath)\*?\}")
_COLOR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}|\\underline(?![a-z])")
_PROSE_IN_TEXT = re.compile(r"\\text\s*\{([^{}]*(?:answer|is)[^{}]*)\}")
# 3.2 x 10^5, with the letter x for the sign of a product.
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))")
_ROW_SPACE = re.compile(r"\\\\\s*\[[^\[\]]{0,12}\]")
_MATH_DELIMITER = re.compile(r"\\[()\[\]]")
_TRAILING = ("\\,", "\\;", "\\:", "\\!", "\\ ", "\\quad", "\\qquad", "\\")
_LEADING = re.compile(r"^(?:[\s]|\\[,;!: ]|\\q?quad(?![a-z]))+")
_PROSE = re.compile(
    r"^(?:(?:so|thus|hence|therefore|and|finally|we\s+(?:get|have|find|obtain)|this\s+(?:gives|is|equals)|it\s+is|ans(?:wer)?"
    r"|solution|final\s+answer|the\s+solutions?\s+(?:is|are)|(?:the\s+)?(?:total|sum|value|result|probability|area|number)"
    r"(?:\s+of\s+[A-Za-z ]{1,40}?)?\s+(?:is|equals|are)|equals)\b[\s:,]*)+",
    re.I,
)
# "The largest n is 34", "the matrix is $…$", "$x>5$ is the solution": prose around one piece of mathematics.
_SENTENCE = re.compile(r"^[A-Za-z][A-Za-z ,']{1,80}?\b(?:is|are|equals|be)\s*:?\s*(?=[-+\d\\(\[{√π|.$])")
_SEGMENT = re.compile(r"(?<!\\)\$\$?([^$]+?)(?<!\\)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]")
# A negation, an alternative or a hedge is part of what the sentence says; so are further numbers.
_REFUSED = re.compile(
    r"\d|[=<>?]|n't\b|\b(?:not?|never|neither|nor|n?either|or|and|but|maybe|perhaps|possibl[ey]|probably|likely|might|may|could"
    r"|about|around|approximately|roughly|nearly|almost|except|unless|if|between|than|least|most|wrong|incorrect|false|cannot"
    r"|guess|think|unsure|some|any|other|half|twice|double|minus|negative|square|cube|times)\b",
    re.I,
)


def clean(text: str) -> str:
    """The text without wrappers, prose before the answer, styles and foreign spellings of the same signs."""
    text = text.translate(_BLANKS) if text.isascii() else _from_unicode(text)
    text = text.strip()
    if "\\" in text:
        if "boxed" in text or "\\fbox" in text:
            text = _unboxed(text)
        text = _STYLE.sub("", text)
        if "color" in text or "underline" in text:
            text = _COLOR.sub("", text)
        if "\\text" in text:
            text = _PROSE_IN_TEXT.sub(r"\1", text)
        if "\\\\[" in text:
            text = _ROW_SPACE.sub(r"\\\\", text)
        if "\\begin" in text:
            text = _ENVIRONMENT.sub("", text)
    if "$" in text or "\\(" in text or "\\[" in text:
        text = _without_math_delimiters(_segment(text) or text)
    if "$" in text:
        text = _without_dollars(text)
    if "answer" in text.lower() or "答案" in text:
        text = stated(text) or text
    text = _unwrapped(text)
    if text[:1] == "=":
        text = text.lstrip("= ")
    if "10" in text:
        text = _TIMES_TEN.sub("*", text)
    if text[-2:] in ("st", "nd", "rd", "th") and text[:-2].isdigit():
        text = text[:-2]
    if _CJK.search(text):
        text = _without_chinese_prose(text)
    if text[:1].isalpha():
        match = _SENTENCE.match(text)
        if match and not _REFUSED.search(match.group()):
            return _unwrapped(text[match.end() :])
        shorter = _PROSE.sub("", text)
        if shorter and shorter != text and shorter[:1] not in "=<>)]},":
            text = _unwrapped(shorter)
    return text


_BLANKS = str.maketrans({"\t": " ", "\n": " ", "\r": " ", "~": " "})


def _from_unicode(text: str) -> str:
    text = _SUPER_RUN.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m.group()) + "}", text)
    text = _SUB_RUN.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m.group()) + "}", text)
    if "\u0305" in text:
        text = _OVERLINED.sub(lambda m: rf"\overline{{{m.group().replace(chr(0x305), '')}}}", text)
    return text.translate(_UNICODE)


def _unboxed(text: str) -> str:
    r"""`\boxed{A}` → A, also inside prose; several different boxes are a list of answers, not a choice among them."""
    contents = boxed(text)
    if not contents:
        return text
    bare = re.match(r"^[A-Za-z_0-9{}\\ ]{1,24}(?:=|\\in(?![a-z]))\s*\\boxed", text)
    if bare and len(contents) == 1:
        # x = \boxed{5} keeps its name; x \in \boxed{[0,7)} its relation.
        return text[: text.index("\\boxed")] + contents[0]
    return ", ".join(dict.fromkeys(contents)) if len(set(contents)) < len(contents) else ", ".join(contents)


def _segment(text: str) -> str | None:
    """The one piece of mathematics that a sentence sets in dollar signs or brackets, if the rest is plain prose."""
    found = list(_SEGMENT.finditer(text))
    if len(found) != 1:
        return None
    prose = text[: found[0].start()] + text[found[0].end() :]
    if not re.search(r"[A-Za-z]{2}", prose) or "\\" in prose or "$" in prose or _REFUSED.search(prose):
        return None
    return next(group for group in found[0].groups() if group is not None)


def _without_math_delimiters(text: str) -> str:
    r"""\(x\) → x and \[x\] → x. A lone escape such as \[ is left to the parser to refuse."""
    return _MATH_DELIMITER.sub(" ", text) if "\\(" in text or "\\[" in text else text


def _without_dollars(text: str) -> str:
    """Dollar signs: in pairs they set mathematics, alone they are money."""
    bare = re.findall(r"(?<!\\)\$", text)
    if not bare:
        return text
    if len(bare) % 2 == 0:
        # "$5 and $6" is money twice: no closing sign stands before a blank or the end.
        if not re.search(r"(?<!\\)\$(?=\s*(?:$|[^\s\d]))", text):
            return re.sub(r"(?<!\\)\$", r"\\$", text)
        return re.sub(r"(?<!\\)\$", " ", text)
    return re.sub(r"(?<!\\)\$", r"\\$", text)


def _without_trailing(text: str) -> str:
    """Without the punctuation and spaces of a sentence at the end."""
    if text[-1:] in "0123456789})]":
        return text
    while True:
        shorter = text.rstrip(" .,;。")
        for command in _TRAILING:
            if shorter.endswith(command):
                shorter = shorter[: -len(command)]
                break
        if shorter == text:
            return text
        text = shorter


def _unwrapped(text: str) -> str:
    for _ in range(6):
        shorter = _LEADING.sub("", text)
        # "..." at the end says that digits repeat.
        if not shorter.endswith("..."):
            shorter = _without_trailing(shorter)
        match = _WRAPPERS.match(shorter)
        if match:
            shorter = match.group("tex") if match.group("tex") is not None else match.group("inside")
        elif shorter[:1] in "*_#`>" or shorter[-1:] in "*_`":
            # What is left of Markdown around a part: "**Answer:** 42", "# 42".
            stripped = re.sub(r"^(?:[*_`]{2,3}|#{1,6}\s|>\s)|(?:[*_]{2,3}|`)$", "", shorter)
            shorter = stripped
        if shorter == text:
            break
        text = shorter
    return text


def _without_chinese_prose(text: str) -> str:
    match = _CJK_PREFIX.match(text) or _CJK_RUN.match(text)
    if match and not _CJK_REFUSED.search(match.group()):
        return _unwrapped(text[match.end() :])
    return text

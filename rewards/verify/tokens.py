"""Text to tokens: (kind, value, spaced) with the kinds n (number), s (symbol), w (word), f (function), t (text set by
\\text), o (operator or bracket), and at the end one token of kind "end".
"""

from __future__ import annotations

import re
from typing import TypeAlias

from .tree import MAX_CHARS, MAX_DIGITS, MAX_TOKENS, ParseError, TooLarge, names

Token: TypeAlias = tuple[str, str, bool]

FUNCTIONS = {
    name: canonical
    for canonical, spellings in {
        "sin": "sin", "cos": "cos", "tan": "tan tg", "cot": "cot ctg cotan", "sec": "sec", "csc": "csc cosec",
        "arcsin": "arcsin asin", "arccos": "arccos acos", "arctan": "arctan atan arctg", "arccot": "arccot acot",
        "arcsec": "arcsec asec", "arccsc": "arccsc acsc", "sinh": "sinh sh", "cosh": "cosh ch", "tanh": "tanh th",
        "coth": "coth", "arcsinh": "arcsinh asinh arsinh", "arccosh": "arccosh acosh arcosh",
        "arctanh": "arctanh atanh artanh", "log": "log", "ln": "ln", "lg": "lg", "exp": "exp", "sqrt": "sqrt surd",
        "cbrt": "cbrt", "abs": "abs", "floor": "floor", "ceil": "ceil ceiling", "max": "max", "min": "min",
        "gcd": "gcd", "lcm": "lcm", "cis": "cis", "re": "Re", "im": "Im", "arg": "arg", "factorial": "factorial",
        "binomial": "binomial comb", "frac": "frac dfrac tfrac cfrac sfrac", "binom": "binom dbinom tbinom",
        "sum": "sum", "prod": "prod", "det": "det",
    }.items()
    for name in spellings.split()
}  # fmt: skip
# Too short to be meant outside LaTeX: "th" and "sh" are letters in plain text.
_LATEX_ONLY = {"th", "sh", "ch", "frac", "dfrac", "tfrac", "cfrac", "sfrac", "surd", "sum", "prod", "Re", "Im", "det"}
_PLAIN_FUNCTIONS = {name: head for name, head in FUNCTIONS.items() if name not in _LATEX_ONLY}
GREEK = names(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
    "varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma "
    "Upsilon Phi Psi Omega ell hbar partial nabla aleph angle triangle mho odot prime star"
)
_SAME_LETTER = {"varepsilon": "epsilon", "vartheta": "theta", "varrho": "rho", "varphi": "phi", "varsigma": "sigma"}
_COMMANDS = {
    name: op
    for op, spellings in {
        "*": "times cdot ast cdotp bullet", "/": "div slash", "pm": "pm", "mp": "mp", "<=": "le leq leqslant leqq",
        ">=": "ge geq geqslant geqq", "<": "lt", ">": "gt", "!=": "ne neq", "~": "approx simeq sim cong thickapprox",
        "=": "equiv", "in": "in", "cup": "cup bigcup", "cap": "cap bigcap", "\\": "setminus backslash smallsetminus",
        "|": "mid vert lvert rvert", ":": "colon", "circ": "circ degree", "(": "lparen", ")": "rparen",
        "[": "lbrack", "]": "rbrack", "{{": "lbrace", "}}": "rbrace", "<<": "langle", ">>": "rangle",
        "floor(": "lfloor", ")floor": "rfloor", "ceil(": "lceil", ")ceil": "rceil", "%": "percent",
        "and": "land wedge", "or": "lor vee", "...": "dots ldots cdots dotsc", "_": "_", "^": "^", "'": "prime",
        "choose": "choose", "mod": "bmod mod", "$": "dollar", "eur": "eur euro",
        "gbp": "gbp pounds", "yen": "yen", "inr": "inr",
        "cent": "cent",
    }.items()
    for name in spellings.split()
}  # fmt: skip
_CONSTANTS = {"infty": "inf", "pi": "pi", "emptyset": "emptyset", "varnothing": "emptyset", "imath": "i"}
_TEXT_COMMANDS = names(
    "text textbf textit textrm textsf texttt mathrm mathsf mathit mathbf mbox hbox operatorname textnormal "
    "bm boldsymbol pmb rm emph mathcal mathscr mathfrak unit si"
)
_DECORATIONS = names("overline bar vec hat tilde widehat dot ddot overrightarrow mathring widetilde")
_SPACING = names("quad qquad thinspace enspace space hspace displaystyle textstyle allowbreak nobreak")
WORDS = {
    "pi": ("s", "pi"), "infinity": ("s", "inf"), "inf": ("s", "inf"), "oo": ("s", "inf"), "and": ("o", "and"),
    "or": ("o", "or"), "union": ("o", "cup"), "equals": ("o", "="), "mod": ("o", "mod"),
    "in": ("o", "in"), "intersect": ("o", "cap"),
    "pm": ("o", "pm"), "times": ("o", "*"), "emptyset": ("s", "emptyset"), "choose": ("o", "choose"),
    "infty": ("s", "inf"), "And": ("o", "and"), "Or": ("o", "or"),
    "AND": ("o", "and"), "OR": ("o", "or"), "theta": ("s", "theta"),
    "alpha": ("s", "alpha"), "beta": ("s", "beta"), "gamma": ("s", "gamma"), "lambda": ("s", "lambda"),
    "phi": ("s", "phi"), "omega": ("s", "omega"), "mu": ("s", "mu"), "sigma": ("s", "sigma"),
    **dict.fromkeys(("和", "与", "以及"), ("o", "and")), **dict.fromkeys(("或", "或者"), ("o", "or")),
    "degrees": ("o", "circ"), "degree": ("o", "circ"), "deg": ("o", "circ"),
}  # fmt: skip

_PREFIXES = frozenset(("sin", "cos", "tan", "cot", "sec", "csc", "ln", "log"))

# Thousands: 1,234,567 and 1{,}234 and 1\,234 and 1,\!234 and 1 234 and 1'234; 1.234.567 only with two points.
_NUMBER = (
    r"(?:[1-9]\d{0,2}(?:(?:,\\!\ ?|\{,\}|\\[,!;: ]|[, '_])\d{3})+(?!\d)|[1-9]\d{0,2}(?:\.\d{3}){2,}(?!\d))(?:\.\d+)?"
    r"|(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:[eE][+-]?\d{1,6}(?![\w.]))?"
)
_TOKEN = re.compile(
    rf"(?P<n>{_NUMBER})|(?P<s>[A-Za-z](?![A-Za-z]))|(?P<c>\\[A-Za-z]+)|(?P<w>[A-Za-z]+|[\u3400-\u9fff]+)"
    r"|(?P<o>\*\*|<=|>=|!=|==|\+-|\+/-|\.\.\.|->|\\.|[-+*/^_=<>()\[\]{}|,;:!%&'])|(?P<b>\ +)|(?P<x>.)",
    re.S,
)
_ESCAPES = {
    "{": "{{", "}": "}}", "%": "%", "$": "$", "&": "&", "\\": "row", "|": "|", "_": "_", "#": "#",
    ",": "", ";": "", ":": "", "!": "", " ": "", "/": "", ".": "",
}  # fmt: skip
_OPERATORS = {"**": "^", "==": "=", "+-": "pm", "+/-": "pm"}
_GROUP = re.compile(r"\s*\{([^{}]*)\}")
_BLACKBOARD = re.compile(r"\s*\{?\s*([A-Z])\s*\}?")
_REPEATING = re.compile(
    r"(?P<whole>\d*)\.(?P<fixed>\d*)(?:\\(?:overline|bar|overbar)\s*(?:\{\s*(?P<over>\d+)\s*\}|(?P<one>\d))"
    r"|\((?P<paren>\d+)\)|\\dot\s*\{?(?P<first>\d)\}?(?:(?P<inner>\d*)\\dot\s*\{?(?P<last>\d)\}?)?)"
    r"|(?P<seen>\d*\.\d+)\s?(?:\.\.\.|\\[lc]?dots(?![a-z]))"
)
_THIN_BETWEEN_DIGITS = re.compile(r"[\s\\,!;:{}'_]")


def tokenize(text: str) -> list[Token]:
    """Tokens of a cleaned text. ParseError on a sign that no mathematics here has; TooLarge past the limits."""
    if len(text) > MAX_CHARS:
        raise TooLarge(f"{len(text)} characters, more than {MAX_CHARS}")
    if "." in text and ("\\" in text or "(" in text or "..." in text):
        text = _REPEATING.sub(_repeating_fraction, text)
    tokens: list[Token] = []
    append = tokens.append
    depth = 0
    spaced = False
    position, length = 0, len(text)
    match_at = _TOKEN.match
    while position < length:
        match = match_at(text, position)
        assert match is not None
        kind = match.lastgroup
        value = match.group()
        start, position = position, match.end()
        if kind == "n":
            if len(value) > MAX_DIGITS:
                raise TooLarge(f"a number of {len(value)} digits, more than {MAX_DIGITS}")
            if " " in value and tokens and tokens[-1][1] in ("_", "^"):
                value = value[: value.index(" ")]  # \log_5 125
                position = start + len(value)
            if (
                "," in value
                and "{" not in value
                and "\\" not in value
                and not _is_grouped(text, start, position, depth)
            ):
                value = value[: value.index(",")]
                position = start + len(value)
            append(("n", value, spaced))
        elif kind == "o":
            if value[0] == "\\":
                value = _ESCAPES.get(value[1], "?")
                if value == "":
                    spaced = True
                    continue
                if value == "?":
                    raise ParseError(f"unknown command {match.group()}")
                depth += (value == "{{") - (value == "}}")
            elif value in "([":
                depth += 1
            elif value in ")]":
                depth -= 1
            append(("o", _OPERATORS.get(value, value), spaced))
        elif kind == "s":
            if text[position : position + 1] == "'":
                value, position = _primed(text, value, position)
            append(("s", value, spaced))
        elif kind == "b":
            spaced = True
            continue
        elif kind == "c":
            position = _command(text, value[1:], position, tokens, spaced)
        elif kind == "w":
            _word(value, tokens, spaced)
        else:
            raise ParseError(f"unexpected {value!r}")
        spaced = False
        if len(tokens) > MAX_TOKENS:
            raise TooLarge(f"more than {MAX_TOKENS} tokens")
    append(("end", "", spaced))
    return tokens


def plain_digits(literal: str) -> str:
    """A number literal without its thousands separators."""
    if literal.isdigit():
        return literal
    literal = _THIN_BETWEEN_DIGITS.sub("", literal)
    return literal.replace(".", "") if literal.count(".") > 1 else literal


def is_name(word: str) -> bool:
    """Whether a plain word is a name of mathematics: sin, pi, or, sinx."""
    return word in FUNCTIONS or word in WORDS or word[:-1] in _PREFIXES


def _is_grouped(text: str, start: int, end: int, depth: int) -> bool:
    """Whether the commas of 1,234 separate thousands, not the items of a list.

    They separate items next to another comma without a blank (27,54,108) and inside brackets, unless a group begins
    with 0, which no item does.
    """
    if any(group[0] == "0" for group in text[start:end].split(",")[1:]):
        return True
    if depth > 0:
        return False
    return not (text[start - 1 : start] == "," or re.match(r",\S", text[end : end + 2]))


def _primed(text: str, name: str, position: int) -> tuple[str, int]:
    while text[position : position + 1] == "'":
        name += "_prime"
        position += 1
    return name, position


def _command(text: str, name: str, position: int, tokens: list[Token], spaced: bool) -> int:
    """Append what a LaTeX command stands for; return where to read on."""
    if name in FUNCTIONS:
        tokens.append(("f", FUNCTIONS[name], spaced))
    elif name in _COMMANDS:
        tokens.append(("o", _COMMANDS[name], spaced))
    elif name in _CONSTANTS:
        tokens.append(("s", _CONSTANTS[name], spaced))
    elif name in GREEK:
        value = _SAME_LETTER.get(name, name)
        if text[position : position + 1] == "'":
            value, position = _primed(text, value, position)
        tokens.append(("s", value, spaced))
    elif name in _TEXT_COMMANDS:
        group = _GROUP.match(text, position)
        if group is None and name[:4] != "text":
            return position  # \mathbf{\frac12}: a font does not matter, the braces group
        if group is None:
            raise ParseError(f"\\{name} without a plain group")
        _text(group.group(1).strip(), tokens)
        return group.end()
    elif name in _DECORATIONS:
        group = _GROUP.match(text, position) or re.compile(r"\s*([A-Za-z])").match(text, position)
        inner = re.sub(r"[ _{}]|\\(?=[a-z]+ *$)", "", group.group(1)) if group else ""
        if group is None or not inner.isalnum() or not inner[0].isalpha() or not inner.isascii():
            raise ParseError(f"\\{name} of something that is not a name")
        tokens.append(("s", f"{inner}_{name}", spaced))
        return group.end()
    elif name in ("begin", "end"):
        group = _GROUP.match(text, position)
        if group is None:
            raise ParseError(f"\\{name} without a name")
        tokens.append(("o", f"{name} {group.group(1).strip('*')}", spaced))
        return group.end()
    elif name == "mathbb" or name == "Bbb":
        letter = _BLACKBOARD.match(text, position)
        if letter is None:
            raise ParseError("\\mathbb without a letter")
        tokens.append(("s", f"set_{letter.group(1)}", spaced))
        return letter.end()
    elif name not in _SPACING:
        # \quadx_2 is \quad x_2 as models write it.
        for prefix in ("qquad", "quad"):
            if name.startswith(prefix):
                _word(name[len(prefix) :], tokens, True)
                return position
        raise ParseError(f"unknown command \\{name}")
    return position


def _word(word: str, tokens: list[Token], spaced: bool) -> None:
    if word in _PLAIN_FUNCTIONS:
        tokens.append(("f", _PLAIN_FUNCTIONS[word], spaced))
    elif word in WORDS:
        tokens.append((*WORDS[word], spaced))
    elif word[:-1] in _PREFIXES:
        # sinx: a function and its one-letter argument.
        tokens.append(("f", word[:-1], spaced))
        tokens.append(("s", word[-1], False))
    elif len(word) == 1 and word.isascii():
        tokens.append(("s", word, spaced))
    else:
        tokens.append(("w", word, spaced))


def _text(content: str, tokens: list[Token]) -> None:
    r"""The content of \text: a word of mathematics, one letter, or prose."""
    bare = content.strip(" ,.")
    if bare in FUNCTIONS and bare not in _LATEX_ONLY and bare not in ("min", "max"):
        tokens.append(("f", FUNCTIONS[bare], True))
    elif bare in WORDS and bare not in ("in", "union"):
        tokens.append((*WORDS[bare], True))
    elif len(bare) == 1 and bare.isalpha():
        tokens.append(("s", bare, False))
        tokens.append(("t", "", False))  # remembers that the letter was upright: a unit where one can stand
    elif bare.isdigit():
        tokens.append(("n", bare, False))
    elif bare:
        tokens.append(("t", bare, True))
    elif content:
        tokens.append(("o", ",", True))


def _repeating_fraction(match: re.Match[str]) -> str:
    """0.1\\overline{6} as an exact fraction; digits followed by dots only where they visibly repeat."""
    if match["seen"] is not None:
        whole, _, digits = match["seen"].partition(".")
        found = re.fullmatch(r"(\d*?)(?:(\d)\2{2,}|(\d{2,}?)\3+)", digits) if len(digits) <= 40 else None
        if found is None:
            return match.group()
        fixed, repeat = found.group(1), found.group(2) or found.group(3)
    elif match["first"] is not None:
        whole, fixed = match["whole"], match["fixed"]
        repeat = match["first"] + ((match["inner"] or "") + match["last"] if match["last"] else "")
    else:
        whole, fixed = match["whole"], match["fixed"]
        repeat = match["over"] or match["one"] or match["paren"]
    if len(whole) + len(fixed) + len(repeat) > 200:
        raise TooLarge("a repeating decimal of more than 200 digits")
    value = int((whole or "0") + fixed + repeat) - int((whole or "0") + fixed)
    return rf"{{\frac{{{value}}}{{{(10 ** len(repeat) - 1) * 10 ** len(fixed)}}}}}"

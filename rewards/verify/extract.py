"""Find the answer in a completion. Every case has a defined result; `docs/verifier.md` has them as a table."""

from __future__ import annotations

import re

# What a completion may end with; engines differ in whether they strip it.
_END_TOKEN = re.compile(r"<\|[a-z_]{1,32}\|>|<｜[^｜<>]{1,32}｜>|</s>")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_TOKEN = re.compile(r"\\[A-Za-z]+|[0-9A-Za-z]")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)", re.M)
# A heading "Final answer" on a line of its own, or a sentence that states the answer.
_ANSWER_IS = re.compile(
    r"(?:(?:^|(?<=\n))[#*_ \t]{0,8}(?:final\s)?answer[*_:]{0,3}[ \t]*\n{1,2}"
    r"|\b(?:final|correct|right|best)?\s*(?:answer|choice|option|result)\b[*_]{0,2}"
    r"(?:\s+(?:to|for|of)\s[^\n.:]{1,80}?)?\s*(?:\b(?:is|are|equals|would\s+be)\b\s*:?|:|=)"
    r"|(?:最终|正确|最后)?(?:的)?(?:答案|结果|选项)\s*(?:应该?)?\s*[是为:：]\s*[:：]?"
    r"|故?选(?:择)?\s*[:：]?(?=\s*[(（]?[A-H]\b))"
    r"[ \t*_]*\n?[ \t]*",
    re.I,
)
_SENTENCE_END = re.compile(r"\n|[。；！]|(?<!\\)[.!;](?=\s|\*|\Z)(?<!\b[ap]\.m\.)(?<!\bU\.S\.)")


def boxed(text: str) -> list[str]:
    r"""The contents of every outermost `\boxed{…}` and `\fbox{…}` with balanced braces, in order."""
    found: list[str] = []
    closings = _closing_braces(text)
    position = 0
    while match := _BOX.search(text, position):
        start = match.end()
        position = start
        if text[start : start + 1] != "{":
            # TeX takes one token without braces: \boxed 5, \boxed\pi.
            token = _TOKEN.match(text, start)
            if token:
                found.append(token.group())
                position = token.end()
            continue
        end = closings.get(start)
        if end is None:
            continue
        found.append(text[start + 1 : end].strip())
        position = end + 1
    return found


def extract_answer(completion: str) -> str | None:
    """The answer that a completion (the assistant's whole turn) commits to, or None where it has none.

    A thought (`<think>…</think>`) is never read: an answer that stands only there is no answer, and a turn whose
    thought is not closed was truncated. After the thought, in this order: the one well-formed
    `<answer>…</answer>` (repeated, nested or unclosed tags give None), the last balanced `\\boxed{…}`, the last
    `#### …`, the last "the answer is …" (English, Chinese), and a turn that is nothing but a short answer.
    """
    if not isinstance(completion, str):
        raise TypeError(f"completion must be a str, got {type(completion).__name__}: pass the assistant's text.")
    visible = _after_thought(completion)
    if visible is None:
        return None
    visible = _without_end_tokens(visible)
    if "<answer>" in visible or "</answer>" in visible:
        if visible.count("<answer>") != 1 or visible.count("</answer>") != 1:
            return None
        before, _, rest = visible.partition("<answer>")
        inside, closed, _ = rest.partition("</answer>")
        if not closed or "</answer>" in before:
            return None
        return _unbox(inside)
    boxes = boxed(visible)
    if boxes:
        return boxes[-1] or None
    hashes = _HASHES.findall(visible)
    if hashes:
        return hashes[-1].strip() or None
    sentence = stated(visible)
    if sentence:
        return sentence
    bare = visible.strip()
    if _BOX.search(bare):
        return None  # an open box was truncated
    # Four words: "x = 5 or x = 7" is an answer, a sentence is not.
    if bare and "\n" not in bare and len(bare) <= 80 and len(re.findall(r"[A-Za-z]{2,}", bare)) <= 4:
        return bare
    return None


def _after_thought(completion: str) -> str | None:
    opened = completion.rfind("<think>")
    closed = completion.rfind("</think>")
    if opened > closed:
        return None
    # A turn may close a thought that the prompt opened, so `</think>` alone is enough.
    return completion[closed + len("</think>") :] if closed >= 0 else completion


def _without_end_tokens(text: str) -> str:
    text = text.rstrip()
    while text.endswith(">"):
        start = text.rfind("<")
        if start < 0 or not _END_TOKEN.fullmatch(text, start):
            break
        text = text[:start].rstrip()
    return text


def _unbox(inside: str) -> str | None:
    inside = inside.strip()
    boxes = boxed(inside)
    # Several boxes are several answers: the verifier sees all of them, not the last.
    if len(boxes) == 1:
        return boxes[0] or None
    return inside or None


def stated(text: str) -> str | None:
    """What the last "the answer is …" of a text says, up to the end of its sentence; None where none says it."""
    last = None
    for match in _ANSWER_IS.finditer(text):
        last = match
    if last is None:
        return None
    tail = text[last.end() :]
    end = _SENTENCE_END.search(tail)
    sentence = (tail[: end.start()] if end else tail).strip().strip("*_ ").strip()
    return sentence or None


def _closing_braces(text: str) -> dict[int, int]:
    """Where each closed `{` is closed, in one pass: thousands of open ones must not cost a search each."""
    closings: dict[int, int] = {}
    open_braces: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            open_braces.append(match.start())
        elif match[0] == "}" and open_braces:
            closings[open_braces.pop()] = match.start()
    return closings

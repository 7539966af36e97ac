"""Held out or not, decided by a hash of the question: no list to keep, and duplicates never straddle."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import TypeVar

HELDOUT_ONE_IN = 16
# So many draws without a new one, and a generator is taken to have no more.
_PATIENCE = 2000
_Drawn = TypeVar("_Drawn")


def in_heldout_share(question: str, one_in: int = HELDOUT_ONE_IN) -> bool:
    """Whether the question belongs to the held-out share, one in `one_in`. Case and spacing do not matter."""
    return int.from_bytes(question_digest(question), "little") % one_in == 0


def question_digest(question: str) -> bytes:
    """8 bytes that are the same for questions that differ only in case or spacing."""
    return blake2b(" ".join(question.casefold().split()).encode(errors="surrogatepass"), digest_size=8).digest()


def distinct(
    draw: Callable[[], _Drawn], key: Callable[[_Drawn], Hashable], wanted: Callable[[_Drawn], bool], count: int
) -> list[_Drawn]:
    """The first `count` wanted draws with different keys; fewer where a narrow generator has no more."""
    found: dict[Hashable, _Drawn] = {}
    misses = 0
    while len(found) < count and misses < _PATIENCE:
        drawn = draw()
        new = key(drawn) not in found and wanted(drawn)
        misses = 0 if new else misses + 1
        if new:
            found[key(drawn)] = drawn
    return list(found.values())

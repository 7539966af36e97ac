"""Held out or not, decided by a hash of the question: no list to keep, and duplicates never straddle."""

from __future__ import annotations

from hashlib import blake2b

HELDOUT_ONE_IN = 16


def in_heldout_share(question: str, one_in: int = HELDOUT_ONE_IN) -> bool:
    """Whether the question belongs to the held-out share, one in `one_in`. Case and spacing do not matter."""
    return int.from_bytes(question_digest(question), "little") % one_in == 0


def question_digest(question: str) -> bytes:
    """8 bytes that are the same for questions that differ only in case or spacing."""
    return blake2b(" ".join(question.casefold().split()).encode(errors="surrogatepass"), digest_size=8).digest()

"""Names of things: sessions, dots and document ids. Pure functions.

A *session* is one run of a replica in one process: 53 bits, of which the upper 11 say in which
week it was born and the lower 42 are random. It is never used again, also not after a restore. A
*dot* names one operation: the session that wrote it and its place, 1, 2, 3 …, among what that
session wrote to one shard.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Final

from crdt.errors import InvalidId
from crdt.limits import MAX_DOCUMENT_ID_BYTES

Dot = tuple[int, int]

RANDOM_BITS: Final = 42
WEEK_BITS: Final = 11
MAX_SESSION: Final = (1 << (RANDOM_BITS + WEEK_BITS)) - 1
MAX_WEEK: Final = (1 << WEEK_BITS) - 1

_FIRST_WEEK_MS: Final = 1_704_067_200_000  # 2024-01-01T00:00:00Z, a Monday
_WEEK_MS: Final = 7 * 24 * 3600 * 1000
_DOCUMENT_ID: Final = re.compile(r"([A-Za-z][A-Za-z0-9_.\-]{0,63})/([^\x00-\x1f\x7f]+)", re.DOTALL)


def week_at(unix_ms: int) -> int:
    """The number of whole weeks from 2024-01-01 UTC to `unix_ms`, held within 0 … 2047."""
    return min(max((unix_ms - _FIRST_WEEK_MS) // _WEEK_MS, 0), MAX_WEEK)


def week_of(session: int) -> int:
    """The week in which a session says it was born."""
    return session >> RANDOM_BITS


def new_session(unix_ms: int, random_bits: int, floor: int = 0) -> int:
    """A session id born at `unix_ms`, or in the week `floor` if that is later.

    `random_bits` must be unpredictable and fresh: its low 42 bits are what makes the id unique. A
    clock that is behind the floor would otherwise give birth to a session that everybody takes for
    closed.
    """
    week = min(max(week_at(unix_ms), floor), MAX_WEEK)
    return (week << RANDOM_BITS) | (random_bits & ((1 << RANDOM_BITS) - 1))


def parse_document_id(text: str) -> tuple[str, str]:
    """Split `Type/name`. The name may contain `/`. Raises InvalidId, naming what is wrong."""
    if type(text) is not str:
        raise InvalidId(f"{text!r:.200} is not a document id: write 'Type/name' as a str")
    return _parse_document_id(text)


@functools.lru_cache(maxsize=16_384)
def _parse_document_id(text: str) -> tuple[str, str]:
    match = _DOCUMENT_ID.fullmatch(text)
    if match is None:
        raise InvalidId(
            f"{text!r:.200} is not a document id: write 'Type/name', the type in letters, digits "
            "and ._- (at most 64), the name without control characters"
        )
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidId(
            f"{text!r:.200} has a lone surrogate: use text that UTF-8 can hold"
        ) from None
    if size > MAX_DOCUMENT_ID_BYTES:
        raise InvalidId(
            f"{text!r:.200} has {size} bytes, a document id may have {MAX_DOCUMENT_ID_BYTES}: "
            "shorten the name"
        )
    return match[1], match[2]


def check_document_id(text: str) -> str:
    """Return `text` if it is a document id. Raises InvalidId."""
    parse_document_id(text)
    return text


@functools.lru_cache(maxsize=16_384)
def shard_of(document: str, shards: int) -> int:
    """Which of the mesh's shards a document lives in.

    blake2b-64 of the id's UTF-8, big-endian, modulo `shards`. Where the id has a non-empty
    `{tag}`, of the tag alone: documents that share one lie in one shard, as keys do in a Redis
    cluster.
    """
    opening = document.find("{")
    closing = document.find("}", opening + 1) if opening >= 0 else -1
    hashed = document[opening + 1 : closing] if closing > opening + 1 else document
    return int.from_bytes(hashlib.blake2b(hashed.encode(), digest_size=8).digest()) % shards

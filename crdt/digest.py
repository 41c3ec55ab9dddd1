"""Digests: the sum of a keyed hash over every entry, so that order does not matter and changes are
cheap.

A shard's digest is the sum modulo 2^128 of blake2b-128(key; document, path, dot, payload), each
part with its length, of a like hash for every text's content and for every document's generation.
Adding or removing one entry adds or subtracts one hash. Sums of hashes can be forged by whoever may
choose inputs and evaluate the hash (Wagner, "A Generalized Birthday Problem", 2002); the key keeps
outsiders from that.
"""

from __future__ import annotations

import hashlib
from typing import Final

SIZE: Final = 16
MODULUS: Final = 1 << (8 * SIZE)


class EntryHash:
    """The keyed hash of entries and of texts. `key`: at most 64 bytes."""

    __slots__ = ("_entries", "_generations", "_texts")

    def __init__(self, key: bytes) -> None:
        self._entries = hashlib.blake2b(key=key, digest_size=SIZE, person=b"statemesh.entry")
        self._generations = hashlib.blake2b(key=key, digest_size=SIZE, person=b"statemesh.gen")
        self._texts = hashlib.blake2b(key=key, digest_size=SIZE, person=b"statemesh.text")

    def entry(self, document: str, path: bytes, session: int, seq: int, payload: bytes) -> int:
        """The contribution of one live entry."""
        name = document.encode()
        state = self._entries.copy()
        state.update(
            b"%d %d %d %d %d " % (len(name), len(path), session, seq, len(payload))
            + name
            + path
            + payload
        )
        return int.from_bytes(state.digest())

    def generation(self, document: str, generation: int) -> int:
        """The contribution of a document's generation. The first, 0, counts nothing."""
        if not generation:
            return 0
        state = self._generations.copy()
        state.update(b"%d " % generation + document.encode())
        return int.from_bytes(state.digest())

    def text(self, document: str, path: bytes, shown: bytes) -> int:
        """The contribution of a text or sequence: of what it shows, not of how pycrdt holds it. An
        empty one counts nothing.
        """
        if not shown:
            return 0
        name = document.encode()
        state = self._texts.copy()
        state.update(b"%d %d %d " % (len(name), len(path), len(shown)) + name + path + shown)
        return int.from_bytes(state.digest())

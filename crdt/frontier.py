"""Frontiers: how far each session's operations have been applied, {session: seq}. Pure helpers on
plain dicts.

A session that is not listed counts as 0. Seqs run without holes, so one number says it all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from crdt.errors import CodecError
from crdt.ids import MAX_SESSION
from crdt.limits import MAX_SEQ
from crdt.structure import pack, unpack


def covers(a: Mapping[int, int], b: Mapping[int, int]) -> bool:
    """Whether `a` has everything that `b` has."""
    return all(a.get(session, 0) >= seq for session, seq in b.items())


def missing(have: Mapping[int, int], want: Mapping[int, int]) -> list[tuple[int, int, int]]:
    """What `want` has and `have` has not: (session, after, upto) in order of session, seqs in
    (after, upto].
    """
    return [
        (session, have.get(session, 0), want[session])
        for session in sorted(want)
        if want[session] > have.get(session, 0)
    ]


def count_missing(have: Mapping[int, int], want: Mapping[int, int]) -> int:
    """How many operations `want` has and `have` has not."""
    return sum(max(0, seq - have.get(session, 0)) for session, seq in want.items())


def frontier_hash(frontier: Mapping[int, int], floor: int) -> bytes:
    """16 bytes that two replicas share exactly if they have applied the same operations."""
    return hashlib.blake2b(pack(floor) + encode(frontier), digest_size=16).digest()


def encode(frontier: Mapping[int, int]) -> bytes:
    """Canonical bytes: a flat list of session, seq in order of session."""
    return pack(flat(frontier))


def decode(data: bytes) -> dict[int, int]:
    """What `encode` wrote. Raises CodecError."""
    return from_flat(unpack(data))


def flat(frontier: Mapping[int, int]) -> list[int]:
    """Session, seq, session, seq … in order of session."""
    return [number for session in sorted(frontier) for number in (session, frontier[session])]


def from_flat(numbers: object) -> dict[int, int]:
    """What `flat` wrote, proven: sessions in order and in range, seqs from 1 up. Raises
    CodecError.
    """
    if type(numbers) not in (tuple, list) or len(numbers) % 2:  # type: ignore[arg-type]
        raise CodecError("a frontier is not a list of pairs")
    frontier: dict[int, int] = {}
    previous = -1
    pairs = iter(numbers)  # type: ignore[call-overload]
    for session, seq in zip(pairs, pairs, strict=True):
        if type(session) is not int or not previous < session <= MAX_SESSION:
            raise CodecError(f"a frontier's sessions are out of order or range at {session!r:.40}")
        if type(seq) is not int or not 0 < seq <= MAX_SEQ:
            raise CodecError(f"a frontier has seq {seq!r:.40} for session {session}")
        frontier[session] = seq
        previous = session
    return frontier

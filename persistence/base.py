"""The ports below which everything is replaceable, each with the guarantees its users rely on.

Adapters hold no protocol logic. Everything below the composition root takes time, randomness, ids
and I/O from these ports, so that a simulation can replace all of them and run the same code.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from crdt.errors import CallerError, PeerError, ServiceError


class StorageError(ServiceError):
    """The journal could not be read or written: full, read-only, damaged or gone."""


class FolderError(CallerError):
    """A data folder that may not be opened: another mesh's, a newer format's, or in use."""


class FrameError(PeerError):
    """A frame that is refused: garbage, oversized, forged, foreign or of an unknown version."""


class Clock(Protocol):
    """Time. `monotonic` never goes back and is only good for intervals; `wall_ms` may jump."""

    def monotonic(self) -> float:
        """Seconds since some fixed instant of this process."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, as far as this host knows."""


class Entropy(Protocol):
    """Randomness. Only `token` may be used for ids and keys; `stream` is for jitter and choice."""

    def token(self, size: int) -> bytes:
        """`size` unpredictable bytes (in a simulation: bytes drawn from the seed)."""

    def stream(self, name: str) -> random.Random:
        """A generator of its own for each name, so that one user's draws don't shift another's."""


class Probe(Protocol):
    """The one stream of events that metrics, the screen, traces and simulations all read.

    Calls never block, never raise and never change what the caller does next.
    """

    def event(self, kind: str, **fields: object) -> None:
        """Something happened. `kind` is dotted (`frame.refused`); fields are plain data."""

    def sometimes(self, name: str) -> None:
        """Mark a rare path; a long simulation that never hits one fails. No-op in production."""


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame as the journal keeps it: the author's own bytes and what it is found by."""

    shard: int
    session: int
    first: int
    last: int
    own: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A sealed shard snapshot, and the journal position up to which it contains every frame."""

    shard: int
    position: int
    data: bytes


class Journal(Protocol):
    """Frames in apply order, snapshots, cursors and certificates of one replica. One writer.

    Guarantees: `append` is atomic and durable (fsync) when it returns; positions grow strictly in
    apply order; what was appended is read back bit for bit or `StorageError` is raised. Not
    guaranteed: that frames older than a snapshot are still there. Raises `StorageError`.
    """

    async def append(self, frames: Sequence[FrameRecord]) -> int:
        """Append all of them or none; returns the position of the last one once it is on disk."""

    async def replay(self, after: int, limit: int) -> list[tuple[int, FrameRecord]]:
        """Up to `limit` frames with position > `after`, in apply order."""

    async def frames(
        self, shard: int, session: int, after: int, upto: int, limit: int
    ) -> list[FrameRecord]:
        """A session's frames of one shard that hold any seq in (after, upto], by seq.

        At most `limit` frames. Missing ones (pruned) are simply not there: the caller checks for
        holes.
        """

    async def save_snapshot(self, record: SnapshotRecord) -> None:
        """Keep this snapshot instead of the shard's older one."""

    async def snapshots(self) -> list[SnapshotRecord]:
        """The newest snapshot of every shard that has one."""

    async def prune(self, shard: int, upto: Mapping[int, int]) -> int:
        """Forget frames of the shard that lie wholly at or below `upto` {session: seq} *and* in its
        snapshot.

        Returns how many were removed.
        """

    async def set_meta(self, values: Mapping[str, bytes]) -> None:
        """Store small named values (cursors, certificates), durably, all or none."""

    async def meta(self) -> dict[str, bytes]:
        """All small named values."""

    async def size(self) -> int:
        """Bytes of frames and snapshots held."""

    async def close(self) -> None:
        """Release the files. Idempotent."""

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


class JournalDamaged(StorageError):
    """The journal holds what was never written, or lacks what was. Trying again is no use."""


REBUILT = "rebuilt"
"""Name in a rebuilt journal's meta of what people should know about it."""
WAITING = "salvaged."
"""Names in a rebuilt journal's meta of own frames that wait for what was lost before them."""


class FolderError(CallerError):
    """A data folder that may not be opened: another mesh's, a newer format's, or in use."""


class FrameError(PeerError):
    """A frame that is refused: garbage, oversized, forged, foreign or of an unknown version."""


class ServiceUnavailable(ServiceError):
    """A server could not do it now; what was owed stays owed, and is tried again.

    `reason` says what happened, `cure` what to do about it; both are one line, without secrets.
    `lasting`: it will not pass by itself (a wrong password, a topic with another partition count):
    asking again soon is no use.
    """

    def __init__(self, reason: str, cure: str, *, lasting: bool = False) -> None:
        self.reason = reason
        self.cure = cure
        self.lasting = lasting
        super().__init__(f"{reason}; {cure}")


class LeaseLost(ServiceError):
    """Another replica holds the lease of this shard, or has held it since; nothing was written."""


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
        """All small named values. One that is damaged is left out: what it said is unknown."""

    async def size(self) -> int:
        """Bytes of frames and snapshots held."""

    async def close(self) -> None:
        """Release the files. Idempotent."""


@dataclass(frozen=True, slots=True)
class LogFrame:
    """A frame for the log: the author's bytes, and what any tool may route and count it by.

    `events`: how many transactions are in it; 0 where nobody could tell.
    """

    shard: int
    session: int
    first: int
    events: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LogRecord:
    """Something read from the log at `offset` of a shard's partition. Unproven bytes."""

    shard: int
    offset: int
    data: bytes


class EventLog(Protocol):
    """The durable, ordered, replayable log of one mesh: a sequence of records for every shard.

    Guarantees: when `append` returns, all in-sync copies of the log have the frames; a shard's
    records have strictly growing offsets, frames of one append in the order given; what was
    appended is read back bit for bit until retention removes it. Not guaranteed: that a frame is
    there only once (one whose append failed may be there all the same), that offsets have no holes,
    that old records are still there. Every call may raise ServiceUnavailable.
    """

    async def append(self, frames: Sequence[LogFrame]) -> None:
        """Append frames; returns once all of them are durable in the log.

        Raises ServiceUnavailable: any part of them may be in the log; offer all of them again.
        """

    async def read(
        self, offsets: Mapping[int, int], *, limit: int, wait_s: float
    ) -> list[LogRecord]:
        """Up to about `limit` records at or above the given offset of each shard named.

        In offset order within a shard. Waits at most `wait_s` seconds for the first; [] if none
        came. Where retention has removed records, reading goes on at the first one kept, after one
        record without bytes at the offset before it; so does whatever takes an offset and holds
        nothing. Beyond the end of a log that was made anew, reading begins at its first record.
        """

    async def bounds(self) -> dict[int, tuple[int, int]]:
        """{shard: (first offset kept, offset that the next record will get)}, of all shards."""

    async def version(self) -> str:
        """What server this is, for people. Asks it: ServiceUnavailable if it does not answer."""

    async def close(self) -> None:
        """Release connections. Idempotent, never raises."""


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What is known of a checkpoint without loading it. `written_ms`: Unix ms, the server's clock.

    `frontier` and `digest` are those of the sealed snapshot; every record of the shard's log below
    `log_offset` is contained in it. Unproven until the snapshot itself was opened.
    """

    id: int
    shard: int
    fence: int
    replica: str
    frontier: Mapping[int, int]
    log_offset: int
    digest: bytes
    size: int
    written_ms: int
    verified: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write checkpoints of a shard. `fence` grows with every change of holder."""

    shard: int
    holder: str
    fence: int


class CheckpointStore(Protocol):
    """Checkpoints of a mesh's shards, and who may write them. Shared by all replicas of the mesh.

    Guarantees: a shard's lease has one holder at a time by the *server's* clock; whoever lost it
    can't write any more (fencing). What `write` returned an id for is durable and is read back bit
    for bit. Every call may raise ServiceUnavailable.
    """

    async def acquire(self, shard: int, holder: str, ttl_s: float) -> Lease | None:
        """Get or renew the lease for `ttl_s` seconds; None while another holder's is valid."""

    async def release(self, lease: Lease) -> None:
        """Give the lease up at once. No error where it is lost already."""

    async def write(
        self,
        lease: Lease,
        *,
        frontier: Mapping[int, int],
        log_offset: int,
        digest: bytes,
        data: bytes,
    ) -> int:
        """Store an unverified checkpoint of the lease's shard; its id. Raises LeaseLost."""

    async def load(self, id: int) -> bytes | None:
        """The sealed bytes; None where it was removed meanwhile."""

    async def verified(self, lease: Lease, id: int) -> int:
        """This checkpoint was loaded and proven: it counts from now on, and all older ones of its
        shard go. Returns how many went. Raises LeaseLost.
        """

    async def discard(self, lease: Lease, id: int) -> None:
        """This checkpoint did not stand the proof: remove it alone. One that counts stays. Raises
        LeaseLost.
        """

    async def newest(self) -> dict[int, CheckpointInfo]:
        """{shard: its newest verified checkpoint}, of all shards that have one."""

    async def version(self) -> str:
        """What server this is, for people. Asks it: ServiceUnavailable if it does not answer."""

    async def close(self) -> None:
        """Release connections. Idempotent, never raises."""

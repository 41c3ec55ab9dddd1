"""Frames, and how replicas find out and get what they lack.

- `Frames` carries authors' own bytes, pushed when written or in answer to `Want`;
- `Journaled` tells which frames this replica has on disk (what `PEERS(n)` counts);
- `Summary` compares all shards in a few hundred bytes, `Frontier` one shard in full; whoever finds
  that it lacks something asks with `Want`, or with `WantSnapshot` where frames are gone or a
  snapshot is smaller, and with `WantRest` for what a broken link left of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from crdt.errors import CodecError
from crdt.frontier import flat
from mesh.wire.codec import (
    MAX_SESSIONS,
    Word,
    blob,
    blobs,
    flag,
    items,
    number,
    pairs,
    shard_index,
)
from persistence.limits import MAX_SHARDS, MAX_SNAPSHOT_BYTES

SNAPSHOT_PART_BYTES = 256 << 10
MAX_PARTS = MAX_SNAPSHOT_BYTES // SNAPSHOT_PART_BYTES
MAX_FRAMES = 4096
MAX_CERTIFICATES = 1024


@dataclass(frozen=True, slots=True)
class Certificates:
    """Session certificates, for frames that follow or in answer to `WantCertificates`."""

    certificates: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class WantCertificates:
    """The sender got frames of these sessions and can't verify them."""

    sessions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of any shards, each verifiable alone, in an order that respects causality where it
    can.
    """

    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Journaled:
    """Per shard, how far the sender has sessions on disk: changes since it last told over this
    link.
    """

    shards: dict[int, dict[int, int]]


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One shard at an instant that is on the sender's disk."""

    shard: int
    floor: int
    frontier_hash: bytes
    digest: bytes
    cuts: int


@dataclass(frozen=True, slots=True)
class Summary:
    """All shards of the sender."""

    rows: tuple[SummaryRow, ...]


@dataclass(frozen=True, slots=True)
class Frontier:
    """One shard in full. `reply` asks for the receiver's; `entries` prices a snapshot."""

    shard: int
    floor: int
    cuts: int
    entries: int
    reply: bool
    digest: bytes
    frontier: dict[int, int]


@dataclass(frozen=True, slots=True)
class Range:
    """The operations of a session with after < seq <= upto."""

    session: int
    after: int
    upto: int


@dataclass(frozen=True, slots=True)
class Want:
    """Asks for the frames that hold these operations."""

    shard: int
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """A `Want` is answered; `pruned` says that frames it asked for are gone here: a snapshot has
    them.
    """

    shard: int
    pruned: bool


@dataclass(frozen=True, slots=True)
class WantSnapshot:
    """Asks for the whole shard."""

    shard: int


@dataclass(frozen=True, slots=True)
class WantRest:
    """Asks for a snapshot from part `index` on, of a transfer that an earlier link broke off. Who
    no longer has that very one gives another from its start. Since wire version 3.
    """

    shard: int
    transfer: int
    index: int


Request: TypeAlias = Want | WantSnapshot | WantRest
"""What is answered as fast as the peer reads."""


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """Part `index` of `count` of a sealed snapshot; `transfer` tells one snapshot from the next."""

    shard: int
    transfer: int
    index: int
    count: int
    data: bytes


def _row(value: Any) -> SummaryRow:
    parts = items(value, 5)
    if len(parts) != 5:
        raise CodecError("a summary row has five fields")
    shard, floor, frontier_hash, digest, cuts = parts
    return SummaryRow(
        shard_index(shard), number(floor), blob(frontier_hash, 32), blob(digest, 32), number(cuts)
    )


def _range(value: Any) -> Range:
    parts = items(value, 3)
    if len(parts) != 3:
        raise CodecError("a range has three fields")
    session, after, upto = parts
    checked = Range(number(session, least=1), number(after), number(upto))
    if checked.after >= checked.upto:
        raise CodecError(f"an empty range {checked.after}..{checked.upto}")
    return checked


def _frontier(parts: tuple[Any, ...]) -> Frontier:
    shard, floor, cuts, entries, reply, digest, frontier = parts
    return Frontier(
        shard_index(shard), number(floor), number(cuts), number(entries), flag(reply),
        blob(digest, 32), pairs(frontier),
    )  # fmt: skip


def _journaled(parts: tuple[Any, ...]) -> Journaled:
    rows = items(parts[0], 2 * MAX_SHARDS)
    if len(rows) % 2:
        raise CodecError("a shard without its frontier")
    return Journaled(
        {shard_index(shard): pairs(flat) for shard, flat in zip(rows[::2], rows[1::2], strict=True)}
    )


def _want_rest(parts: tuple[Any, ...]) -> WantRest:
    shard, transfer, index = parts
    return WantRest(shard_index(shard), number(transfer), number(index, MAX_PARTS, 1))


def _snapshot_part(parts: tuple[Any, ...]) -> SnapshotPart:
    shard, transfer, index, count, data = parts
    part = SnapshotPart(
        shard_index(shard), number(transfer), number(index, MAX_PARTS),
        number(count, MAX_PARTS, 1), blob(data, SNAPSHOT_PART_BYTES),
    )  # fmt: skip
    if part.index >= part.count:
        raise CodecError(f"part {part.index} of {part.count}")
    return part


WORDS = (
    Word(
        1, Certificates, lambda m: (list(m.certificates),),
        1, lambda p: Certificates(blobs(p[0], MAX_CERTIFICATES)),
    ),
    Word(
        2, WantCertificates, lambda m: (list(m.sessions),),
        1, lambda p: WantCertificates(
            tuple(number(one, least=1) for one in items(p[0], MAX_CERTIFICATES))
        ),
    ),
    Word(3, Frames, lambda m: (list(m.frames),), 1, lambda p: Frames(blobs(p[0], MAX_FRAMES))),
    Word(
        4, Journaled,
        lambda m: ([part for s in sorted(m.shards) for part in (s, flat(m.shards[s]))],),
        1, _journaled,
    ),
    Word(
        5, Summary,
        lambda m: ([[r.shard, r.floor, r.frontier_hash, r.digest, r.cuts] for r in m.rows],),
        1, lambda p: Summary(tuple(_row(one) for one in items(p[0], MAX_SHARDS))),
    ),
    Word(
        6, Frontier,
        lambda m: (
            m.shard, m.floor, m.cuts, m.entries, m.reply, m.digest, flat(m.frontier)
        ),
        7, _frontier,
    ),
    Word(
        7, Want, lambda m: (m.shard, [[r.session, r.after, r.upto] for r in m.ranges]),
        2, lambda p: Want(
            shard_index(p[0]), tuple(_range(one) for one in items(p[1], MAX_SESSIONS))
        ),
    ),
    Word(
        8, Served, lambda m: (m.shard, m.pruned),
        2, lambda p: Served(shard_index(p[0]), flag(p[1])),
    ),
    Word(9, WantSnapshot, lambda m: (m.shard,), 1, lambda p: WantSnapshot(shard_index(p[0]))),
    Word(
        10, SnapshotPart, lambda m: (m.shard, m.transfer, m.index, m.count, m.data),
        5, _snapshot_part,
    ),
    Word(29, WantRest, lambda m: (m.shard, m.transfer, m.index), 3, _want_rest, since=3),
)  # fmt: skip

"""What two replicas say to each other: frozen messages, their bytes, and nothing else.

Rules of this file: pure; encoding never fails for what this process built; decoding is total, it
returns a message or raises `CodecError`; every list has a bound. A message of a kind this version
does not know is returned as `Unknown` and skipped, so that a newer replica can say more than an
older one understands.

Theory of operation: after the transport has proved who is there, each side sends `Hello` once. From
then on

- `Frames` carries authors' own bytes, pushed when written or in answer to `Want`;
- `Journaled` tells which frames this replica has on disk (what `PEERS(n)` counts);
- `Summary` compares all shards in a few hundred bytes, `Frontier` one shard in full; whoever finds
  that it lacks something asks with `Want`, or with `WantSnapshot` where frames are gone or a
  snapshot is smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from crdt.errors import CodecError
from crdt.frontier import flat, from_flat
from crdt.structure import pack, unpack
from persistence.limits import MAX_SEQ, MAX_SHARDS, MAX_SNAPSHOT_BYTES, MAX_SNAPSHOT_SESSIONS

WIRE_OLDEST = 1
WIRE_NEWEST = 1
MAX_MESSAGE_BYTES = 8 << 20
"""No message is larger (the largest frame fits); a transport may close a link that announces one.
"""
SNAPSHOT_PART_BYTES = 256 << 10
MAX_SESSIONS = MAX_SNAPSHOT_SESSIONS
MAX_FRAMES = 4096
MAX_CERTIFICATES = 1024
MAX_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of each side. `known` are sessions whose certificates the sender has (newest,
    bounded).
    """

    oldest: int
    newest: int
    mesh: bytes
    replica: str
    session: int
    certificate: bytes
    known: tuple[int, ...]


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
class SnapshotPart:
    """Part `index` of `count` of a sealed snapshot; `transfer` tells one snapshot from the next."""

    shard: int
    transfer: int
    index: int
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """Nothing to say, still here."""


@dataclass(frozen=True, slots=True)
class Bye:
    """Why the sender ends the link, for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of a kind this version does not know. Skipped."""

    kind: int


Message: TypeAlias = (
    Hello
    | Certificates
    | WantCertificates
    | Frames
    | Journaled
    | Summary
    | Frontier
    | Want
    | Served
    | WantSnapshot
    | SnapshotPart
    | Ping
    | Bye
    | Unknown
)


def encode(message: Message) -> bytes:
    """The message's bytes: msgpack of `[kind, fields…]`."""
    kind, fields = _ENCODERS[type(message)]
    return pack([kind, *fields(message)])


def decode(data: bytes) -> Message:
    """The message, or `CodecError`. Costs no more than a small multiple of the bytes."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise CodecError(f"a message of {len(data)} bytes, at most {MAX_MESSAGE_BYTES}")
    parts = unpack(data)
    if type(parts) is not tuple or not parts or type(parts[0]) is not int:
        raise CodecError("a message is a list that starts with its kind")
    decoder = _DECODERS.get(parts[0])
    if decoder is None:
        return Unknown(parts[0])
    size, build = decoder
    if len(parts) != size + 1:
        raise CodecError(f"a message of kind {parts[0]} with {len(parts) - 1} fields, not {size}")
    return build(parts[1:])


def _number(value: Any, limit: int = MAX_SEQ, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= limit:
        raise CodecError(f"{str(value)[:40]!r} is not a number from {least} to {limit}")
    return value


def _blob(value: Any, limit: int = MAX_MESSAGE_BYTES) -> bytes:
    if type(value) is not bytes or len(value) > limit:
        raise CodecError(f"not a byte string of at most {limit} bytes")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise CodecError("not true or false")
    return value


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > MAX_NAME_BYTES:
        raise CodecError(f"not a text of at most {MAX_NAME_BYTES} characters")
    return value


def _items(value: Any, limit: int) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) > limit:
        raise CodecError(f"not a list of at most {limit} items")
    return value


def _pairs(value: Any) -> dict[int, int]:
    return from_flat(_items(value, 2 * MAX_SESSIONS))


def _shard(value: Any) -> int:
    return _number(value, MAX_SHARDS - 1)


def _row(value: Any) -> SummaryRow:
    parts = _items(value, 5)
    if len(parts) != 5:
        raise CodecError("a summary row has five fields")
    shard, floor, frontier_hash, digest, cuts = parts
    return SummaryRow(
        _shard(shard), _number(floor), _blob(frontier_hash, 32), _blob(digest, 32), _number(cuts)
    )


def _range(value: Any) -> Range:
    parts = _items(value, 3)
    if len(parts) != 3:
        raise CodecError("a range has three fields")
    session, after, upto = parts
    checked = Range(_number(session, least=1), _number(after), _number(upto))
    if checked.after >= checked.upto:
        raise CodecError(f"an empty range {checked.after}..{checked.upto}")
    return checked


def _hello(parts: tuple[Any, ...]) -> Hello:
    oldest, newest, mesh, replica, session, certificate, known = parts
    return Hello(
        _number(oldest, 0xFFFF), _number(newest, 0xFFFF), _blob(mesh, 64), _text(replica),
        _number(session, least=1), _blob(certificate, 64 << 10),
        tuple(_number(one, least=1) for one in _items(known, MAX_SESSIONS)),
    )  # fmt: skip


def _frontier(parts: tuple[Any, ...]) -> Frontier:
    shard, floor, cuts, entries, reply, digest, frontier = parts
    return Frontier(
        _shard(shard), _number(floor), _number(cuts), _number(entries), _flag(reply),
        _blob(digest, 32), _pairs(frontier),
    )  # fmt: skip


def _journaled(parts: tuple[Any, ...]) -> Journaled:
    rows = _items(parts[0], 2 * MAX_SHARDS)
    if len(rows) % 2:
        raise CodecError("a shard without its frontier")
    return Journaled(
        {_shard(shard): _pairs(flat) for shard, flat in zip(rows[::2], rows[1::2], strict=True)}
    )


def _snapshot_part(parts: tuple[Any, ...]) -> SnapshotPart:
    shard, transfer, index, count, data = parts
    most = MAX_SNAPSHOT_BYTES // SNAPSHOT_PART_BYTES
    part = SnapshotPart(
        _shard(shard), _number(transfer), _number(index, most), _number(count, most, 1),
        _blob(data, SNAPSHOT_PART_BYTES),
    )  # fmt: skip
    if part.index >= part.count:
        raise CodecError(f"part {part.index} of {part.count}")
    return part


def _blobs(value: Any, limit: int) -> tuple[bytes, ...]:
    return tuple(_blob(one) for one in _items(value, limit))


_ENCODERS: dict[type[Any], tuple[int, Callable[[Any], Sequence[Any]]]] = {
    Hello: (
        0,
        lambda m: (
            m.oldest, m.newest, m.mesh, m.replica, m.session, m.certificate, list(m.known)
        ),
    ),
    Certificates: (1, lambda m: (list(m.certificates),)),
    WantCertificates: (2, lambda m: (list(m.sessions),)),
    Frames: (3, lambda m: (list(m.frames),)),
    Journaled: (
        4,
        lambda m: ([part for s in sorted(m.shards) for part in (s, flat(m.shards[s]))],),
    ),
    Summary: (
        5,
        lambda m: ([[r.shard, r.floor, r.frontier_hash, r.digest, r.cuts] for r in m.rows],),
    ),
    Frontier: (
        6,
        lambda m: (
            m.shard, m.floor, m.cuts, m.entries, m.reply, m.digest, flat(m.frontier)
        ),
    ),
    Want: (7, lambda m: (m.shard, [[r.session, r.after, r.upto] for r in m.ranges])),
    Served: (8, lambda m: (m.shard, m.pruned)),
    WantSnapshot: (9, lambda m: (m.shard,)),
    SnapshotPart: (10, lambda m: (m.shard, m.transfer, m.index, m.count, m.data)),
    Ping: (11, lambda _: ()),
    Bye: (12, lambda m: (m.reason[:MAX_NAME_BYTES],)),
}  # fmt: skip

_DECODERS: dict[int, tuple[int, Callable[[tuple[Any, ...]], Message]]] = {
    0: (7, _hello),
    1: (1, lambda p: Certificates(_blobs(p[0], MAX_CERTIFICATES))),
    2: (1, lambda p: WantCertificates(
        tuple(_number(one, least=1) for one in _items(p[0], MAX_CERTIFICATES))
    )),
    3: (1, lambda p: Frames(_blobs(p[0], MAX_FRAMES))),
    4: (1, _journaled),
    5: (1, lambda p: Summary(tuple(_row(one) for one in _items(p[0], MAX_SHARDS)))),
    6: (7, _frontier),
    7: (2, lambda p: Want(
        _shard(p[0]), tuple(_range(one) for one in _items(p[1], MAX_SESSIONS))
    )),
    8: (2, lambda p: Served(_shard(p[0]), _flag(p[1]))),
    9: (1, lambda p: WantSnapshot(_shard(p[0]))),
    10: (5, _snapshot_part),
    11: (0, lambda _: Ping()),
    12: (1, lambda p: Bye(_text(p[0]))),
}  # fmt: skip

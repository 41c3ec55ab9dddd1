"""Who is there: the newest row of every replica, and when it stops to count.

Rules of this file: pure; times are numbers the caller passes.

Theory of operation: a row is replaced by the one of a later session, and in a session by the one of
a higher version, so that rows may come in any order, by any way, any number of times (a join of
maxima, as in Demers et al. 1987). Every replica renews its own row; a row that is not renewed stops
to count after the time that was left of it when it came, by the clock of whoever holds it: no two
clocks are ever compared. What stopped to count is remembered, so that no slower way brings it back.

Nothing of this is kept on disk, and nothing of it is proof: a row says what its replica, or a
member of the mesh that passed it on, claims.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

from crdt import codec
from crdt.errors import CallerError, CodecError
from crdt.frontier import flat
from crdt.structure import pack, unpack
from mesh.wire.codec import blob, items, number, pairs, shard_index, text
from mesh.wire.presence import MAX_LEFT_MS, MAX_PRESENCE_BYTES, PresenceRow
from persistence.limits import MAX_SHARDS

MAX_PRESENT = 4_096
"""Replicas held at once; more are not taken in."""
MAX_PRESENT_BYTES = 16 << 20
"""Of all of them together."""
MAX_FIELDS = 32
MAX_FIELD_NAME = 64
MAX_DATA_BYTES = 4 << 10
"""What `set` may say, encoded."""
MAX_WAITERS = 64
"""Sessions of others that one row answers."""
GONE = b""


@dataclass(frozen=True, slots=True)
class Said:
    """What a row says. `address`: where to dial the replica, empty if it does not listen.

    `keeps`: the shards of which it keeps frames on a disk of its own, None for all. `waits` {shard:
    seq}: how far its own writes are to be on the disks of a majority; `holds` {session: {shard:
    seq}}: what it has on disk of sessions that wait so. `data`: `codec` encoding of a dict.
    """

    ttl_ms: int
    address: str
    keeps: tuple[int, ...] | None = None
    waits: Mapping[int, int] = field(default_factory=dict)
    holds: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    data: bytes = codec.encode({})


def encode_said(said: Said) -> bytes:
    """The body of a row."""
    holds = [[session, flat(said.holds[session])] for session in sorted(said.holds)]
    return pack([said.ttl_ms, said.address, said.keeps, flat(said.waits), holds, said.data])


def decode_said(body: bytes) -> Said:
    """What a row says, or CodecError. Later versions may say more: it is passed over."""
    parts = unpack(body, max_bytes=MAX_PRESENCE_BYTES)
    if type(parts) is not tuple or len(parts) < 6:
        raise CodecError("what a replica says of itself has six fields")
    ttl, address, keeps, waits, holds, data = parts[:6]
    held: dict[int, dict[int, int]] = {}
    for one in items(holds, MAX_WAITERS):
        if len(items(one, 2)) != 2:
            raise CodecError("a session without what is held of it")
        held[number(one[0], least=1)] = _seqs(one[1])
    shards = None if keeps is None else items(keeps, MAX_SHARDS)
    return Said(
        number(ttl, MAX_LEFT_MS), text(address),
        None if shards is None else tuple(shard_index(one) for one in shards),
        _seqs(waits), held, blob(data, MAX_DATA_BYTES),
    )  # fmt: skip


def _seqs(value: Any) -> dict[int, int]:
    """{shard: seq}."""
    found = pairs(items(value, 2 * MAX_SHARDS))
    return {shard_index(shard): seq for shard, seq in found.items()}


def encode_data(data: Mapping[str, Any]) -> bytes:
    """What a replica wants others to know, as bytes. Raises CallerError naming what is wrong."""
    if len(data) > MAX_FIELDS:
        raise CallerError(
            f"presence of {len(data)} fields, at most {MAX_FIELDS}: put several in one"
        )
    for name in data:
        if len(name) > MAX_FIELD_NAME:
            raise CallerError(
                f"a presence field is called {name[:20]!r}…: {MAX_FIELD_NAME} at most"
            )
    encoded = codec.encode(dict(data))
    if len(encoded) > MAX_DATA_BYTES:
        raise CallerError(
            f"presence of {len(encoded)} bytes, at most {MAX_DATA_BYTES}: it travels with every "
            "heartbeat; put what is larger into a document"
        )
    return encoded


def decode_data(data: bytes) -> Mapping[str, Any]:
    """What `encode_data` was given, unchangeable. Raises CodecError."""
    value = codec.decode(data, max_bytes=MAX_DATA_BYTES)
    if type(value) is not dict:
        raise CodecError("presence is a dict")
    frozen: Mapping[str, Any] = _frozen(value)
    return frozen


def _frozen(value: Any) -> Any:
    if type(value) is dict:
        return MappingProxyType({key: _frozen(one) for key, one in value.items()})
    if type(value) is list:
        return tuple(_frozen(one) for one in value)
    return value


@dataclass(frozen=True, slots=True)
class Present:
    """A replica that is there. `since`: Unix milliseconds at which its session began, by its clock.

    `expires_in_s`: after so many seconds without a sign of life it counts as gone. `data`: what it
    `set`, unchangeable. A hint, no proof: what a member passed on, some moments old.
    """

    name: str
    session: int
    since: int
    expires_in_s: float
    address: str
    data: Mapping[str, Any]


class News(Enum):
    """What a row brought."""

    NOTHING = "nothing"
    """It is known, or older than what is known."""
    BEAT = "beat"
    """The replica is still there and says the same as before."""
    CHANGED = "changed"
    """The replica is new, or left, or says something else."""
    NO_ROOM = "no room"


@dataclass(slots=True)
class _Entry:
    row: PresenceRow
    said: Said | None
    data: Mapping[str, Any]
    expires: float
    acked: dict[int, int] = field(default_factory=dict)
    """{shard: seq} of our own session that it said to have on disk."""


class PresenceTable:
    """See the module. `session`: our own, whose acknowledgements are kept."""

    def __init__(
        self,
        name: str,
        session: int,
        limit: int = MAX_PRESENT,
        limit_bytes: int = MAX_PRESENT_BYTES,
    ) -> None:
        self._name = name
        self._session = session
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._entries: dict[str, _Entry] = {}
        self._past: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._waiting: dict[str, _Entry] = {}

    def __repr__(self) -> str:
        return f"<PresenceTable of {len(self._entries)} replicas>"

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def merge(self, row: PresenceRow, now: float) -> News:
        """Take in a row of another replica. Raises CodecError; nothing changed then."""
        before = self._entries.get(row.replica)
        if row.replica == self._name or not self._newer(row, before):
            return News.NOTHING
        if before is None and (not row.body or not row.left_ms):
            return News.NOTHING
        expires = now + row.left_ms / 1000
        same = before is not None and before.row.session == row.session
        if same and before is not None and before.row.body == row.body:
            before.row, before.expires = row, expires
            return News.BEAT
        size = self._bytes + len(row.body) - (len(before.row.body) if before is not None else 0)
        if size > self._limit_bytes or (before is None and len(self._entries) >= self._limit):
            return News.NO_ROOM
        said = decode_said(row.body) if row.body else None
        data = decode_data(said.data) if said is not None else {}
        entry = self._entries[row.replica] = _Entry(row, said, data, expires)
        self._bytes = size
        if same and before is not None:
            entry.acked = before.acked
        for shard, seq in (said.holds.get(self._session, {}) if said else {}).items():
            entry.acked[shard] = max(seq, entry.acked.get(shard, 0))
        self._waiting.pop(row.replica, None)
        if said is not None and said.waits:
            self._waiting[row.replica] = entry
        return News.CHANGED

    def put(self, row: PresenceRow) -> None:
        """Our own row, which does not expire here."""
        said = decode_said(row.body) if row.body else None
        data = decode_data(said.data) if said is not None else {}
        self._entries[row.replica] = _Entry(row, said, data, float("inf"))

    def expire(self, now: float) -> list[str]:
        """Forget what stopped to count; the names of replicas that were there until now."""
        late = sorted(name for name, entry in self._entries.items() if entry.expires <= now)
        gone = []
        for name in late:
            entry = self._entries.pop(name)
            self._bytes -= len(entry.row.body)
            self._waiting.pop(name, None)
            self._past[name] = (entry.row.session, entry.row.version)
            self._past.move_to_end(name)
            if len(self._past) > self._limit:
                self._past.popitem(last=False)
            if entry.said is not None:
                gone.append(name)
        return gone

    def row(self, name: str, now: float) -> PresenceRow | None:
        """The row to pass on, with what is left of its time; None if it does not count any more."""
        entry = self._entries.get(name)
        if entry is None or entry.expires <= now:
            return None
        if name == self._name:
            return entry.row
        return entry.row._replace(left_ms=int((entry.expires - now) * 1000))

    def version(self, name: str) -> tuple[int, int]:
        """(session, version) of the row that is held; zeros if none is."""
        entry = self._entries.get(name)
        return (entry.row.session, entry.row.version) if entry is not None else (0, 0)

    def get(self, name: str, now: float) -> Present | None:
        """The replica, if it is there."""
        entry = self._entries.get(name)
        if entry is None or entry.said is None or entry.expires <= now:
            return None
        ttl = entry.said.ttl_ms / 1000
        left = ttl if name == self._name else entry.expires - now
        row = entry.row
        return Present(name, row.session, row.since, left, entry.said.address, entry.data)

    def registered(self, now: float, shards: Iterable[int]) -> list[str]:
        """Names of the replicas, ourselves included, that are there and keep frames of all these
        shards, sorted.
        """
        wanted = set(shards)
        return [
            name
            for name, entry in sorted(self._entries.items())
            if entry.said is not None
            and (entry.said.keeps is None or wanted.issubset(entry.said.keeps))
            and entry.expires > now
        ]

    def holders(self, written: Mapping[int, int]) -> list[str]:
        """Names of the others that said to have all of {shard: seq} of our session, sorted."""
        return [
            name
            for name, entry in sorted(self._entries.items())
            if entry.acked and all(entry.acked.get(at, 0) >= seq for at, seq in written.items())
        ]

    @property
    def waiting(self) -> bool:
        """Whether any other waits for a majority."""
        return bool(self._waiting)

    def awaited(self) -> dict[int, Mapping[int, int]]:
        """{session: {shard: seq}} that others wait for, of at most `MAX_WAITERS`."""
        waits = {
            entry.row.session: entry.said.waits
            for _, entry in sorted(self._waiting.items())
            if entry.said is not None
        }
        return dict(list(waits.items())[:MAX_WAITERS])

    def _newer(self, row: PresenceRow, before: _Entry | None) -> bool:
        if before is not None:
            known = before.row
            if known.session == row.session:
                return row.version > known.version
            # Two sessions of one replica: the later one counts. Of two born at once, any, but
            # everywhere the same.
            return (row.since, row.session) > (known.since, known.session)
        session, version = self._past.get(row.replica, (0, 0))
        return row.session != session or row.version > version


def answers(
    awaited: Mapping[int, Mapping[int, int]], journaled: Sequence[Mapping[int, int]]
) -> dict[int, dict[int, int]]:
    """What our row says of sessions that are waited for: {session: {shard: seq on our disk}}, of
    the shards where that is enough. `journaled[shard]` {session: seq} is what is on our disk.
    """
    found: dict[int, dict[int, int]] = {}
    for session, waits in awaited.items():
        enough = {
            shard: seq
            for shard, wanted in waits.items()
            if shard < len(journaled) and (seq := journaled[shard].get(session, 0)) >= wanted
        }
        if enough:
            found[session] = enough
    return found

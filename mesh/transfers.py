"""Snapshots on their way: cut into parts, put together again, taken up where a link broke.

Rules of this file: pure; times are seconds that the caller passes.

A *transfer* is one sealed snapshot under a number that the giver's session uses once: session and
number name these very bytes. Both ends keep their side of a transfer for a while, on a shelf: the
giver the bytes, the receiver the parts that came before the link broke. So whoever links again to
the same session asks for the rest, and whatever is gone at either end costs a transfer from its
start, nothing else. Parts prove nothing: the whole is verified as a sealed snapshot before it is
joined.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

from crdt.errors import CodecError
from mesh.wire import SNAPSHOT_PART_BYTES, SnapshotPart
from persistence.limits import MAX_SNAPSHOT_BYTES

RESUMES_SINCE = 3
"""The wire version from which on peers send the rest of a transfer."""
KEPT_S = 60.0
"""How long after its last part each end keeps its side of a transfer."""
KEPT_BYTES = MAX_SNAPSHOT_BYTES
"""How much of it one replica keeps, as giver and as receiver each; the largest snapshot fits."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Transfer(NamedTuple):
    """A sealed snapshot, and the number under which its parts travel."""

    number: int
    data: bytes


def split_snapshot(shard: int, transfer: Transfer, first: int = 0) -> Iterator[SnapshotPart]:
    """A sealed snapshot in parts small enough to travel between frames, from part `first` on."""
    size = SNAPSHOT_PART_BYTES
    number, data = transfer
    count = max(1, -(-len(data) // size))
    for index in range(first, count):
        piece = data[index * size : (index + 1) * size]
        yield SnapshotPart(shard, number, index, count, piece)


class Assembly:
    """Puts the parts of one transfer at a time back together; they come in order over one link."""

    def __init__(self, max_bytes: int = MAX_SNAPSHOT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._key: tuple[int, int, int] | None = None
        self._parts: list[bytes] = []
        self.bytes = 0

    def __repr__(self) -> str:
        return f"<Assembly of {len(self._parts)} parts, {self.bytes} bytes>"

    @property
    def rest(self) -> tuple[int, int, int] | None:
        """(shard, transfer, next part) of what has begun and is not complete."""
        return None if self._key is None else (*self._key[:2], len(self._parts))

    def continued_by(self, part: SnapshotPart) -> bool:
        """Whether this is the next part of what has begun."""
        key = part.shard, part.transfer, part.count
        return key == self._key and part.index == len(self._parts)

    def add(self, part: SnapshotPart) -> bytes | None:
        """The whole snapshot once its last part is in. CodecError for parts out of order or too
        many.
        """
        if part.index == 0:
            self._key = (part.shard, part.transfer, part.count)
            self._parts, self.bytes = [], 0
        if not self.continued_by(part):
            self.clear()
            raise CodecError(f"part {part.index} of a snapshot of shard {part.shard} out of order")
        self.bytes += len(part.data)
        if self.bytes > self._max_bytes:
            self.clear()
            raise CodecError(f"a snapshot of more than {self._max_bytes} bytes")
        self._parts.append(part.data)
        if len(self._parts) < part.count:
            return None
        data = b"".join(self._parts)
        self.clear()
        return data

    def clear(self) -> None:
        """Forget what has come so far."""
        self._key = None
        self._parts, self.bytes = [], 0


class Shelf(Generic[K, V]):
    """What is kept in case somebody comes for it: at most `max_bytes` together, each of it for
    `max_s` seconds since it was put there or touched. The oldest goes first.
    """

    def __init__(self, max_bytes: int, max_s: float) -> None:
        self._max_bytes = max_bytes
        self._max_s = max_s
        self._items: dict[K, tuple[V, int, float]] = {}  # in the order of their times
        self.bytes = 0

    def __repr__(self) -> str:
        return f"<Shelf of {len(self._items)}, {self.bytes} bytes>"

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._items))

    def put(self, key: K, value: V, size: int, now: float) -> None:
        """Keep this, in place of what had the key. `trim` then sees to the bounds."""
        self.take(key)
        self._items[key] = value, size, now
        self.bytes += size

    def get(self, key: K) -> V | None:
        """What is there under this key; it stays."""
        value, _, _ = self._items.get(key, (None, 0, 0.0))
        return value

    def take(self, key: K) -> V | None:
        """What is there under this key; it goes."""
        value, size, _ = self._items.pop(key, (None, 0, 0.0))
        self.bytes -= size
        return value

    def touch(self, key: K, now: float) -> None:
        """It is in use: if it is still there, its time begins anew."""
        if key in self._items:
            value, size, _ = self._items.pop(key)
            self._items[key] = value, size, now

    def trim(self, now: float) -> list[tuple[K, int]]:
        """Let go of what is beyond the bounds: (key, bytes) of each."""
        gone: list[tuple[K, int]] = []
        for key, (_, size, at) in list(self._items.items()):
            if self.bytes <= self._max_bytes and now - at < self._max_s:
                break
            self.take(key)
            gone.append((key, size))
        return gone

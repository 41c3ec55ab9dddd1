"""What is on a simulated disk, and how it comes to harm: bits that turn, a tail that is torn off.

Damage shows as it does with SQLite: a row with a wrong checksum is a `JournalDamaged` for who reads
it, a named value is left out, and a journal that ends before its mark refuses everything. It is
built anew by the very code that `mesh repair` runs (`persistence.salvage`), from rows as they are.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Awaitable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from persistence.base import FrameRecord, JournalDamaged, SnapshotRecord, StorageError
from persistence.identity import Identity
from persistence.memory import MemoryJournal
from persistence.salvage import Row, Salvage, refill, sort_out
from persistence.sqlite_checks import frame_crc

__all__ = ("Platter", "at_once")

T = TypeVar("T")
MOST_FLIPS = 3
MOST_TORN = 6


class Platter(MemoryJournal):
    """What is on disk. Its calls never suspend: the disk says when they happen."""

    def __init__(self) -> None:
        super().__init__()
        self._flipped: dict[int, bytes] = {}
        self._bad_snapshots: dict[int, None] = {}
        self._bad_meta: dict[str, None] = {}
        self._torn: list[FrameRecord] = []
        self._firm = 0
        """The position up to which a torn tail does not reach."""
        self._attic: list[Row] = []
        """What lies in journals that were rebuilt."""

    @property
    def damaged(self) -> bool:
        """Whether anything on it makes a start fail."""
        return bool(self._torn or self._flipped or self._bad_snapshots)

    @property
    def damaged_shards(self) -> list[int]:
        """Those of which anything can't be read."""
        frames = [*self._torn, *map(self._frames.__getitem__, self._flipped)]
        return sorted({*self._bad_snapshots, *(frame.shard for frame in frames)})

    # ------------------------------------------------------------------ harm

    def flip(self, rng: random.Random) -> list[str]:
        """Turn a bit here and there; where, in words."""
        places: list[tuple[str, Any]] = [("frame", at) for at in self._order]
        # There are few of the others: else they would hardly ever be hit.
        weight = 1 + len(places) // 8
        places += [("snapshot", shard) for shard in sorted(self._snapshots)] * weight
        places += [("value", name) for name in sorted(self._meta)] * weight
        found = []
        for what, which in rng.sample(places, min(len(places), rng.randint(1, MOST_FLIPS))):
            found.append(f"{what} {which}")
            if what == "frame":
                data = bytearray(self._frames[which].data)
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                self._flipped[which] = bytes(data)
            elif what == "snapshot":
                self._bad_snapshots[which] = None
            else:
                self._bad_meta[which] = None
        return found

    def tear(self, rng: random.Random) -> int:
        """The newest frames were never written, though the disk said so; how many."""
        loose = [at for at in self._order if at > self._firm]
        torn = loose[len(loose) - min(len(loose), rng.randint(1, MOST_TORN)) :]
        for at in torn:
            frame = self._frames.pop(at)
            self._of_session[frame.shard, frame.session].remove(at)
            self._flipped.pop(at, None)
            self._torn.append(frame)
        self._order = list(self._frames)
        return len(torn)

    def legible(self) -> list[FrameRecord]:
        """The frames on it whose bits have not turned, as they came."""
        return [frame for at, frame in self._frames.items() if at not in self._flipped]

    def rebuilt(self, identity: Identity, name: str, reason: str) -> tuple[Platter, Salvage]:
        """A new one with all that can be read of this one, and what became of it."""
        rows = [*self._attic, *self._rows()]
        marked = self._position if self._torn else None
        found = sort_out(rows, marked, identity, Salvage(identity.replica, name, reason))
        new = Platter()
        at_once(refill(new, found))
        new._firm = new._position
        new._attic = rows
        return new, found.report

    def _rows(self) -> Iterator[Row]:
        """As a scan of the file finds them."""
        for at, frame in self._frames.items():
            columns = (frame.shard, frame.session, frame.first, frame.last, int(frame.own))
            data = self._flipped.get(at, frame.data)
            yield at, (None, *columns, data, frame_crc(columns, frame.data))
        for shard, record in self._snapshots.items():
            wrong = shard in self._bad_snapshots
            yield shard, (None, record.position, record.data, zlib.crc32(record.data) ^ wrong)

    # ------------------------------------------------------------------ what is read

    async def replay(self, after: int, limit: int) -> list[tuple[int, FrameRecord]]:
        """See `Journal.replay`."""
        rows = await super().replay(after, limit)
        for at, _ in rows if self._flipped else ():
            self._check(at)
        return rows

    async def frames(
        self, shard: int, session: int, after: int, upto: int, limit: int
    ) -> list[FrameRecord]:
        """See `Journal.frames`."""
        found = await super().frames(shard, session, after, upto, limit)
        for at in self._of_session.get((shard, session), ()) if self._flipped else ():
            if self._frames[at] in found:
                self._check(at)
        return found

    async def snapshots(self) -> list[SnapshotRecord]:
        """See `Journal.snapshots`."""
        found = await super().snapshots()
        for shard in self._bad_snapshots:
            raise JournalDamaged(f"the snapshot of shard {shard} has a wrong checksum (simulated)")
        return found

    async def meta(self) -> dict[str, bytes]:
        """See `Journal.meta`."""
        found = await super().meta()
        return {name: value for name, value in found.items() if name not in self._bad_meta}

    def _check(self, at: int) -> None:
        if at in self._flipped:
            raise JournalDamaged(f"the frame at position {at} has a wrong checksum (simulated)")

    # ------------------------------------------------------------------ what is written over

    async def save_snapshot(self, record: SnapshotRecord) -> None:
        """See `Journal.save_snapshot`."""
        await super().save_snapshot(record)
        self._firm = self._position
        if self._snapshots[record.shard] is record:
            self._bad_snapshots.pop(record.shard, None)

    async def prune(self, shard: int, upto: Mapping[int, int]) -> int:
        """See `Journal.prune`."""
        removed = await super().prune(shard, upto)
        self._firm = self._position
        for at in [at for at in self._flipped if at not in self._frames]:
            del self._flipped[at]
        return removed

    async def set_meta(self, values: Mapping[str, bytes]) -> None:
        """See `Journal.set_meta`."""
        await super().set_meta(values)
        for name in values:
            self._bad_meta.pop(name, None)

    async def _turn(self) -> None:
        if self._closed:
            raise StorageError("the journal is closed")
        if self._torn:
            raise JournalDamaged(
                f"it was written up to position {self._position}, and ends before: its tail is "
                "torn (simulated)"
            )


def at_once(call: Awaitable[T]) -> T:
    """What a call that never suspends returns."""
    assert isinstance(call, Coroutine)
    try:
        call.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("a call on the platter suspended")

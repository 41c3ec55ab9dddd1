"""A journal in memory: the reference the others are measured by, for tests and for replicas that
may forget.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from persistence.base import FrameRecord, SnapshotRecord, StorageError
from persistence.limits import MAX_READ_FRAMES

DEFAULT_CAPACITY = 1 << 30


class MemoryJournal:
    """`persistence.base.Journal` without a disk: "durable" here means "until this object goes".

    Holds at most `capacity` bytes of frames and snapshots; what would go beyond is refused as on a
    full disk.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._frames: dict[int, FrameRecord] = {}
        # The same positions again, ascending: of all frames, and of each (shard, session).
        self._order: list[int] = []
        self._of_session: dict[tuple[int, int], list[int]] = {}
        self._snapshots: dict[int, SnapshotRecord] = {}
        self._meta: dict[str, bytes] = {}
        self._position = 0
        self._bytes = 0
        self._closed = False

    async def append(self, frames: Sequence[FrameRecord]) -> int:
        """See `Journal.append`."""
        await self._turn()
        size = sum(len(frame.data) for frame in frames)
        self._make_room(size)
        for frame in frames:
            self._position += 1
            self._frames[self._position] = frame
            self._order.append(self._position)
            self._of_session.setdefault((frame.shard, frame.session), []).append(self._position)
        self._bytes += size
        return self._position

    async def replay(self, after: int, limit: int) -> list[tuple[int, FrameRecord]]:
        """See `Journal.replay`."""
        await self._turn()
        check_limit(limit)
        start = bisect_right(self._order, after)
        return [(at, self._frames[at]) for at in self._order[start : start + limit]]

    async def frames(
        self, shard: int, session: int, after: int, upto: int, limit: int
    ) -> list[FrameRecord]:
        """See `Journal.frames`."""
        await self._turn()
        check_limit(limit)
        found = [
            frame
            for frame in map(self._frames.__getitem__, self._of_session.get((shard, session), ()))
            if frame.last > after and frame.first <= upto
        ]
        return sorted(found, key=lambda frame: (frame.last, frame.first))[:limit]

    async def save_snapshot(self, record: SnapshotRecord) -> None:
        """See `Journal.save_snapshot`."""
        await self._turn()
        held = self._snapshots.get(record.shard)
        if held is not None and held.position > record.position:
            return
        freed = 0 if held is None else len(held.data)
        self._make_room(len(record.data) - freed)
        self._snapshots[record.shard] = record
        self._bytes += len(record.data) - freed

    async def snapshots(self) -> list[SnapshotRecord]:
        """See `Journal.snapshots`."""
        await self._turn()
        return [self._snapshots[shard] for shard in sorted(self._snapshots)]

    async def prune(self, shard: int, upto: Mapping[int, int]) -> int:
        """See `Journal.prune`."""
        await self._turn()
        held = self._snapshots.get(shard)
        contained = 0 if held is None else held.position
        removed = 0
        for session, seq in upto.items():
            positions = self._of_session.get((shard, session), [])
            gone = [at for at in positions if at <= contained and self._frames[at].last <= seq]
            for at in gone:
                self._bytes -= len(self._frames.pop(at).data)
            positions[:] = [at for at in positions if at in self._frames]
            removed += len(gone)
        if removed:
            self._order = list(self._frames)
        return removed

    async def set_meta(self, values: Mapping[str, bytes]) -> None:
        """See `Journal.set_meta`."""
        await self._turn()
        self._meta.update(values)

    async def meta(self) -> dict[str, bytes]:
        """See `Journal.meta`."""
        await self._turn()
        return dict(self._meta)

    async def size(self) -> int:
        """See `Journal.size`."""
        await self._turn()
        return self._bytes

    async def close(self) -> None:
        """See `Journal.close`. What was held stays readable by nobody."""
        self._closed = True

    def __repr__(self) -> str:
        return f"MemoryJournal(frames={len(self._frames)}, bytes={self._bytes})"

    async def _turn(self) -> None:
        # Give the loop a turn, as a disk would: code that relies on `append` not switching tasks
        # shows here.
        await asyncio.sleep(0)
        if self._closed:
            raise StorageError("the journal is closed")

    def _make_room(self, size: int) -> None:
        if self._bytes + size > self._capacity:
            raise StorageError(
                f"the journal in memory is full ({self._capacity} bytes); prune it or allow it more"
            )


def check_limit(limit: int) -> None:
    """What every journal demands of a reader's `limit`; a programmer's mistake otherwise."""
    if not 0 < limit <= MAX_READ_FRAMES:
        raise ValueError(f"limit {limit} is not in 1..{MAX_READ_FRAMES}")

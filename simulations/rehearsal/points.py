"""Points in a replica's own course at which its process dies, as if the power had gone.

`apply`: frames are applied in memory and about to be journaled. `fsync`: the journal is writing
them. `send`: they are on disk, and nobody has been told. `snapshot`: a snapshot is being saved.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from persistence.base import FrameRecord, Journal, SnapshotRecord
from simulations.rehearsal import wire

APPLY, FSYNC, SEND, SNAPSHOT = "apply", "fsync", "send", "snapshot"
POINTS: Final = (APPLY, FSYNC, SEND, SNAPSHOT)
_SHORTEST: Final = 0.000_05


class Fuse:
    """Kills this process at the point it is set to, the next time it comes there."""

    def __init__(self) -> None:
        self._point = ""
        self._delay = 0.0

    def set(self, point: str, delay: float) -> None:
        """`delay`: seconds into what takes a while; halved each time it was over before."""
        self._point, self._delay = point, delay

    def at(self, point: str) -> None:
        """Die here, if this is the point."""
        if point == self._point:
            self._die()

    @contextlib.contextmanager
    def during(self, point: str) -> Iterator[None]:
        """Die while the block runs, if this is the point: from a thread, which waits for nobody."""
        if point != self._point:
            yield
            return
        timer = threading.Timer(self._delay, self._die)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._delay = max(_SHORTEST, self._delay / 2)

    def _die(self) -> None:
        # Past all buffers, whose lock the other thread may hold; one short line is written whole.
        os.write(1, wire.pack({"kind": "died", "point": self._point}))
        os.kill(os.getpid(), signal.SIGKILL)


class FusedJournal:
    """A journal with a fuse in it. See `persistence.base.Journal`."""

    def __init__(self, journal: Journal, fuse: Fuse) -> None:
        self._journal = journal
        self._fuse = fuse

    async def append(self, frames: Sequence[FrameRecord]) -> int:
        """See `Journal.append`."""
        self._fuse.at(APPLY)
        with self._fuse.during(FSYNC):
            position = await self._journal.append(frames)
        self._fuse.at(SEND)
        return position

    async def replay(self, after: int, limit: int) -> list[tuple[int, FrameRecord]]:
        """See `Journal.replay`."""
        return await self._journal.replay(after, limit)

    async def frames(
        self, shard: int, session: int, after: int, upto: int, limit: int
    ) -> list[FrameRecord]:
        """See `Journal.frames`."""
        return await self._journal.frames(shard, session, after, upto, limit)

    async def save_snapshot(self, record: SnapshotRecord) -> None:
        """See `Journal.save_snapshot`."""
        with self._fuse.during(SNAPSHOT):
            await self._journal.save_snapshot(record)

    async def snapshots(self) -> list[SnapshotRecord]:
        """See `Journal.snapshots`."""
        return await self._journal.snapshots()

    async def prune(self, shard: int, upto: Mapping[int, int]) -> int:
        """See `Journal.prune`."""
        return await self._journal.prune(shard, upto)

    async def set_meta(self, values: Mapping[str, bytes]) -> None:
        """See `Journal.set_meta`."""
        await self._journal.set_meta(values)

    async def meta(self) -> dict[str, bytes]:
        """See `Journal.meta`."""
        return await self._journal.meta()

    async def size(self) -> int:
        """See `Journal.size`."""
        return await self._journal.size()

    async def close(self) -> None:
        """See `Journal.close`."""
        await self._journal.close()

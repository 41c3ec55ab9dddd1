"""A simulated disk: the journal of one host, whose writes take time, fail, and are lost.

A write has three instants: it is asked for, it is on disk, it is acknowledged. A power cut before
the second loses it, all of it; one between the second and the third leaves it on disk, and nobody
knows. That is what SQLite with a synchronous write-ahead log promises, and no more. Work queues up
as before one disk, in the order it was asked for; who gives up waiting changes nothing of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from typing import Any, TypeVar

from persistence.base import FrameRecord, Journal, SnapshotRecord, StorageError
from persistence.memory import MemoryJournal
from simulations.loop import SECOND, Life, SimLoop
from simulations.trace import Trace

__all__ = ("Disk", "SimJournal")

T = TypeVar("T")
_WRITES = frozenset({"append", "save_snapshot", "prune", "set_meta"})
_BYTES_PER_SECOND = 200_000_000


class _Platter(MemoryJournal):
    """What is on disk. Its calls never suspend: the disk says when they happen."""

    async def _turn(self) -> None:
        if self._closed:
            raise StorageError("the journal is closed")


class Disk:
    """What a host's journal is kept on. It outlives the process; a `SimJournal` is one opening.

    `slow` multiplies what a sync takes; `full` and `broken` refuse every write. `on_sync(moment)`
    is told "before" and "after" for each write as it happens: an aimed power cut hangs on it.
    `on_append` is told of frames that are on disk now.
    """

    def __init__(self, name: str, loop: SimLoop, trace: Trace, rng: random.Random) -> None:
        self.name = name
        self.loop = loop
        self.trace = trace
        self._rng = rng
        self.platter = _Platter()
        self.busy_until = 0
        self.slow = 1.0
        self.full = self.broken = False
        self.on_sync: Callable[[str], None] | None = None
        self.on_append: Callable[[list[FrameRecord]], None] | None = None

    def __repr__(self) -> str:
        return f"<Disk {self.name}: {self.platter!r}>"

    def lose(self) -> None:
        """Everything on it is gone."""
        self.platter = _Platter()

    def latency_ns(self, kind: str, size: int) -> int:
        """How long one call takes: mostly a millisecond, now and then twenty."""
        rng = self._rng
        if kind not in _WRITES:
            return 20_000 + int(rng.random() * 80_000)
        usual = rng.expovariate(1 / 800_000) + 200_000
        if rng.random() < 0.01:
            usual *= 20
        return int(usual * self.slow) + size * SECOND // _BYTES_PER_SECOND

    def refusal(self, kind: str) -> str:
        """Why a write fails now; "" if it does not."""
        if kind in _WRITES and self.broken:
            return "input/output error (simulated)"
        if kind in ("append", "save_snapshot") and self.full:
            return "no space left on the disk (simulated)"
        return ""


class SimJournal:
    """`persistence.base.Journal` on a `Disk`, of one `Life`: when that is over, so is it."""

    def __init__(self, disk: Disk, life: Life) -> None:
        self._disk = disk
        self._life = life
        self._closed = False
        self.dead = False
        # What the disk does is nobody's task: it goes on whoever is suspended.
        self._context = Context()

    def __repr__(self) -> str:
        return f"<SimJournal on {self._disk!r}>"

    async def append(self, frames: Sequence[FrameRecord]) -> int:
        """See `Journal.append`."""
        size = sum(len(frame.data) for frame in frames)
        told = list(frames)
        return await self._do("append", size, lambda on: on.append(told), told)

    async def replay(self, after: int, limit: int) -> list[tuple[int, FrameRecord]]:
        """See `Journal.replay`."""
        return await self._do("replay", 0, lambda on: on.replay(after, limit))

    async def frames(
        self, shard: int, session: int, after: int, upto: int, limit: int
    ) -> list[FrameRecord]:
        """See `Journal.frames`."""
        return await self._do(
            "frames", 0, lambda on: on.frames(shard, session, after, upto, limit)
        )

    async def save_snapshot(self, record: SnapshotRecord) -> None:
        """See `Journal.save_snapshot`."""
        await self._do("save_snapshot", len(record.data), lambda on: on.save_snapshot(record))

    async def snapshots(self) -> list[SnapshotRecord]:
        """See `Journal.snapshots`."""
        return await self._do("snapshots", 0, lambda on: on.snapshots())

    async def prune(self, shard: int, upto: Mapping[int, int]) -> int:
        """See `Journal.prune`."""
        return await self._do("prune", 0, lambda on: on.prune(shard, upto))

    async def set_meta(self, values: Mapping[str, bytes]) -> None:
        """See `Journal.set_meta`."""
        size = sum(map(len, values.values()))
        await self._do("set_meta", size, lambda on: on.set_meta(values))

    async def meta(self) -> dict[str, bytes]:
        """See `Journal.meta`."""
        return await self._do("meta", 0, lambda on: on.meta())

    async def size(self) -> int:
        """See `Journal.size`."""
        return await self._do("size", 0, lambda on: on.size())

    async def close(self) -> None:
        """See `Journal.close`. The disk keeps what is on it."""
        self._closed = True

    def _do(
        self,
        kind: str,
        size: int,
        work: Callable[[Journal], Awaitable[T]],
        frames: list[FrameRecord] | None = None,
    ) -> Awaitable[T]:
        disk, loop = self._disk, self._disk.loop
        if self._closed or self.dead:
            return _failed(StorageError("the journal is closed"))
        future: asyncio.Future[T] = loop.create_future()
        start = max(loop.now_ns, disk.busy_until)
        takes = disk.latency_ns(kind, size)
        done = start + takes
        disk.busy_until = done
        writes = kind in _WRITES
        # On disk somewhat before it is acknowledged.
        happens = start + int(takes * 0.8) if writes else done

        def happen() -> None:
            if writes and disk.on_sync is not None:
                disk.on_sync("before")
            if self.dead:
                return
            result: T | None = None
            error: Exception | None = None
            if refusal := disk.refusal(kind):
                error = StorageError(f"{kind} on {disk.name}: {refusal}; free or replace the disk")
            else:
                try:
                    result = _at_once(work(disk.platter))
                except StorageError as failure:
                    error = failure
            if writes:
                disk.trace.add("disk", disk.name, kind, size, refusal)
                if frames and error is None and disk.on_append is not None:
                    disk.on_append(frames)
                if disk.on_sync is not None:
                    disk.on_sync("after")
                loop.call_at_ns(done, tell, result, error, context=self._context)
            else:
                tell(result, error)

        def tell(result: Any, error: Exception | None) -> None:
            if future.done() or self.dead:
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        loop.call_at_ns(happens, happen, context=self._context)
        return future


async def _failed(error: StorageError) -> Any:
    await asyncio.sleep(0)
    raise error


def _at_once(call: Awaitable[T]) -> T:
    """What a call that never suspends returns."""
    assert isinstance(call, Coroutine)
    try:
        call.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("a call on the platter suspended")

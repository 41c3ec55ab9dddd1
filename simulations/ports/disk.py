"""A simulated disk: the journal of one host, whose writes take time, fail, and are lost.

A write has three instants: it is asked for, it is on disk, it is acknowledged. A power cut before
the second loses it, all of it; one between the second and the third leaves it on disk, and nobody
knows. That is what SQLite with a synchronous write-ahead log promises, and no more. Work queues up
as before one disk, in the order it was asked for; who gives up waiting changes nothing of it.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from typing import Any, TypeAlias, TypeVar

from persistence.base import FrameRecord, Journal, SnapshotRecord, StorageError
from simulations.loop import SECOND, SimLoop
from simulations.ports.damage import Platter, at_once
from simulations.trace import Trace

__all__ = ("Disk", "SimJournal")

T = TypeVar("T")
Work: TypeAlias = Coroutine[Any, Any, T]
_WRITES = frozenset({"append", "save_snapshot", "prune", "set_meta"})
_BYTES_PER_SECOND = 200_000_000


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
        self.platter = Platter()
        self.busy_until = 0
        self.slow = 1.0
        self.full = self.broken = False
        self.on_sync: Callable[[str], None] | None = None
        self.on_append: Callable[[list[FrameRecord]], None] | None = None

    def __repr__(self) -> str:
        return f"<Disk {self.name}: {self.platter!r}>"

    def lose(self) -> None:
        """Everything on it is gone."""
        self.platter = Platter()

    def copy(self) -> Platter:
        """A backup of what is on it now."""
        return copy.deepcopy(self.platter)

    def frames(self) -> list[FrameRecord]:
        """All that can be read on it now."""
        return self.platter.legible()

    def restore(self, backup: Platter) -> None:
        """What is on it is this backup."""
        self.platter = backup

    def latency_ns(self, kind: str, size: int) -> int:
        """How long one call takes: mostly a millisecond, now and then twenty."""
        rng = self._rng
        if kind not in _WRITES:
            return 20_000 + int(rng.random() * 80_000)
        usual = rng.expovariate(1 / 800_000) + 200_000
        if rng.random() < 0.01:
            usual *= 20
        return int(usual * self.slow) + size * SECOND // _BYTES_PER_SECOND

    def do(
        self, kind: str, work: Callable[[Journal], Awaitable[T]]
    ) -> tuple[T | None, StorageError | None]:
        """What comes of a call now."""
        if refusal := self.refusal(kind):
            return None, StorageError(f"{kind}: {refusal}; free or replace the disk {self.name}")
        try:
            return at_once(work(self.platter)), None
        except StorageError as error:
            return None, error

    def refusal(self, kind: str) -> str:
        """Why a write fails now; "" if it does not."""
        if kind in _WRITES and self.broken:
            return "input/output error (simulated)"
        if kind in ("append", "save_snapshot") and self.full:
            return "no space left on the disk (simulated)"
        return ""


class SimJournal:
    """`persistence.base.Journal` on a `Disk`, for one run of a process: `dead`, when that is over.
    What is asked for is queued by the call, not when it is first awaited.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._closed = False
        self.dead = False
        # What the disk does is nobody's task: it goes on whoever is suspended.
        self._context = Context()

    def __repr__(self) -> str:
        return f"<SimJournal on {self._disk!r}>"

    def append(self, frames: Sequence[FrameRecord]) -> Work[int]:
        """See `Journal.append`."""
        size = sum(len(frame.data) for frame in frames)
        told = list(frames)
        return self._do("append", size, lambda on: on.append(told), told)

    def replay(self, after: int, limit: int) -> Work[list[tuple[int, FrameRecord]]]:
        """See `Journal.replay`."""
        return self._do("replay", 0, lambda on: on.replay(after, limit))

    def frames(
        self, shard: int, session: int, after: int, upto: int, limit: int
    ) -> Work[list[FrameRecord]]:
        """See `Journal.frames`."""
        return self._do("frames", 0, lambda on: on.frames(shard, session, after, upto, limit))

    def save_snapshot(self, record: SnapshotRecord) -> Work[None]:
        """See `Journal.save_snapshot`."""
        return self._do("save_snapshot", len(record.data), lambda on: on.save_snapshot(record))

    def snapshots(self) -> Work[list[SnapshotRecord]]:
        """See `Journal.snapshots`."""
        return self._do("snapshots", 0, lambda on: on.snapshots())

    def prune(self, shard: int, upto: Mapping[int, int]) -> Work[int]:
        """See `Journal.prune`."""
        below = dict(upto)
        return self._do("prune", 0, lambda on: on.prune(shard, below))

    def set_meta(self, values: Mapping[str, bytes]) -> Work[None]:
        """See `Journal.set_meta`."""
        kept = dict(values)
        size = sum(map(len, kept.values()))
        return self._do("set_meta", size, lambda on: on.set_meta(kept))

    def meta(self) -> Work[dict[str, bytes]]:
        """See `Journal.meta`."""
        return self._do("meta", 0, lambda on: on.meta())

    def size(self) -> Work[int]:
        """See `Journal.size`."""
        return self._do("size", 0, lambda on: on.size())

    async def close(self) -> None:
        """See `Journal.close`. The disk keeps what is on it."""
        self._closed = True

    def _do(
        self,
        kind: str,
        size: int,
        work: Callable[[Journal], Awaitable[T]],
        frames: list[FrameRecord] | None = None,
    ) -> Work[T]:
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
            result, error = disk.do(kind, work)
            if not writes:
                tell(result, error)
                return
            disk.trace.add("disk", disk.name, kind, size, error or "")
            if frames and error is None and disk.on_append is not None:
                disk.on_append(frames)
            if disk.on_sync is not None:
                disk.on_sync("after")
            loop.call_at_ns(done, tell, result, error, context=self._context)

        def tell(result: Any, error: Exception | None) -> None:
            if future.done() or self.dead:
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        loop.call_at_ns(happens, happen, context=self._context)
        return _result(future)


async def _result(future: asyncio.Future[T]) -> T:
    return await future


async def _failed(error: StorageError) -> Any:
    await asyncio.sleep(0)
    raise error

"""A bus in memory whose server can fail in every way the port allows: for tests and simulations.

    server = MemoryBusServer(stream_entries_max=1_000)
    a, b = server.bus(), server.bus()
    server.stop("killed")        # every call raises, blocked reads break off
    server.start(empty=True)     # another generation, nothing of what was published

It is nastier than a real server where the port leaves it room: positions are small numbers that are
given again to other entries after a loss, and streams are cut exactly at their bound.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from mesh.environment import ANNOUNCED_MAX, BusBatch, BusEntry
from persistence.base import ServiceUnavailable

__all__ = ("MemoryBus", "MemoryBusServer")


class _Stream:
    """Entries of one shard; the newest has number `last`."""

    def __init__(self) -> None:
        self.entries: deque[bytes] = deque()
        self.last = 0

    @property
    def removed(self) -> int:
        """Number of the last entry that is no longer kept."""
        return self.last - len(self.entries)

    def after(self, number: int) -> Iterator[tuple[int, bytes]]:
        skipped = max(0, number - self.removed)
        start = self.removed + skipped + 1
        return enumerate(islice(self.entries, skipped, None), start)


class MemoryBusServer:
    """The data that any number of `MemoryBus` share, and the faults that may befall it.

    Keeps at most `stream_entries_max` entries a shard. Generations are numbered, so that runs with
    the same faults repeat exactly.
    """

    def __init__(self, stream_entries_max: int = 100_000) -> None:
        self._kept = stream_entries_max
        self._streams: dict[int, _Stream] = {}
        self._generation = 1
        self._down: ServiceUnavailable | None = None
        self._partial: tuple[int, str] | None = None
        self._breaks = 0
        self._changed = asyncio.Event()
        self._rows: dict[str, tuple[float, bytes]] = {}

    def bus(self) -> MemoryBus:
        """A client of this server."""
        return MemoryBus(self)

    @property
    def generation(self) -> str:
        """What batches name now."""
        return f"memory-{self._generation}"

    def length(self, shard: int) -> int:
        """How many entries the shard's stream keeps."""
        return len(self._stream(shard).entries)

    def stop(self, reason: str = "the server was stopped", *, lasting: bool = False) -> None:
        """Go down: blocked reads break off, and every call raises until `start`."""
        self._down = ServiceUnavailable(reason, "start it again", lasting=lasting)
        self._breaks += 1
        self.wake()

    def start(self, *, empty: bool = False) -> None:
        """Come back: in another generation, with the old data unless `empty`."""
        self._down = None
        self._generation += 1
        if empty:
            self._streams.clear()
            self._rows.clear()

    def flush(self) -> None:
        """Lose all data without going down. Blocked reads are not woken by it."""
        self._streams.clear()
        self._rows.clear()
        self._generation += 1

    def trim(self, shard: int, keep: int) -> None:
        """Remove the shard's oldest entries, all but `keep`."""
        entries = self._stream(shard).entries
        while len(entries) > keep:
            entries.popleft()

    def fail_over(self, entries_lost: int) -> None:
        """A copy takes over that lacks the newest entries of every shard; connections break.

        New entries get the positions of those lost.
        """
        for stream in self._streams.values():
            for _ in range(min(entries_lost, len(stream.entries))):
                stream.entries.pop()
                stream.last -= 1
        self._generation += 1
        self._breaks += 1
        self.wake()

    def fail_publish(self, applied: int, reason: str = "the connection broke") -> None:
        """The next `publish` stores its first `applied` frames, and then raises."""
        self._partial = (applied, reason)

    def check(self, breaks: int | None = None) -> int:
        """Raise if down, or if connections broke since `breaks` was returned."""
        if self._down is not None:
            raise ServiceUnavailable(self._down.reason, self._down.cure, lasting=self._down.lasting)
        if breaks is not None and breaks != self._breaks:
            raise ServiceUnavailable("the connection to the server broke", "ask again")
        return self._breaks

    def append(self, frames: Sequence[tuple[int, bytes]]) -> str:
        """Store frames; see `fail_publish`."""
        self.check()
        partial, self._partial = self._partial, None
        for shard, data in frames if partial is None else frames[: partial[0]]:
            stream = self._stream(shard)
            stream.entries.append(bytes(data))
            stream.last += 1
            self.trim(shard, self._kept)
        self.wake()
        if partial is not None:
            raise ServiceUnavailable(partial[1], "offer the frames again")
        return self.generation

    def batch(self, after: Mapping[int, str], limit: int) -> BusBatch:
        """What can be read now."""
        entries: list[BusEntry] = []
        trimmed: list[int] = []
        for shard, position in after.items():
            stream = self._stream(shard)
            if position and int(position) < stream.removed:
                trimmed.append(shard)
            found = islice(stream.after(int(position or 0)), limit)
            entries.extend(BusEntry(shard, str(number), data) for number, data in found)
        return BusBatch(self.generation, entries, trimmed)

    def cut(self, below: Mapping[int, Sequence[str]], generation: str) -> None:
        """Remove what lies before all positions, if this is the generation they are of."""
        self.check()
        if generation != self.generation:
            return
        for shard, positions in below.items():
            stream = self._stream(shard)
            first = min((int(position or 0) for position in positions), default=0)
            # What is at a position has been read; it stays, as with a server that is told ids.
            self.trim(shard, max(0, stream.last - first + 1))

    def announce(self, name: str, row: bytes, until: float) -> None:
        """Keep a row until then."""
        self.check()
        self._rows.pop(name, None)
        if row:
            self._rows[name] = (until, bytes(row))
        while len(self._rows) > ANNOUNCED_MAX:
            del self._rows[min(self._rows, key=lambda one: (self._rows[one][0], one))]

    def announced(self, prefix: str, now: float) -> dict[str, bytes]:
        """The rows that still count."""
        self.check()
        self._rows = {name: row for name, row in self._rows.items() if row[0] > now}
        return {n: self._rows[n][1] for n in sorted(self._rows) if n.startswith(prefix)}

    async def change(self) -> None:
        """Wait until something was appended, connections broke, or a client was closed."""
        await self._changed.wait()

    def _stream(self, shard: int) -> _Stream:
        return self._streams.setdefault(shard, _Stream())

    def wake(self) -> None:
        """Have all who wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        state = "up" if self._down is None else f"down: {self._down.reason}"
        kept = sum(len(stream.entries) for stream in self._streams.values())
        return f"MemoryBusServer({state}, {self.generation}, entries={kept})"


class MemoryBus:
    """`mesh.environment.Bus` on a `MemoryBusServer`."""

    def __init__(self, server: MemoryBusServer) -> None:
        self._server = server
        self._closed = False

    async def publish(self, frames: Sequence[tuple[int, bytes]]) -> str:
        """See `Bus.publish`."""
        await self._turn()
        return self._server.append(frames)

    async def read(self, after: Mapping[int, str], *, limit: int, wait_s: float) -> BusBatch:
        """See `Bus.read`."""
        await self._turn()
        breaks = self._server.check()
        batch = self._server.batch(after, limit)
        if batch.entries or wait_s <= 0:
            return batch
        try:
            async with asyncio.timeout(wait_s):
                while not batch.entries:
                    await self._server.change()
                    self._check_open()
                    self._server.check(breaks)
                    batch = self._server.batch(after, limit)
        except TimeoutError:
            batch = self._server.batch(after, limit)
        return batch

    async def trim(self, below: Mapping[int, Sequence[str]], *, generation: str) -> None:
        """See `Bus.trim`. Exact."""
        await self._turn()
        self._server.cut(below, generation)

    async def announce(self, name: str, row: bytes, *, ttl_s: float) -> None:
        """See `Bus.announce`."""
        await self._turn()
        self._server.announce(name, row, asyncio.get_running_loop().time() + ttl_s)

    async def announced(self, prefix: str) -> dict[str, bytes]:
        """See `Bus.announced`."""
        await self._turn()
        return self._server.announced(prefix, asyncio.get_running_loop().time())

    async def version(self) -> str:
        """See `Bus.version`."""
        await self._turn()
        self._server.check()
        return "memory"

    async def close(self) -> None:
        """See `Bus.close`."""
        self._closed = True
        self._server.wake()

    async def _turn(self) -> None:
        # A network gives others a turn with every call; so does this one.
        self._check_open()
        await asyncio.sleep(0)
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise ServiceUnavailable("the bus was closed here", "open another", lasting=True)

    def __repr__(self) -> str:
        return f"MemoryBus({self._server!r})"

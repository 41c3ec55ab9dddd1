"""An event log in memory: the reference the real one is measured by, and nastier on request.

Several `MemoryLog` objects share one `MemoryLogServer`, as replicas share a broker. The server's
controls do what a real one does at the worst moment: stop, lag, store a part and then fail, store
twice, leave holes between offsets, remove records early, lose the newest, or all. All of it on the
running loop's own time.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from persistence.base import LogFrame, LogRecord, ServiceUnavailable

DEFAULT_CAPACITY = 1 << 30


class MemoryLogServer:
    """The records of one mesh's log. "Durable" here means "until this object goes".

    Holds at most `capacity` bytes; what would go beyond is refused as on a full disk.
    """

    def __init__(self, shards: int, *, capacity: int = DEFAULT_CAPACITY) -> None:
        self.shards = shards
        self._capacity = capacity
        self._bytes = 0
        self._records: list[list[LogRecord]] = [[] for _ in range(shards)]
        self._first = [0] * shards
        self._next = [0] * shards
        self._stopped = ""
        self._delay_s = 0.0
        self._copies = 1
        self._fail_after: int | None = None
        # Set and replaced at every change, which wakes all who wait for one.
        self._changed = asyncio.Event()

    def log(self) -> MemoryLog:
        """One more client of this server."""
        return MemoryLog(self)

    def stop(self, reason: str = "the log in memory was stopped") -> None:
        """Every call fails from now on, waiting ones too, until `start`. Records stay."""
        self._stopped = reason or "stopped"
        self._wake()

    def start(self) -> None:
        """Answer again. No-op where it does."""
        self._stopped = ""
        self._wake()

    def slow(self, delay_s: float) -> None:
        """Take this many seconds for every call from now on; 0: none.

        An append that is given up meanwhile is stored all the same: the server has it.
        """
        self._delay_s = delay_s

    def retain(self, shard: int, first_offset: int) -> None:
        """Remove all records of the shard below this offset, as early as one likes. Who reads
        them gets an empty record in their stead.
        """
        first = min(max(first_offset, self._first[shard]), self._next[shard])
        records = self._records[shard]
        gone = bisect_left(records, first, key=lambda record: record.offset)
        self._bytes -= sum(len(record.data) for record in records[:gone])
        del records[:gone]
        self._first[shard] = first
        self._wake()

    def truncate(self, shard: int, end: int) -> None:
        """Lose all records of the shard from this offset on: the copies that had them are gone.
        The next record gets this offset.
        """
        end = max(0, min(end, self._next[shard]))
        records = self._records[shard]
        kept = bisect_left(records, end, key=lambda record: record.offset)
        self._bytes -= sum(len(record.data) for record in records[kept:])
        del records[kept:]
        self._next[shard] = end
        self._first[shard] = min(end, self._first[shard])
        self._wake()

    def recreate(self) -> None:
        """Delete the topic, and make it anew: empty, and offsets begin at 0."""
        for shard in range(self.shards):
            self.truncate(shard, 0)

    def fail_next_append(self, *, stored: int) -> None:
        """The next append stores only its first `stored` frames, and then fails."""
        self._fail_after = stored

    def duplicate(self, copies: int) -> None:
        """Store every frame this many times from now on, as lost acknowledgements do; 1: once."""
        self._copies = copies

    def skip(self, shard: int, offsets: int) -> None:
        """Leave a hole: the shard's next record gets an offset that much greater. At the end of
        the shard an empty record stands for it.
        """
        self._next[shard] += offsets
        self._wake()

    def put(self, shard: int, data: bytes) -> int:
        """Store a record that no frame's author sent; its offset. For strange bytes, and for a
        record delivered once more.
        """
        if self._bytes + len(data) > self._capacity:
            raise ServiceUnavailable(
                f"the log in memory is full ({self._capacity} bytes)",
                "remove records or allow more",
            )
        offset = self._next[shard]
        self._records[shard].append(LogRecord(shard, offset, data))
        self._next[shard] = offset + 1
        self._bytes += len(data)
        self._wake()
        return offset

    def records(self, shard: int) -> list[LogRecord]:
        """All records kept of the shard, whether the server answers or not."""
        return list(self._records[shard])

    def end(self, shard: int) -> int:
        """The offset that the shard's next record gets, whether the server answers or not."""
        return self._next[shard]

    def __repr__(self) -> str:
        state = f"stopped: {self._stopped}" if self._stopped else "up"
        return f"MemoryLogServer({state}, records={sum(map(len, self._records))})"

    def _store(self, frames: Sequence[LogFrame]) -> None:
        self._answer()
        fail_after, self._fail_after = self._fail_after, None
        for frame in frames[:fail_after]:
            for _ in range(self._copies):
                self.put(frame.shard, frame.data)
        if fail_after is not None:
            raise ServiceUnavailable("the log in memory failed in the middle", "offer all again")

    def _fetch(self, offsets: Mapping[int, int], limit: int) -> list[LogRecord]:
        self._answer()
        # An equal share for every shard: a long one must not keep the others waiting.
        share = max(1, limit // max(1, len(offsets)))
        found: list[LogRecord] = []
        for shard, offset in offsets.items():
            found.extend(self._from(shard, offset, share))
        return found

    def _from(self, shard: int, offset: int, count: int) -> list[LogRecord]:
        first, end = self._first[shard], self._next[shard]
        if offset > end:
            # A log that was made anew: whoever had read the old one starts from the beginning.
            offset = first
        if offset < first:
            return [LogRecord(shard, first - 1, b"")]
        records = self._records[shard]
        start = bisect_left(records, offset, key=lambda record: record.offset)
        if start == len(records) and offset < end:
            return [LogRecord(shard, end - 1, b"")]
        return records[start : start + count]

    def _bounds(self) -> dict[int, tuple[int, int]]:
        self._answer()
        return {shard: (self._first[shard], self._next[shard]) for shard in range(self.shards)}

    def _answer(self) -> None:
        if self._stopped:
            raise ServiceUnavailable(self._stopped, "start it again")

    async def _lag(self) -> None:
        # At least one turn of the loop, as a network takes.
        await asyncio.sleep(self._delay_s)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class MemoryLog:
    """`persistence.base.EventLog` over a `MemoryLogServer`."""

    def __init__(self, server: MemoryLogServer) -> None:
        self._server = server
        self._closed = False

    async def append(self, frames: Sequence[LogFrame]) -> None:
        """See `EventLog.append`. Raises ValueError for a shard that the log does not have."""
        self._check()
        check_shards((frame.shard for frame in frames), self._server.shards)
        if not frames:
            return
        try:
            await self._server._lag()
        except asyncio.CancelledError:
            # The server has them already: whoever gives up finds them in the log all the same.
            with suppress(ServiceUnavailable):
                self._server._store(frames)
            raise
        self._server._store(frames)

    async def read(
        self, offsets: Mapping[int, int], *, limit: int, wait_s: float
    ) -> list[LogRecord]:
        """See `EventLog.read`. Raises ValueError for a shard that the log does not have."""
        self._check()
        check_shards(offsets, self._server.shards)
        check_limit(limit)
        await self._server._lag()
        found: list[LogRecord] = []
        try:
            async with asyncio.timeout(wait_s):
                while not (found := self._server._fetch(offsets, limit)):
                    await self._server._changed.wait()
                    self._check()
        except TimeoutError:
            return []
        return found

    async def bounds(self) -> dict[int, tuple[int, int]]:
        """See `EventLog.bounds`."""
        self._check()
        await self._server._lag()
        return self._server._bounds()

    async def version(self) -> str:
        """See `EventLog.version`."""
        self._check()
        await self._server._lag()
        self._server._answer()
        return "log in memory"

    async def close(self) -> None:
        """See `EventLog.close`. Records stay with the server."""
        self._closed = True
        self._server._wake()

    def __repr__(self) -> str:
        return f"MemoryLog({'closed' if self._closed else 'open'}, {self._server!r})"

    def _check(self) -> None:
        if self._closed:
            raise closed_log()


def closed_log() -> ServiceUnavailable:
    """What every log raises after `close`."""
    return ServiceUnavailable("this event log is closed", "open another", lasting=True)


def check_shards(shards: Iterable[int], count: int) -> None:
    """What every log demands of shard numbers; a programmer's mistake otherwise."""
    for shard in shards:
        if not 0 <= shard < count:
            raise ValueError(f"shard {shard} is not in 0..{count - 1}")


def check_limit(limit: int) -> None:
    """What every log demands of a reader's `limit`; a programmer's mistake otherwise."""
    if limit < 1:
        raise ValueError(f"limit {limit} is not above 0")

"""The other process of a benchmark: it receives updates and tells how old each was on arrival.

`started` starts one; its first line on standard input says what it is to be.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from benchmarks.harness import BenchmarkError
from benchmarks.material import Reading, alone
from benchmarks.pace import age
from mesh import Replica
from simulations.rehearsal import wire
from simulations.rehearsal.child import Child, ChildError

START_S: Final = 30.0
COLLECT_S: Final = 60.0
GRACE_S: Final = 10.0
READ_MS: Final = 1_000
READ_ENTRIES: Final = 256


# ---------------------------------------------------------------------------- the near side


class FarEnd:
    """A receiver in a process of its own."""

    def __init__(self, child: Child) -> None:
        self._child = child

    async def collect(self, count: int) -> list[float]:
        """The ages in seconds of the next `count` updates; waits until they are in."""
        try:
            answer = await self._child.ask("collect", COLLECT_S, count=count)
        except ChildError as error:
            raise BenchmarkError(str(error)) from None
        ages: list[float] = answer["ages"]
        return ages


@asynccontextmanager
async def started(role: str, logs: Path, **task: Any) -> AsyncIterator[FarEnd]:
    """A far end that receives already; it ends with the block. Raises BenchmarkError."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def listen(message: Mapping[str, Any]) -> None:
        if message["kind"] == "ready" and not ready.done():
            ready.set_result(None)
        elif message["kind"] == "ended" and not ready.done():
            ready.set_exception(BenchmarkError(f"the far end ended: {child.last_words()}"))

    child = await Child.start(
        f"far end ({role})", [sys.executable, "-m", "benchmarks.far_end"], logs / f"{role}.log",
        listen, wire.pack({"role": role, "parent": os.getpid(), **task}),
    )  # fmt: skip
    try:
        try:
            async with asyncio.timeout(START_S):
                await ready
        except TimeoutError:
            raise BenchmarkError(f"the far end did not start within {START_S:g} s") from None
        yield FarEnd(child)
    finally:
        await child.stop(GRACE_S)


# ---------------------------------------------------------------------------- the far side


class Receipts:
    """Ages of what arrived, until they are collected."""

    def __init__(self) -> None:
        self._ages: list[float] = []
        self._came = asyncio.Event()

    def add(self, seconds: float) -> None:
        """One more arrived."""
        self._ages.append(seconds)
        self._came.set()

    async def take(self, count: int) -> list[float]:
        """The first `count`, once they are there."""
        while len(self._ages) < count:
            self._came.clear()
            await self._came.wait()
        taken, self._ages = self._ages[:count], self._ages[count:]
        return taken


async def by_replica(receipts: Receipts, task: Mapping[str, Any]) -> None:
    """A replica that takes updates from the bus alone; they count once `watch` tells of them."""
    settings = alone(redis__url=task["url"], replica__flush_interval_ms=task["flush_interval_ms"])
    async with (
        Replica.open(task["folder"], settings=settings) as replica,
        aclosing(replica.watch(Reading)) as changes,
    ):
        wire.emit("ready")
        async for change in changes:
            reading = replica.get(Reading, change.document.partition("/")[2])
            if reading is not None and reading.text is not None:
                receipts.add(age(reading.text))


async def by_driver(receipts: Receipts, task: Mapping[str, Any]) -> None:
    """Nothing but XREAD."""
    stream = task["stream"]
    redis: Any  # its annotations know neither RESP2 nor RESP3 for sure
    async with Redis.from_url(task["url"], protocol=2, socket_timeout=None) as redis:
        newest = await redis.xrevrange(stream, count=1)
        last = newest[0][0] if newest else "0-0"
        wire.emit("ready")
        while True:
            found = await redis.xread({stream: last}, count=READ_ENTRIES, block=READ_MS)
            for _, entries in found or ():
                last = entries[-1][0]
                for _, fields in entries:
                    receipts.add(age(fields[b"f"]))


ROLES: Final[Mapping[str, Callable[[Receipts, Mapping[str, Any]], Awaitable[None]]]] = {
    "replica": by_replica,
    "redis": by_driver,
}


async def serve(task: Mapping[str, Any]) -> None:
    """Receive and answer until standard input ends or SIGTERM comes."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    reader = asyncio.StreamReader(limit=wire.MAX_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    receipts = Receipts()

    async def answer() -> None:
        while line := await reader.readline():
            message = wire.unpack(line)
            ages = await receipts.take(message["count"])
            wire.emit("answer", request=message["request"], ages=ages)
        stop.set()

    loops = [
        asyncio.ensure_future(ROLES[task["role"]](receipts, task)),
        asyncio.create_task(answer()),
        asyncio.create_task(stop.wait()),
    ]
    done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
    for each in loops:
        each.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    for each in done:
        each.result()


def main() -> None:
    """Entry of the process."""
    task = wire.unpack(sys.stdin.buffer.readline())
    wire.die_with(task["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark ends us, in order
    asyncio.run(serve(task))


if __name__ == "__main__":
    main()

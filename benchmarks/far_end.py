"""The other process of a benchmark: it receives updates and tells how old each was on arrival.

`started` starts one; its first line on standard input says what it is to be. Some roles do more
than receive when they are asked to.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from redis.asyncio import Redis

from benchmarks.harness import BenchmarkError
from benchmarks.material import Reading, alone, write_documents, write_entries, written_by
from benchmarks.pace import UPDATE_BYTES, age, is_stamped
from mesh import Replica
from mesh.watch import Watcher
from simulations.rehearsal import wire
from simulations.rehearsal.child import Child, ChildError

START_S: Final = 30.0
COLLECT_S: Final = 60.0
GRACE_S: Final = 10.0
READ_MS: Final = 1_000
READ_ENTRIES: Final = 256
LOOPBACK: Final = "127.0.0.1"
ANY_PORT: Final = "127.0.0.1:0"


# ---------------------------------------------------------------------------- the near side


class FarEnd:
    """A receiver in a process of its own. `said`: what it told of itself when it was ready."""

    def __init__(self, child: Child, said: Mapping[str, Any]) -> None:
        self._child = child
        self.said = said

    async def collect(self, count: int) -> list[float]:
        """The ages in seconds of the next `count` updates; waits until they are in."""
        ages: list[float] = (await self.ask("collect", count=count))["ages"]
        return ages

    async def ask(self, do: str, **fields: Any) -> Mapping[str, Any]:
        """Have something done that its role knows; what it answers. Raises BenchmarkError."""
        try:
            return await self._child.ask(do, COLLECT_S, **fields)
        except ChildError as error:
            raise BenchmarkError(str(error)) from None


@asynccontextmanager
async def started(role: str, logs: Path, *, name: str = "", **task: Any) -> AsyncIterator[FarEnd]:
    """A far end that receives already; it ends with the block. Raises BenchmarkError."""
    name = name or role
    ready: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()

    def listen(message: Mapping[str, Any]) -> None:
        if message["kind"] == "ready" and not ready.done():
            ready.set_result(message)
        elif message["kind"] == "ended" and not ready.done():
            ready.set_exception(BenchmarkError(f"the far end ended: {child.last_words()}"))

    child = await Child.start(
        f"far end ({name})", [sys.executable, "-m", "benchmarks.far_end"], logs / f"{name}.log",
        listen, wire.pack({"role": role, "parent": os.getpid(), **task}),
    )  # fmt: skip
    try:
        try:
            async with asyncio.timeout(START_S):
                said = await ready
        except TimeoutError:
            raise BenchmarkError(f"the far end did not start within {START_S:g} s") from None
        yield FarEnd(child, said)
    finally:
        await child.stop(GRACE_S)


# ---------------------------------------------------------------------------- the far side


Deed: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Does what a message asks for; what it answers."""


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


class Desk:
    """What a far end can be asked for: `deeds`, to which its role may add.

    It receives as so many (`receipts`), each of which gets every update.
    """

    def __init__(self, size: int) -> None:
        self.receipts = [Receipts() for _ in range(size)]
        self.deeds: dict[str, Deed] = {"collect": self._collect}

    async def _collect(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        taken = [await receipts.take(message["count"]) for receipts in self.receipts]
        return {"ages": [age for ages in taken for age in ages]}


async def by_replicas(desk: Desk, task: Mapping[str, Any]) -> None:
    """Replicas that take updates from the bus alone, in as many folders as there are receipts."""
    settings = alone(redis__url=task["url"], replica__flush_interval_ms=task["flush_interval_ms"])
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for folder, receipts in zip(task["folders"], desk.receipts, strict=True):
            replica = await stack.enter_async_context(Replica.open(folder, settings=settings))
            group.create_task(_watch(replica, replica.watch(Reading), receipts))
        wire.emit("ready")


async def by_peer(desk: Desk, task: Mapping[str, Any]) -> None:
    """A replica that can be dialled and has no bus; it writes when it is asked to."""
    settings = alone(peers__listen=ANY_PORT)
    async with Replica.open(task["folder"], settings=settings) as replica:

        async def write(message: Mapping[str, Any]) -> Mapping[str, Any]:
            """Write so many documents; how far this session got, once that is on disk."""
            await write_documents(replica, "there", message["count"])
            await replica.flush()
            return {"written": written_by(replica.journaled(), replica.session)}

        async def fill(message: Mapping[str, Any]) -> Mapping[str, Any]:
            """Write so many live entries; what all of that is, once it is on disk."""
            await write_entries(replica, message["entries"])
            await replica.flush()
            operations = sum(sum(sessions.values()) for sessions in replica.journaled().values())
            return {"operations": operations, "digests": list(replica.digest().values())}

        desk.deeds |= {"write": write, "fill": fill}
        changes = replica.watch(Reading)
        wire.emit("ready", address=replica.address, session=replica.session)
        await _watch(replica, changes, desk.receipts[0])


async def _watch(replica: Replica, watcher: Watcher, receipts: Receipts) -> None:
    """Updates count once `watch` tells of them. What carries no instant is passed over."""
    async with aclosing(watcher) as changes:
        async for change in changes:
            reading = replica.get(Reading, change.document.partition("/")[2])
            if reading is not None and reading.text is not None and is_stamped(reading.text):
                receipts.add(age(reading.text))


async def by_driver(desk: Desk, task: Mapping[str, Any]) -> None:
    """Nothing but XREAD, over as many connections as there are receipts."""
    stream = task["stream"]

    async def read(redis: Any, receipts: Receipts, last: bytes | str) -> None:
        while True:
            found = await redis.xread({stream: last}, count=READ_ENTRIES, block=READ_MS)
            for _, entries in found or ():
                last = entries[-1][0]
                for _, fields in entries:
                    receipts.add(age(fields[b"f"]))

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for receipts in desk.receipts:
            redis: Any  # its annotations know neither RESP2 nor RESP3 for sure
            redis = Redis.from_url(task["url"], protocol=2, socket_timeout=None)
            await stack.enter_async_context(redis)
            newest = await redis.xrevrange(stream, count=1)
            group.create_task(read(redis, receipts, newest[0][0] if newest else "0-0"))
        wire.emit("ready")


async def by_socket(desk: Desk, task: Mapping[str, Any]) -> None:
    """Nothing but a TCP socket: no TLS, no replica."""
    del task

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                desk.receipts[0].add(age(await reader.readexactly(UPDATE_BYTES)))
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()

    async with await asyncio.start_server(receive, LOOPBACK, 0) as server:
        wire.emit("ready", port=server.sockets[0].getsockname()[1])
        await server.serve_forever()


ROLES: Final[Mapping[str, Callable[[Desk, Mapping[str, Any]], Awaitable[None]]]] = {
    "peer": by_peer,
    "redis": by_driver,
    "replicas": by_replicas,
    "socket": by_socket,
}


async def serve(task: Mapping[str, Any]) -> None:
    """Receive and answer until standard input ends or SIGTERM comes."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    reader = asyncio.StreamReader(limit=wire.MAX_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    desk = Desk(task.get("size", 1))

    async def answer() -> None:
        while line := await reader.readline():
            message = wire.unpack(line)
            wire.emit(
                "answer", request=message["request"], **await desk.deeds[message["do"]](message)
            )
        stop.set()

    loops = [
        asyncio.ensure_future(ROLES[task["role"]](desk, task)),
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

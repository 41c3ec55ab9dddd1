"""A Redis server of a test's own, which it may kill, starve and misconfigure."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from mesh.conformance_bus import Buses
from mesh.stack.process import free_port
from mesh.stack.redis import redis_program
from mesh.transports.redis import RedisBus
from tests.mesh.world import PATIENCE_S, SeededEntropy

MESH = bytes(range(16))
SHARDS = 4


class RedisServer:
    """A server process on a free loopback port. `start` and `stop` as often as needed."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        persistent: bool = False,
        program: Path | None = None,
    ) -> None:
        self.folder = folder
        self.program = program or redis_program()
        # Not one the system gives to outgoing connections: whoever dials a dead server there could
        # connect to itself.
        self.port = free_port()
        self.options = list(options)
        self.persistent = persistent
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self, *, answering: bool = True) -> None:
        """Run it; wait until it answers, with its data loaded, unless told otherwise."""
        keep = ["--appendonly", "yes" if self.persistent else "no"]
        self.process = await asyncio.create_subprocess_exec(
            self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            "--dir", str(self.folder), *keep, *self.options,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        if answering:
            await until(self._answers)

    async def stop(self) -> None:
        """Kill it, as a crash would."""
        process, self.process = self.process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def flush(self) -> None:
        await self.command("FLUSHALL")

    async def trim(self, shard: int, keep: int) -> None:
        await self.command("XTRIM", stream(shard), "MAXLEN", keep)

    async def command(self, *words: str | int) -> object:
        """Run one command as an operator would."""
        async with self.client() as client:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]

    def client(self) -> Redis:
        """A plain client, to be used as a context manager."""
        return Redis(port=self.port, protocol=2, socket_timeout=PATIENCE_S)

    def bus(self, **overrides: object) -> RedisBus:
        """A client of this server under test."""
        return bus(self.url, **overrides)

    async def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, "the server did not start"
        try:
            reply = await self.command("PING")
        except RedisError as error:
            # A server that refuses for another reason than loading has started.
            return "loading" not in str(error) and error.status_code is not None
        return reply in (b"PONG", True)


def bus(url: str, **overrides: object) -> RedisBus:
    """A bus with the settings of these tests."""
    options: dict[str, object] = {
        "mesh": MESH, "shards": SHARDS, "entropy": SeededEntropy(next(_seeds)),
        "stream_entries_max": 100, "read_entries": 50, "timeout_s": 5.0,
    }  # fmt: skip
    return RedisBus(url, **(options | overrides))  # type: ignore[arg-type]


def stream(shard: int, mesh: bytes = MESH) -> str:
    """The key of a shard's stream, which operators and other versions rely on."""
    return f"statemesh:{{{mesh.hex()}}}:{shard}:frames"


def token_key(mesh: bytes = MESH) -> str:
    """The key of the token of a mesh's generation."""
    return f"statemesh:{{{mesh.hex()}}}:generation"


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Return once the condition holds; fail the test if it does not in time."""
    async with asyncio.timeout(PATIENCE_S):
        for pause in itertools.repeat(0.005):
            if await condition():
                return
            await asyncio.sleep(pause)


@asynccontextmanager
async def serving(
    folder: Path,
    *options: str,
    persistent: bool = False,
    answering: bool = True,
    program: Path | None = None,
) -> AsyncIterator[RedisServer]:
    """A server that runs, and is gone at the end: the stack's, if none is named."""
    server = RedisServer(folder, *options, persistent=persistent, program=program)
    await server.start(answering=answering)
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def closing(*buses: RedisBus) -> AsyncIterator[None]:
    """Close buses at the end."""
    try:
        yield
    finally:
        await asyncio.gather(*(one.close() for one in buses))


@asynccontextmanager
async def buses_of(server: RedisServer) -> AsyncIterator[Buses]:
    """Two buses of a server, as the contract suite wants them."""
    one, other = server.bus(), server.bus()
    async with closing(one, other):
        yield Buses(one, other, server, 100)


_seeds = itertools.count(1)

"""Every bus keeps the contract of its port: the one in memory, and the one over a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mesh.conformance_bus import BUS_CHECKS, OUTAGE_CHECKS, Buses, Check
from mesh.stack import Stack
from mesh.stack.redis import redis_programs
from mesh.transports.memory_bus import MemoryBusServer
from persistence.system import SystemEntropy
from tests.mesh.redis_server import SHARDS, bus, buses_of, closing, serving, stream, token_key

PROGRAMS = redis_programs()
CHECKS = pytest.mark.parametrize(
    "check", [*BUS_CHECKS, *OUTAGE_CHECKS], ids=lambda check: check.__name__.removeprefix("check_")
)


class MemoryFaults:
    """A server in memory, as the checks want it."""

    def __init__(self, server: MemoryBusServer) -> None:
        self._server = server

    async def flush(self) -> None:
        self._server.flush()

    async def trim(self, shard: int, keep: int) -> None:
        self._server.trim(shard, keep)

    async def stop(self) -> None:
        self._server.stop("killed by a test")

    async def start(self) -> None:
        self._server.start(empty=True)


@asynccontextmanager
async def in_memory() -> AsyncIterator[Buses]:
    server = MemoryBusServer(stream_entries_max=100)
    one, other = server.bus(), server.bus()
    yield Buses(one, other, MemoryFaults(server), 100)
    await one.close()
    await other.close()


@CHECKS
async def test_memory_bus(check: Check) -> None:
    await check(in_memory)


def test_redis_and_valkey_are_both_here() -> None:
    names = {program.name for program in PROGRAMS}
    assert names >= {"redis-server", "valkey-server"}, (
        f"found only {sorted(names)}; run `make system` for Redis, `make install` for Valkey"
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
@CHECKS
async def test_redis_bus(check: Check, program: Path, tmp_path: Path) -> None:
    """Every server that there is on this machine, at least Redis and Valkey."""

    @asynccontextmanager
    async def make() -> AsyncIterator[Buses]:
        async with serving(tmp_path, program=program) as server, buses_of(server) as buses:
            yield buses

    await check(make)


class SharedFaults:
    """One mesh's part of a server that other tests use at the same time."""

    def __init__(self, url: str, mesh: bytes) -> None:
        self._url = url
        self._mesh = mesh

    async def flush(self) -> None:
        async with Redis.from_url(self._url) as client:
            keys = [stream(shard, self._mesh) for shard in range(SHARDS)]
            rows = [key async for key in client.scan_iter(f"statemesh:{{{self._mesh.hex()}}}:row*")]
            await client.delete(*keys, *rows, token_key(self._mesh))

    async def trim(self, shard: int, keep: int) -> None:
        async with Redis.from_url(self._url) as client:
            await client.xtrim(stream(shard, self._mesh), maxlen=keep, approximate=False)

    async def stop(self) -> None:
        raise AssertionError("others use this server")

    async def start(self) -> None:
        raise AssertionError("others use this server")


@pytest.mark.parametrize(
    "check", BUS_CHECKS, ids=lambda check: check.__name__.removeprefix("check_")
)
async def test_redis_bus_on_the_stack(check: Check, stack: Stack) -> None:
    """The server that users start by `mesh stack up`, shared with other tests."""
    url = stack.services["redis"].address
    mesh = SystemEntropy().token(16)
    faults = SharedFaults(url, mesh)

    @asynccontextmanager
    async def make() -> AsyncIterator[Buses]:
        one, other = bus(url, mesh=mesh), bus(url, mesh=mesh)
        async with closing(one, other):
            yield Buses(one, other, faults, 100)
        await faults.flush()

    await check(make)

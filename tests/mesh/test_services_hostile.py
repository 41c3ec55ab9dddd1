"""Streams with anything in them, and long ones: nothing stops, nobody is kept from his turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh import Durability
from mesh.transports.memory_bus import MemoryBusServer
from persistence.memory_log import MemoryLogServer
from tests.mesh.services_world import CountingBus, frames_of, poison, shard_of, stored
from tests.mesh.world import World, converged, eventually, running, write


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.services.bus.WAIT_S", 0.05)
    monkeypatch.setattr("mesh.services.tail.FIRST_PATIENCE_S", 0.05)


@pytest.fixture
def server() -> MemoryLogServer:
    return MemoryLogServer(4)


async def test_a_poisoned_stream_stops_nothing(memory_world: World) -> None:
    world = memory_world
    bad = await poison(world)
    server = MemoryBusServer()
    a, b = world.replica("a", bus=server.bus()), world.replica("b", bus=server.bus())
    async with running(a, b):
        for round_ in range(5):
            for shard in range(4):
                server.append([(shard, data) for _, data in bad])
            for document in range(8):
                await write(a, round_, document=str(document))
        await converged(a, b)
        refused = b.status()["refused"]
        assert refused["frame.refused:ForeignMesh"] >= 5 * 4 * 3
        assert refused["frame.refused:Malformed"] > 0
        assert refused["frame.uncertified:UnknownSession"] >= 5 * 4 * 3
        assert b.health()["bus"].state == "ok"
        assert b.status()["waiting_frames"] == 0
        assert b.sources() == {"bus": 40}


async def test_frames_that_nobody_certifies_are_not_read_again_and_again(
    memory_world: World,
) -> None:
    world = memory_world
    bad = await poison(world)
    server = MemoryBusServer()
    server.append(bad[-2:])
    bus = CountingBus(server)
    a, b = world.replica("a", bus=server.bus()), world.replica("b", bus=bus)
    async with running(a, b):
        await write(a, *range(20))
        await converged(a, b)
        asked = len(bus.asked)
        await eventually(lambda: len(bus.asked) > asked + 5, "five more reads")
        assert world.probes["b"].counts["bus.reread"] == 0
        assert bus.read_entries <= 22


async def test_a_poisoned_log_stops_nothing(memory_world: World, server: MemoryLogServer) -> None:
    world = memory_world
    bad = await poison(world)
    a = world.replica("a", log=server.log(), kafka__upload_after_s=0.05)
    b = world.replica("b", log=server.log(), kafka__upload_after_s=0.05)
    for shard in range(4):
        for _, data in bad:
            server.put(shard, data)
    began = time.monotonic()
    async with running(a, b):
        assert time.monotonic() - began < 2, "what nobody certifies is not waited for"
        for document in range(8):
            await write(a, *range(5), document=str(document))
        await converged(a, b)
        refused = b.status()["refused"]
        assert refused["frame.refused:ForeignMesh"] >= 4 * 3
        assert b.health()["log"].state == "ok"
        assert b.sources() == {"log": 40}
        assert world.probes["b"].counts["log.reread"] == 0
        assert len(stored(server)) == len({data for _, data in bad}) + 40


async def test_a_frame_in_the_wrong_partition_does_not_count_as_there(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a", log=server.log())
    async with running(a, b):
        await write(a, *range(3))
        shard = shard_of(a)
        for record in await frames_of(world, "a"):
            server.put((shard + 1) % 4, record.data)
        await converged(a, b)
        feed = b._check().services.log
        assert feed is not None
        positions = feed.tail.positions
        await eventually(lambda: positions()[(shard + 1) % 4] == 3, "read")
        assert not any(feed.frontier.values())
        assert feed.keep(shard, {a.session: 3}) == {a.session: 0}


class Turns:
    """How often another task got its turn."""

    def __init__(self) -> None:
        self.count = 0

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.count += 1

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._go_on())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


MANY = 640
"""Frames, that is: twenty slices."""


async def test_a_large_batch_of_the_bus_leaves_others_their_turns(memory_world: World) -> None:
    world, turns = memory_world, Turns()
    server = MemoryBusServer()
    a = world.replica("a", bus=server.bus())
    async with running(a):
        await write(a, *range(MANY))
        await a.flush(Durability.BUS, timeout=10)
        b = world.replica("b", bus=server.bus(), redis__read_entries=1_000)
        async with running(b), turns.counted():
            await eventually(lambda: b.sources().get("bus", 0) > 0)
            turns.count = 0
            await eventually(lambda: b.sources().get("bus", 0) == MANY)
            assert turns.count >= 10


async def test_a_long_log_leaves_others_their_turns(
    memory_world: World, server: MemoryLogServer
) -> None:
    world, turns = memory_world, Turns()
    a = world.replica("a", log=server.log())
    async with running(a):
        await write(a, *range(MANY))
        await a.flush(Durability.LOG, timeout=10)
        b = world.replica("b", log=server.log())
        async with turns.counted(), running(b):
            assert b.sources() == {"log": MANY}
            assert turns.count >= 20

"""The registry on the bus: presence where no links are, addresses to dial, and safe trimming."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crdt.errors import CodecError
from mesh import Durability, Replica
from mesh.environment import Bus
from mesh.services import registry as module
from mesh.services.registry import KEPT, READER, RowSealer
from mesh.stack import Stack
from mesh.transports.discovery import Combined, Learned, StaticSeeds
from mesh.transports.memory_bus import MemoryBusServer
from mesh.transports.redis import RedisBus
from mesh.transports.redis_errors import PERMISSIONS
from persistence.memory_log import MemoryLogServer
from tests.mesh.redis_server import MESH, bus, serving, until
from tests.mesh.services_world import shard_of
from tests.mesh.world import Note, World, crash, eventually, running, write

FAST: dict[str, Any] = {"replica__presence_interval_s": 0.05}


def names(replica: Replica) -> list[str]:
    return [present.name for present in replica.presence.all()]


async def presence_over_the_bus_alone(world: World, *buses: Bus) -> None:
    a, b = (
        world.replica(name, bus=bus, replica__presence_interval_s=0.1)
        for name, bus in zip("ab", buses, strict=True)
    )
    async with running(a):
        await b.start()
        b.presence.set(status="busy")
        await eventually(lambda: names(a) == names(b) == ["a", "b"], "by the bus")
        await eventually(
            lambda: (one := a.presence.get("b")) is not None and one.data == {"status": "busy"}
        )
        assert not a.peers(), "no link"
        with a.edit(Note, "1") as note:
            note.text = "x"
        result = await a.flush(Durability.MAJORITY, timeout=15)
        assert (result.replicas, result.of) == (("b",), 2), "asked and answered over the bus"
        await b.close()
        await eventually(lambda: names(a) == ["a"], "b said that it leaves")


async def test_presence_over_the_bus_alone(memory_world: World) -> None:
    server = MemoryBusServer()
    await presence_over_the_bus_alone(memory_world, server.bus(), server.bus())


async def test_presence_over_redis_alone(memory_world: World, stack: Stack) -> None:
    world = memory_world
    mesh = world.authority.mesh
    buses = [
        RedisBus(
            stack.services["redis"].address, mesh=mesh.id, shards=mesh.shards, entropy=world.entropy
        )
        for _ in range(2)
    ]
    try:
        await presence_over_the_bus_alone(world, *buses)
    finally:
        await asyncio.gather(*(bus.close() for bus in buses))


async def test_rows_are_sealed_and_strangers_rows_refused_once(memory_world: World) -> None:
    world = memory_world
    server = MemoryBusServer()
    spy = server.bus()
    stranger = World(seed=9)
    a = world.replica("a", bus=server.bus(), **FAST)
    async with running(a):
        a.presence.set(secret="very secret words")
        await eventually(lambda: bool(server.announced("a", 0.0)))
        for row in server.announced("", 0.0).values():
            assert b"secret" not in row
        foreign = RowSealer(stranger.authority.mesh, world.entropy)
        own = RowSealer(world.authority.mesh, world.entropy)
        good = server.announced("a", 0.0)["a"]
        with pytest.raises(CodecError, match="no member"):
            own.open("b", good)
        await spy.announce("x", foreign.seal("x", b"\x91\x01"), ttl_s=60)
        await spy.announce("y", b"garbage", ttl_s=60)
        await spy.announce("z", own.seal("z", b"\x91\x01"), ttl_s=60)
        await spy.announce("moved", good, ttl_s=60)
        probe = world.probes["a"]
        await eventually(lambda: probe.counts["presence.refused"] == 4, "each one")
        version = a._started().heartbeats.table.version("a")[1]
        await eventually(lambda: a._started().heartbeats.table.version("a")[1] > version + 6)
        assert probe.counts["presence.refused"] == 4, "once"
        assert names(a) == ["a"]
    await spy.close()
    await stranger.close()


async def test_replicas_find_each_other_by_the_registry(memory_world: World) -> None:
    world = memory_world
    server = MemoryBusServer()
    replicas = [world.replica(name, bus=server.bus(), **FAST) for name in "abc"]
    replicas = [learning(replica) for replica in replicas]
    async with running(*replicas):
        await eventually(
            lambda: all(len([p for p in one.peers() if p.connected]) == 2 for one in replicas),
            "linked without any seed",
        )


async def test_with_the_registry_off_nobody_is_dialled_for_it(memory_world: World) -> None:
    """Where links must take other ways than the addresses that replicas announce."""
    world = memory_world
    server = MemoryBusServer()
    a = learning(world.replica("a", bus=server.bus(), peers__introductions=False, **FAST))
    b = learning(world.replica("b", bus=server.bus(), peers__introductions=False, **FAST))
    async with running(a, b):
        await eventually(lambda: names(a) == names(b) == ["a", "b"], "each knows of the other")
        version = b._started().heartbeats.table.version("a")[1]
        await eventually(lambda: b._started().heartbeats.table.version("a")[1] > version + 2)
        assert a.environment.discovery.addresses() == b.environment.discovery.addresses() == []
        assert a.peers() == b.peers() == []


def learning(replica: Replica) -> Replica:
    """The same replica, not started, with the discovery that the composition root gives it."""
    environment = replica.environment
    discovery = Combined(StaticSeeds([]), Learned(environment.clock.monotonic))
    return Replica(replica._settings, replace(environment, discovery=discovery), replica._identity)


async def test_streams_are_trimmed_below_what_all_have_read(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no further: a reader that vanished holds it up while it counts as live."""
    monkeypatch.setattr(module, "TRIM_S", 0.02)
    world = memory_world
    server = MemoryBusServer()
    a, b = (world.replica(name, bus=server.bus(), **FAST) for name in "ab")
    c = world.replica("c", bus=server.bus(), **FAST)
    async with running(a, b):
        await c.start()
        shard = shard_of(a)
        spy = server.bus()
        await eventually(lambda: names(a) == ["a", "b", "c"], "all there")
        readers = [READER + name for name in "abc"]
        await eventually(lambda: list(server.announced(READER, 0.0)) == readers, "all said so")
        await crash(c)
        await write(a, *range(3 * KEPT))
        await eventually(lambda: b.frontier() == a.frontier(), "b has all")
        rounds = a._started().heartbeats.table.version("a")[1] + 10
        await eventually(lambda: a._started().heartbeats.table.version("a")[1] > rounds)
        assert server.length(shard) >= 3 * KEPT, "c has not read it"
        await spy.announce(READER + "c", b"", ttl_s=1)  # as when its time is over
        await write(a, *range(KEPT))
        await eventually(lambda: server.length(shard) < 2 * KEPT, "trimmed")
        assert server.length(shard) >= KEPT, "the newest stay whoever has read them"
        assert world.probes["b"].counts["bus.trimmed"] == 0
        await spy.close()


async def test_what_the_log_lacks_is_not_trimmed(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRIM_S", 0.02)
    world = memory_world
    server, logs = MemoryBusServer(), MemoryLogServer(4)
    a = world.replica("a", bus=server.bus(), log=logs.log(), **FAST)
    async with running(a):
        shard = shard_of(a)
        await write(a, *range(KEPT))
        await a.flush(Durability.LOG, timeout=15)
        logs.stop()
        await write(a, *range(3 * KEPT))
        await a.flush(Durability.BUS, timeout=15)
        rounds = a._started().heartbeats.table.version("a")[1] + 10
        await eventually(lambda: a._started().heartbeats.table.version("a")[1] > rounds)
        assert server.length(shard) >= 3 * KEPT, "the log has not got it"
        logs.start()
        await a.flush(Durability.LOG, timeout=15)
        await write(a, *range(2 * KEPT))
        await eventually(lambda: server.length(shard) < 3 * KEPT, "trimmed", within=10)


async def test_the_permissions_that_errors_name_are_enough(tmp_path: Path) -> None:
    """For a user who has these and no others."""
    async with serving(tmp_path) as server:
        words = PERMISSIONS.replace("NAME", "mesh").split()
        await server.command(*words, "on", ">secret", "+auth", "+hello")
        one = bus(f"redis://mesh:secret@127.0.0.1:{server.port}/0")
        try:
            generation = await one.publish([(0, b"frame")])
            (entry,) = (await one.read({0: ""}, limit=9, wait_s=0)).entries
            await one.trim({0: [entry.position]}, generation=generation)
            await one.announce("a", b"row", ttl_s=60)
            assert await one.announced("") == {"a": b"row"}
            await one.announce("a", b"", ttl_s=60)
            assert await one.announced("") == {}
        finally:
            await one.close()


async def test_the_registry_of_a_server_is_bounded_and_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.transports.redis_registry.ANNOUNCED_MAX", 5)
    async with serving(tmp_path) as server:
        one = bus(server.url)
        try:
            for number in range(9):
                await one.announce(f"r{number}", b"row", ttl_s=60 + number)
            assert list(await one.announced("")) == [f"r{number}" for number in range(4, 9)]
            await one.announce("late", b"row", ttl_s=0.05)

            async def gone() -> bool:
                return "late" not in await one.announced("")

            await until(gone)
            keys = await server.command("KEYS", "*")
            assert isinstance(keys, list)
            tagged = [key for key in keys if f"{{{MESH.hex()}}}".encode() in key]
            assert tagged == keys, "all of a mesh's keys are on one node of a cluster"
        finally:
            await one.close()

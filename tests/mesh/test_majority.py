"""`Durability.MAJORITY`: more than half of those that are there, linked or not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Durability, FlushResult, FlushTimeout, Replica
from tests.mesh.services_world import StuckJournal
from tests.mesh.world import Note, World, eventually, running

MAJORITY = Durability.MAJORITY


def edit(replica: Replica, text: str = "x") -> None:
    with replica.edit(Note, "1") as note:
        note.text = text


async def met(*replicas: Replica) -> None:
    count = len(replicas)
    await eventually(lambda: all(len(one.presence.all()) == count for one in replicas), "all met")


async def test_alone_it_is_the_own_disk(memory_world: World) -> None:
    a = memory_world.replica("a")
    async with running(a):
        edit(a)
        result = await a.flush(MAJORITY, timeout=5)
        assert (result.replicas, result.of) == ((), 1)
        assert (await a.flush(timeout=5)).of is None


async def test_a_line_counts_who_is_not_linked(memory_world: World) -> None:
    """a - b - c - d - e: three of five have to have it, and a is linked to b alone."""
    world = memory_world
    line = [world.replica("a")]
    line += [world.replica(name, before) for before, name in zip("abcd", "bcde", strict=True)]
    async with running(*line):
        await met(*line)
        a = line[0]
        assert [peer.name for peer in a.peers()] == ["b"]
        edit(a)
        result = await a.flush(MAJORITY, timeout=15)
        assert result.of == 5
        assert len(result.replicas) >= 2
        assert set(result.replicas) - {"b"}, "not b alone"
        for name in result.replicas:
            frames = await world.journal(name).replay(0, 100)
            assert frames, f"{name} has it on disk"


async def test_who_has_it_only_in_memory_does_not_count(memory_world: World) -> None:
    """a - b - c where b and c can't write: a waits; c's disk is enough then."""
    world = memory_world
    stuck = {name: StuckJournal() for name in "bc"}
    world.journals.update(stuck)
    a, b, c = world.replica("a"), world.replica("b", "a"), world.replica("c", "b")
    async with running(a, b, c):
        await met(a, b, c)
        edit(a)
        with pytest.raises(FlushTimeout) as caught:
            await a.flush(MAJORITY, timeout=0.5)
        assert "of 3 replicas" in str(caught.value)
        assert (caught.value.result.of, caught.value.result.replicas) == (3, ())
        stuck["b"].open.set()
        result = await a.flush(MAJORITY, timeout=15)
        assert result.replicas == ("b",)
        stuck["c"].open.set()


async def test_many_flushes_at_once_all_end(memory_world: World) -> None:
    """Each waits for its own writes, in any shard, while more are made."""
    world = memory_world
    a, b, c = world.replica("a"), world.replica("b", "a"), world.replica("c", "b")
    async with running(a, b, c):
        await met(a, b, c)
        for number in range(10):
            with a.edit(Note, str(number)) as note:
                note.text = "a"
            with c.edit(Note, str(number)) as note:
                note.text = "c"
            of_a = await a.flush(MAJORITY, timeout=15)
            of_c = await c.flush(MAJORITY, timeout=15)
            assert of_a.replicas
            assert of_c.replicas
        said = a._started().heartbeats._said
        assert not said.waits, "nobody waits any more"


async def test_who_expired_does_not_count(memory_world: World) -> None:
    world = memory_world
    fast: dict[str, Any] = {"replica__presence_interval_s": 0.05}
    a, b, c = (
        world.replica(name, *seeds, **fast) for name, *seeds in (["a"], ["b", "a"], ["c", "a"])
    )
    async with running(a, b, c):
        await met(a, b, c)
        world.isolate("a")
        for one in list(a._started().exchange.links.values()):
            one.end("cut by a test")
        await eventually(lambda: len(a.presence.all()) == 1, "a sees nobody")
        edit(a)
        assert (await a.flush(MAJORITY, timeout=5)).of == 1


async def test_a_callback_can_wait_for_a_majority(memory_world: World) -> None:
    world = memory_world
    a, b, c = world.replica("a"), world.replica("b", "a"), world.replica("c", "b")
    async with running(a, b, c):
        await met(a, b, c)
        edit(a)
        heard: list[FlushResult] = []
        a.on_durable(MAJORITY, heard.append)
        await eventually(lambda: bool(heard), "called back")
        assert (heard[0].of, bool(heard[0].replicas)) == (3, True)
        assert not a._started().heartbeats._said.waits, "nobody waits any more"
        a.on_durable(MAJORITY, heard.append).cancel()
        await asyncio.sleep(0)
        assert not a._started().heartbeats._said.waits


async def test_peers_of_an_older_version_count_by_what_they_tell_directly(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a link of wire version 1 there is no presence, and nothing breaks."""
    monkeypatch.setattr("mesh.dialler.WIRE_NEWEST", 1)
    a, b = memory_world.replica("a"), memory_world.replica("b", "a")
    async with running(a, b):
        await eventually(lambda: any(peer.connected for peer in a.peers()), "linked")
        edit(a)
        result = await a.flush(MAJORITY, timeout=15)
        assert (result.replicas, result.of) == (("b",), 2)
        assert [one.name for one in a.presence.all()] == ["a"]
        assert memory_world.probes["b"].counts["message.unknown"] == 0

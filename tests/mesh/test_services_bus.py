"""Replicas that only the bus connects, and everything a bus may do to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pytest

from crdt.errors import CallerError
from mesh import Durability, FlushTimeout, Replica
from mesh.environment import BusBatch
from mesh.services.bus import BusFeed
from mesh.transports.memory_bus import MemoryBusServer
from tests.mesh.services_world import CountingBus, StuckJournal, frames_of, shard_of
from tests.mesh.world import (
    Note,
    Task,
    World,
    converged,
    crash,
    eventually,
    running,
    same,
    write,
)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.services.bus.WAIT_S", 0.05)
    monkeypatch.setattr("mesh.services.tail.FIRST_PATIENCE_S", 0.05)


def feed_of(replica: Replica) -> BusFeed:
    feed = replica._check().services.bus
    assert feed is not None
    return feed


async def test_replicas_converge_over_the_bus_alone(world: World) -> None:
    server = MemoryBusServer()
    a, b = world.replica("a", bus=server.bus()), world.replica("b", bus=server.bus())
    async with running(a, b):
        for replica in (a, b):
            for number in range(20):
                with replica.edit(Task, str(number)) as task:
                    task.effort += 1
            await replica.flush(Durability.BUS, timeout=10)
        await converged(a, b)
        assert a.sources() == b.sources() == {"bus": 20}
        assert a.health()["bus"].state == b.health()["bus"].state == "ok"
        assert a.health()["log"].state == "off"
        assert "kafka.servers" in a.health()["log"].reason


@pytest.mark.parametrize(
    ("level", "setting"),
    [
        (Durability.BUS, "redis.url"),
        (Durability.LOG, "kafka.servers"),
        (Durability.CHECKPOINT, "postgres.dsn"),
    ],
)
async def test_a_level_without_its_service_names_the_setting(
    memory_world: World, level: Durability, setting: str
) -> None:
    a = memory_world.replica("a")
    async with running(a):
        await write(a, "x")
        with pytest.raises(CallerError, match=setting):
            await a.flush(level, timeout=1)


async def test_a_stopped_bus_stops_nothing(memory_world: World) -> None:
    world = memory_world
    server = MemoryBusServer()
    a, b = world.replica("a", bus=server.bus()), world.replica("b", bus=server.bus())
    async with running(a, b):
        await write(a, "before")
        await converged(a, b)
        before = a.health()["bus"].since
        server.stop("killed by a test")
        await eventually(lambda: a.health()["bus"].state == "down", "noticed")
        health = a.health()["bus"]
        assert (health.reason, health.cure) == ("killed by a test", "start it again")
        assert health.since >= before
        await write(a, *range(20))
        await write(b, "meanwhile", document="2")
        view = a.get(Note, "1")
        assert view is not None
        assert view.text == "19"
        with pytest.raises(FlushTimeout, match=r"on disk here.*bus: killed by a test"):
            await a.flush(Durability.BUS, timeout=0.05)
        assert not same(a, b)
        assert a.health()["bus"].since == health.since, "down since then, not since the last try"
        server.start()
        await a.flush(Durability.BUS, timeout=10)
        await converged(a, b)
        await eventually(lambda: a.health()["bus"].state == "ok", "well again")
        assert world.probes["a"].counts["service.recovered"] > 0


async def test_a_bus_that_is_down_at_the_start(memory_world: World) -> None:
    server = MemoryBusServer()
    server.stop("not there yet", lasting=True)
    a = memory_world.replica("a", bus=server.bus())
    began = time.monotonic()
    async with running(a):
        await eventually(lambda: a.health()["bus"].state == "down", "noticed")
        await write(a, "x")
    assert time.monotonic() - began < 0.4, "neither start nor close waits for it"


@pytest.mark.parametrize("loss", ["empty", "flushed", "failed over"])
async def test_who_had_not_read_yet_gets_what_the_journals_hold(
    memory_world: World, loss: str
) -> None:
    world = memory_world
    server = MemoryBusServer()
    a, b = world.replica("a", bus=server.bus()), world.replica("b", bus=server.bus())
    async with running(a, b):
        await write(a, *range(15))
        await write(b, *range(15), document="2")
        for replica in (a, b):
            await replica.flush(Durability.BUS, timeout=10)
        await converged(a, b)
        if loss == "empty":
            server.stop()
            server.start(empty=True)
        elif loss == "flushed":
            server.flush()
        else:
            server.fail_over(10)
        c = world.replica("c", bus=server.bus())
        async with running(c):
            await converged(a, b, c)
            await write(c, "and back", document="3")
            await converged(a, b, c)
        assert world.probes["a"].counts["bus.reset"] == 1


async def test_a_reader_goes_on_where_it_stopped(world: World) -> None:
    server = MemoryBusServer()
    a = world.replica("a", bus=server.bus())
    async with running(a):
        b = world.replica("b", bus=CountingBus(server))
        async with running(b):
            await write(a, *range(30))
            await converged(a, b)
        await world.reopen("b")
        await write(a, *range(5))
        await a.flush(Durability.BUS, timeout=10)
        bus = CountingBus(server)
        again = world.replica("b", bus=bus)
        async with running(again):
            await converged(a, again)
            assert bus.read_entries == again.sources()["bus"] == 5
            assert bus.asked[0][shard_of(a)] == "30"


async def test_after_a_crash_a_little_is_read_again_and_changes_nothing(world: World) -> None:
    server = MemoryBusServer()
    a = world.replica("a", bus=server.bus())
    async with running(a):
        b = world.replica("b", bus=server.bus())
        await b.start()
        await write(a, *range(30))
        await converged(a, b)
        await eventually(lambda: b.journaled() == b.frontier(), "on b's disk")
        await crash(b)
        await world.reopen("b")
        before = await frames_of(world, "b")
        bus = CountingBus(server)
        again = world.replica("b", bus=bus)
        async with running(again):
            await eventually(lambda: bus.read_entries >= 30, "read again")
            assert again.sources() == {}
            assert again.digest() == a.digest()
            assert await frames_of(world, "b") == before


async def test_who_read_too_late_is_told(memory_world: World) -> None:
    world = memory_world
    server = MemoryBusServer()
    a, b = world.replica("a", bus=server.bus()), world.replica("b", bus=server.bus())
    async with running(a):
        async with running(b):
            await write(a, *range(5))
            await converged(a, b)
        await write(a, *range(20))
        await a.flush(Durability.BUS, timeout=10)
        server.trim(shard_of(a), 0)
        bus = CountingBus(server)
        again = world.replica("b", bus=bus)
        async with running(again):
            counts = world.probes["b"].counts
            await eventually(lambda: len(bus.asked) > 5, "read, and read again")
            assert counts["bus.trimmed"] == 1, "told, and not at every read"
            await write(a, "one more")
            shard = shard_of(again)
            await eventually(lambda: again._check().core.hosts[shard].inbox.frames > 0)
            assert not same(a, again), "the trimmed ones are missing, and nothing is made up"
            world.discoveries["b"].list.append("a")
            await converged(a, again)


async def reversed_bus(
    world: World, name: str, count: int, *, certified: bool = False
) -> MemoryBusServer:
    """A bus with what a replica alone has written to one document, the newest first.

    `certified`: after the very first, which brings the certificate.
    """
    a = world.replica(name)
    await a.start()
    await write(a, *range(count))
    server = MemoryBusServer()
    first, *rest = [(record.shard, record.data) for record in await frames_of(world, name)]
    server.append([first, *reversed(rest)] if certified else [*reversed(rest), first])
    await crash(a)
    return server


async def test_frames_before_their_causes_and_their_certificate(memory_world: World) -> None:
    server = await reversed_bus(memory_world, "a", 20)
    b = memory_world.replica("b", bus=server.bus())
    async with running(b):
        await eventually(lambda: b.sources().get("bus") == 20, "all of them")
        counts = memory_world.probes["b"].counts
        assert counts["frame.uncertified"] > 0
        assert counts["bus.reread"] > 0


async def test_more_frames_than_the_inbox_takes(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.services.tail.MAX_WAITING", 50)
    server = await reversed_bus(memory_world, "a", 200, certified=True)
    b = memory_world.replica("b", bus=server.bus(), replica__inbox_frames_max=16)
    async with running(b):
        await eventually(lambda: b.sources().get("bus") == 200, "all of them")
        counts = memory_world.probes["b"].counts
        assert counts["bus.reread"] > 0, "64 of them fit"
        assert counts["frame.uncertified"] == 0
        feed = feed_of(b)
        await eventually(lambda: b.journaled() == b.frontier(), "on disk")
        feed.tail.settle(feed._judge)
        await eventually(lambda: set(feed.tail.safe().values()) == {"", "200"}, "and settled")


async def test_what_was_read_and_not_on_disk_at_a_crash_is_read_again(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.services.shared.SAVE_S", 0.01)
    world = memory_world
    server = MemoryBusServer()
    a = world.replica("a", bus=server.bus())
    async with running(a):
        await write(a, *range(10))
        await a.flush(Durability.BUS, timeout=10)
        journal = world.journals["b"] = StuckJournal()
        b = world.replica("b", bus=server.bus())
        await b.start()
        await eventually(lambda: same(a, b), "applied")
        saved = b._check().services._saved
        await eventually(lambda: "bus.state" in saved, "the position was kept meanwhile")
        await crash(b)
        assert await journal.replay(0, 10) == []
        journal.open.set()
        again = world.replica("b", bus=server.bus())
        async with running(again):
            assert again.frontier() != a.frontier()
            await converged(a, again)


@pytest.mark.parametrize("stored", [b"", b"garbage", b"\x01", b"\x92\xa1x\x07", b"\x90"])
async def test_a_position_that_means_nothing_begins_anew(
    memory_world: World, stored: bytes
) -> None:
    world = memory_world
    server = MemoryBusServer()
    a, b = world.replica("a", bus=server.bus()), world.replica("b", bus=server.bus())
    async with running(a, b):
        await write(a, *range(5))
        await write(b, *range(5), document="2")
        await converged(a, b)
    await world.journal("b").set_meta({"bus.state": stored})
    bus = CountingBus(server)
    again = world.replica("b", bus=bus)
    async with running(again):
        await eventually(lambda: bus.read_entries >= 10, "read anew")
        assert set(bus.asked[0].values()) == {""}


async def test_positions_of_a_lost_history_are_given_up_in_the_middle_of_a_batch(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.services.bus.SLICE", 1)
    world = memory_world
    server = MemoryBusServer()
    author = world.replica("a", bus=server.bus())
    await author.start()
    await write(author, *range(40))
    await author.flush(Durability.BUS, timeout=10)
    await crash(author)
    bus = CountingBus(server)
    b = world.replica("b", bus=bus)
    turns, asked = 0, 0

    async def room() -> None:
        nonlocal turns, asked
        turns += 1
        if turns == 5:
            # The newest half is lost, and our own publishing is what tells.
            server.fail_over(20)
            await write(b, "mine")
            await b.flush(Durability.BUS, timeout=10)
            asked = len(bus.asked)

    monkeypatch.setattr("mesh.exchange.Exchange.room", lambda _: room())
    async with running(b):
        await eventually(lambda: asked > 0 and len(bus.asked) > asked, "read on")
        assert set(bus.asked[asked].values()) == {""}
        await eventually(lambda: b.sources().get("bus") == 20, "what the bus still has")


async def test_a_late_answer_of_another_history_is_not_taken(memory_world: World) -> None:
    world = memory_world
    server = MemoryBusServer()
    held = asyncio.Event()
    holding = False

    class LateBus(CountingBus):
        async def read(self, after: Mapping[int, str], *, limit: int, wait_s: float) -> BusBatch:
            batch = await super().read(after, limit=limit, wait_s=wait_s)
            if batch.entries and holding:
                await held.wait()
            return batch

    bus = LateBus(server)
    a, b = world.replica("a", bus=server.bus()), world.replica("b", bus=bus)
    async with running(a, b):
        await write(a, *range(10))
        await converged(a, b)
        holding, reads = True, bus.read_entries
        await write(a, *range(10))
        await eventually(lambda: bus.read_entries > reads, "an answer is on its way")
        server.flush()
        await write(b, "mine", document="2")
        await eventually(lambda: world.probes["b"].counts["bus.reset"] == 1, "told by publishing")
        holding = False
        held.set()
        await write(a, *range(10))
        await converged(a, b)
        assert world.probes["b"].counts["bus.reset"] == 1, "and not confused again"


async def test_closing_waits_for_a_bus_that_is_up(memory_world: World) -> None:
    world = memory_world
    server = MemoryBusServer()
    a, b = world.replica("a", bus=server.bus()), world.replica("b", bus=server.bus())
    async with running(b):
        async with running(a):
            with a.edit(Note, "1") as note:
                note.text = "just before the end"
        assert server.length(shard_of(b)) == 2, "what was written, and the session's end"
        await eventually(lambda: b.exists(Note, "1"))


@pytest.mark.parametrize("seed", range(4))
async def test_cancelling_leaves_nothing_behind(memory_world: World, seed: int) -> None:
    world = memory_world
    server = MemoryBusServer()
    a, b = world.replica("a", bus=server.bus()), world.replica("b", bus=server.bus())
    others = asyncio.all_tasks()
    await a.start()
    starting = asyncio.create_task(b.start())
    for _ in range(7 * seed):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    for number in range(50 * seed):
        with a.edit(Note, str(number % 9)) as note:
            note.text = str(number)
        await asyncio.sleep(0)
    for replica in (a, b):
        if replica._runner is not None:
            await crash(replica)
    await eventually(lambda: asyncio.all_tasks() == others, "no task is left")

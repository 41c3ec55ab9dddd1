"""What a service is owed reaches it: whatever does not fit, fails, comes late or was forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from mesh import Durability, Replica
from mesh.services import delivery as module
from mesh.services.delivery import Delivery
from mesh.transports.memory_bus import MemoryBus, MemoryBusServer
from persistence.base import FrameRecord
from persistence.memory import MemoryJournal
from tests.mesh.world import World, crash, eventually, running, write


class GatedBus(MemoryBus):
    """Publishes only while `open`, and notes what."""

    def __init__(self, server: MemoryBusServer) -> None:
        super().__init__(server)
        self.open = asyncio.Event()
        self.open.set()
        self.sent: list[bytes] = []
        self.sending = 0

    async def publish(self, frames: Sequence[tuple[int, bytes]]) -> str:
        self.sending += 1
        await self.open.wait()
        generation = await super().publish(frames)
        self.sent += [data for _, data in frames]
        return generation


def delivery_of(replica: Replica) -> Delivery:
    feed = replica._check().services.bus
    assert feed is not None
    return feed.delivery


async def owned(world: World, name: str) -> list[bytes]:
    """All own frames in a journal, in order."""
    rows = await world.journal(name).replay(0, 1_000)
    return [record.data for _, record in rows if record.own]


async def test_what_does_not_fit_into_memory_is_read_back(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES", 2_000)
    bus = GatedBus(MemoryBusServer())
    a = memory_world.replica("a", bus=bus)
    async with running(a):
        await write(a, "first")
        await a.flush(Durability.BUS, timeout=10)
        bus.open.clear()
        await write(a, *range(60))
        delivery = delivery_of(a)
        assert delivery._fresh_bytes <= 2_000
        assert len(delivery._fresh) <= 10
        bus.open.set()
        await a.flush(Durability.BUS, timeout=10)
        await eventually(lambda: delivery.done)
        assert bus.sent == await owned(memory_world, "a"), "each once, in order"


async def test_a_commit_between_the_last_read_and_the_switch_to_memory_is_not_skipped(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = GatedBus(MemoryBusServer())
    a = memory_world.replica("a", bus=bus)
    journal = memory_world.journal("a")
    assert isinstance(journal, MemoryJournal)
    replay = journal.replay
    nested = 0

    async def slow(after: int, limit: int) -> list[tuple[int, FrameRecord]]:
        nonlocal nested
        rows = await replay(after, limit)
        if not rows and nested < 5:
            nested += 1
            await write(a, f"while it looked, {nested}")
        return rows

    async with running(a):
        await write(a, "first")
        await a.flush(Durability.BUS, timeout=10)
        monkeypatch.setattr(journal, "replay", slow)
        delivery_of(a).again()
        await eventually(lambda: nested == 5, "written in between")
        await a.flush(Durability.BUS, timeout=10)
        own = await owned(memory_world, "a")
        assert len(own) == 6
        assert bus.sent[-len(own) :] == own


@pytest.mark.parametrize("fails", [False, True])
async def test_whoever_says_again_means_what_is_being_sent_too(
    memory_world: World, fails: bool
) -> None:
    server = MemoryBusServer()
    bus = GatedBus(server)
    a = memory_world.replica("a", bus=bus)
    async with running(a):
        await write(a, *range(5))
        await a.flush(Durability.BUS, timeout=10)
        bus.open.clear()
        before = bus.sending
        await write(a, "in flight")
        await eventually(lambda: bus.sending > before, "sending")
        delivery = delivery_of(a)
        if fails:
            server.fail_publish(0)
            monitor = memory_world.probes["a"].counts
            bus.open.set()
            await eventually(lambda: monitor["service.failed"] > 0, "failed")
        delivery.again()
        bus.sent.clear()
        bus.open.set()
        await a.flush(Durability.BUS, timeout=10)
        own = await owned(memory_world, "a")
        assert bus.sent[-6:] == own, "all, not only what was being sent"
        await eventually(lambda: delivery.done)


async def test_again_while_frames_of_others_are_read_back(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = memory_world
    bus = GatedBus(MemoryBusServer())
    a, b = world.replica("a", bus=bus), world.replica("b", "a")
    async with running(a, b):
        await write(a, "mine")
        await write(b, *range(20))
        await eventually(lambda: a.frontier() == b.frontier(), "a has them")
        await a.flush(Durability.BUS, timeout=10)
        delivery, journal = delivery_of(a), world.journal("a")
        await eventually(lambda: delivery.done, "all looked through")
        replay, told = journal.replay, False

        async def slow(after: int, limit: int) -> list[tuple[int, FrameRecord]]:
            nonlocal told
            rows = await replay(after, limit)
            if rows and not any(record.own for _, record in rows) and not told:
                told = True
                delivery.again()
            return rows

        monkeypatch.setattr(journal, "replay", slow)
        delivery._page = 1
        monkeypatch.setattr(module, "BATCH_FRAMES", 1)
        bus.sent.clear()
        delivery.again()
        await eventually(lambda: told and delivery.done, "through")
        assert bus.sent == 2 * await owned(world, "a")


async def test_frames_of_others_take_no_memory_while_a_service_is_down(
    memory_world: World,
) -> None:
    world = memory_world
    bus = GatedBus(MemoryBusServer())
    a, b = world.replica("a", bus=bus), world.replica("b", "a")
    async with running(a, b):
        await write(a, "first")
        await a.flush(Durability.BUS, timeout=10)
        bus.open.clear()
        await write(a, "owed")
        for number in range(40):
            await write(b, number)
            await eventually(lambda: a.frontier() == b.frontier())
            await a.flush()
        delivery = delivery_of(a)
        assert len(delivery._fresh) <= 1
        bus.open.set()
        await eventually(lambda: delivery.done, "delivered")
        assert bus.sent == await owned(world, "a")


async def test_a_restarted_replica_delivers_what_it_owes_without_being_asked(
    world: World,
) -> None:
    server = MemoryBusServer()
    first = world.replica("a", bus=GatedBus(server))
    async with running(first):
        await write(first, *range(3))
        await first.flush(Durability.BUS, timeout=10)
        server.stop()
        await write(first, *range(3, 6))
    await world.reopen("a")
    owed = await owned(world, "a")
    assert len(owed) == 4, "what was delivered was pruned when it closed, what is owed was not"
    server.start()
    bus = GatedBus(server)
    again = world.replica("a", bus=bus)
    async with running(again):
        await eventually(lambda: delivery_of(again).done, "delivered")
        assert set(bus.sent) == set(owed)
        await write(again, "new")
        await again.flush(Durability.BUS, timeout=10)


@pytest.mark.parametrize("stored", [b"", b"garbage", b"-4", b"999999999", b"\xc2\xb2"])
async def test_a_cursor_that_means_nothing_offers_everything(
    memory_world: World, stored: bytes
) -> None:
    world = memory_world
    server = MemoryBusServer()
    a = world.replica("a", bus=GatedBus(server))
    await a.start()
    await write(a, *range(4))
    await a.flush(Durability.BUS, timeout=10)
    await crash(a)
    await world.journal("a").set_meta({"bus.cursor": stored})
    bus = GatedBus(server)
    again = world.replica("a", bus=bus)
    async with running(again):
        await eventually(lambda: len(bus.sent) == 4, "all again")


async def test_a_cursor_is_gone_on_from(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.services.shared.SAVE_S", 0.01)
    world = memory_world
    server = MemoryBusServer()
    a = world.replica("a", bus=GatedBus(server))
    await a.start()
    await write(a, *range(4))
    await a.flush(Durability.BUS, timeout=10)
    services = a._check().services
    await eventually(lambda: services._saved.get("bus.cursor") == b"4", "kept")
    await crash(a)
    bus = GatedBus(server)
    again = world.replica("a", bus=bus)
    async with running(again):
        await write(again, "new")
        await again.flush(Durability.BUS, timeout=10)
        assert len(bus.sent) == 1


async def test_cursor_and_generation_are_kept_together(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the two would leave a cursor that counts another history."""
    monkeypatch.setattr("mesh.services.shared.SAVE_S", 0.01)
    monkeypatch.setattr("mesh.services.bus.WAIT_S", 0.05)
    world = memory_world
    server = MemoryBusServer()
    journal = world.journal("a")
    calls: list[set[str]] = []
    set_meta = journal.set_meta

    async def note(values: Mapping[str, bytes]) -> None:
        calls.append(set(values))
        await set_meta(values)

    monkeypatch.setattr(journal, "set_meta", note)
    a = world.replica("a", bus=GatedBus(server))
    await a.start()
    await write(a, *range(4))
    await a.flush(Durability.BUS, timeout=10)
    await eventually(lambda: {"bus.cursor", "bus.state"} in calls, "both at once")
    server.flush()
    await eventually(lambda: world.probes["a"].counts["bus.reset"] > 0, "noticed")
    await crash(a)
    bus = GatedBus(server)
    again = world.replica("a", bus=bus)
    async with running(again):
        shard = again._check().editor.host("Note/1").index
        await eventually(lambda: server.length(shard) >= 4, "offered to the one that is there")

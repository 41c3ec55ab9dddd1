"""What a dead service is owed is bounded: edits are refused before the disk is full."""

from __future__ import annotations

import pytest

from mesh import Replica
from mesh.durability import Durability
from mesh.editing import Backpressure
from mesh.health import DEGRADED, JOURNAL, OK
from mesh.transports.memory_bus import MemoryBusServer
from persistence.memory_log import MemoryLogServer
from tests.mesh.world import Note, World, crash, eventually, running

BOUND = 65_536


async def fill(replica: Replica, limit: int = 400) -> str:
    """Write until it is refused; why."""
    for number in range(limit):
        try:
            with replica.edit(Note, f"{number % 7}") as note:
                note.text = f"{number}" + "".join(chr(33 + (number * at) % 90) for at in range(900))
        except Backpressure as error:
            return str(error)
        await replica.flush()
    raise AssertionError("never refused")


@pytest.mark.parametrize("service", ["log", "bus"])
async def test_a_dead_service_stops_edits_in_time(memory_world: World, service: str) -> None:
    log, bus = MemoryLogServer(4), MemoryBusServer()
    server = log if service == "log" else bus
    replica = memory_world.replica(
        "a", log=log.log() if service == "log" else None,
        bus=bus.bus() if service == "bus" else None,
        replica__journal_owed_bytes_max=BOUND,
    )  # fmt: skip
    async with running(replica):
        await fill_some(replica)
        server.stop()
        reason = await fill(replica)
        assert f"owed to the {service}" in reason
        assert "replica.journal_owed_bytes_max" in reason
        assert "await replica.ready()" in reason
        assert replica.health()[JOURNAL].state == DEGRADED
        assert f"owed to the {service}" in replica.health()[JOURNAL].reason
        assert await memory_world.journal("a").size() < 3 * BOUND
        server.start()
        await replica.ready()
        with replica.edit(Note, "x") as note:
            note.text = "again"
        level = Durability.LOG if service == "log" else Durability.BUS
        await replica.flush(level, timeout=10)
        assert replica.health()[JOURNAL].state == OK


async def fill_some(replica: Replica) -> None:
    for number in range(5):
        with replica.edit(Note, "1") as note:
            note.text = str(number)
    await replica.flush()


async def test_what_is_owed_counts_again_after_a_restart(memory_world: World) -> None:
    log = MemoryLogServer(4)
    log.stop()
    first = memory_world.replica("a", log=log.log(), replica__journal_owed_bytes_max=BOUND)
    await first.start()
    await fill(first)
    await crash(first)
    second = memory_world.replica("a", log=log.log(), replica__journal_owed_bytes_max=BOUND)
    async with running(second):
        with pytest.raises(Backpressure, match="owed to the log"), second.edit(Note, "1") as note:
            note.text = "more"
        log.start()
        await second.ready()
        with second.edit(Note, "1") as note:
            note.text = "more"
        await second.flush(Durability.LOG, timeout=10)


async def test_a_bus_that_forgot_is_owed_all_of_it_again(memory_world: World) -> None:
    bus = MemoryBusServer()
    replica = memory_world.replica("a", bus=bus.bus(), replica__journal_owed_bytes_max=BOUND)
    async with running(replica):
        await fill_some(replica)
        await replica.flush(Durability.BUS, timeout=10)
        delivery = replica._check().services.bus
        assert delivery is not None
        assert delivery.delivery.owed_bytes == 0
        delivery.delivery.again()
        assert delivery.delivery.owed_bytes > 0
        await eventually(lambda: delivery.delivery.owed_bytes == 0, "offered again")


async def test_a_position_that_is_none_is_as_good_as_unknown(memory_world: World) -> None:
    """Damaged, or of another kind of bus: reading begins anew, and nothing is lost."""
    bus = MemoryBusServer()
    writer = memory_world.replica("w", bus=bus.bus())
    reader = memory_world.replica("r", bus=bus.bus())
    async with running(writer, reader):
        await fill_some(writer)
        await eventually(lambda: reader.frontier() == writer.frontier(), "read")
        feed = reader._check().services.bus
        assert feed is not None
        feed.tail.seek(dict.fromkeys(feed.tail.positions(), "no position"))
        await fill_some(writer)
        await eventually(lambda: reader.frontier() == writer.frontier(), "read on")
        assert memory_world.probes["r"].counts["bus.position"] >= 1

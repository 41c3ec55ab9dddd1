"""Replicas and checkpoints: written by one, good for all, and never believed unproven."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from mesh import Durability, FlushTimeout, Replica
from mesh.services.checkpoints import CheckpointFeed
from persistence.memory_checkpoints import MemoryCheckpoints, MemoryCheckpointServer
from persistence.memory_log import MemoryLogServer
from tests.mesh.services_world import CountingLog, StuckJournal, shard_of
from tests.mesh.world import (
    HostClock,
    Note,
    World,
    converged,
    crash,
    eventually,
    running,
    write,
)


@pytest.fixture
def server() -> MemoryCheckpointServer:
    return MemoryCheckpointServer(HostClock())


@pytest.fixture
def log_server() -> MemoryLogServer:
    return MemoryLogServer(4)


def feed_of(replica: Replica) -> CheckpointFeed:
    feed = replica._check().services.checkpoints
    assert feed is not None
    return feed


async def test_checkpoint_level_means_a_verified_checkpoint_has_it(
    world: World, server: MemoryCheckpointServer
) -> None:
    a = world.replica("a", checkpoints=server.store())
    async with running(a):
        await write(a, *range(5))
        result = await a.flush(Durability.CHECKPOINT, timeout=10)
        (info,) = server.checkpoints(shard_of(a))
        assert info.verified
        assert info.frontier == {a.session: 5}
        assert result.written == {shard_of(a): 5}
        assert a.health()["checkpoints"].state == "ok"
        assert server.holder(shard_of(a)) == "a"
    assert server.holder(info.shard) == "", "the lease was given up"


async def test_a_flush_does_not_wait_for_the_interval(
    memory_world: World, server: MemoryCheckpointServer
) -> None:
    a = memory_world.replica("a", checkpoints=server.store(), postgres__checkpoint_interval_s=1_000)
    async with running(a):
        await write(a, "x")
        await a.flush(Durability.CHECKPOINT, timeout=5)


async def test_who_does_not_hold_the_lease_learns_of_it_too(
    memory_world: World, server: MemoryCheckpointServer
) -> None:
    world = memory_world
    a = world.replica("a", checkpoints=server.store())
    async with running(a):
        await write(a, "x")
        await a.flush(Durability.CHECKPOINT, timeout=10)
        b = world.replica("b", "a", checkpoints=server.store())
        async with running(b):
            await converged(a, b)
            await write(b, "y")
            await b.flush(Durability.CHECKPOINT, timeout=10)
            assert server.holder(shard_of(a)) == "a"


async def test_a_stopped_store_stops_nothing(
    memory_world: World, server: MemoryCheckpointServer
) -> None:
    a = memory_world.replica("a", checkpoints=server.store())
    async with running(a):
        await write(a, "x")
        await a.flush(Durability.CHECKPOINT, timeout=10)
        server.stop("killed by a test")
        await eventually(lambda: a.health()["checkpoints"].state == "down", "noticed")
        await write(a, *range(10))
        with pytest.raises(FlushTimeout, match="checkpoints: killed by a test"):
            await a.flush(Durability.CHECKPOINT, timeout=0.05)
        assert a.health()["checkpoints"].reason == "killed by a test"
        server.start()
        await a.flush(Durability.CHECKPOINT, timeout=10)
        await eventually(lambda: a.health()["checkpoints"].state == "ok", "well again")


async def test_one_shard_that_fails_says_nothing_of_the_others(
    memory_world: World, server: MemoryCheckpointServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = memory_world.replica("a", checkpoints=server.store())
    async with running(a):
        broken = (shard_of(a) + 1) % 4
        read_back = MemoryCheckpoints.load

        async def load(self: MemoryCheckpoints, id: int) -> bytes | None:
            if any(info.id == id for info in server.checkpoints(broken)):
                return b"other bytes"
            return await read_back(self, id)

        monkeypatch.setattr(MemoryCheckpoints, "load", load)
        name = next(str(number) for number in range(100) if shard_of(a, f"Note/{number}") == broken)
        await write(a, "in a shard that can't be written", document=name)
        await eventually(lambda: a.health()["checkpoints"].state == "down", "told")
        await write(a, "in another")
        feed, written = feed_of(a), {shard_of(a): 1}
        await eventually(lambda: feed.has(written), "known all the same")


async def filled(
    world: World,
    server: MemoryCheckpointServer,
    log: MemoryLogServer | None = None,
    count: int = 60,
) -> Replica:
    """A running replica whose checkpoints have `count` operations, and after that wrote five."""
    a = world.replica(
        "a", checkpoints=server.store(), log=log.log() if log else None,
        postgres__checkpoint_interval_s=1_000,
    )  # fmt: skip
    await a.start()
    for number in range(count):
        await write(a, number, document=str(number % 9))
    if log is not None:
        await a.flush(Durability.LOG, timeout=10)
        feed = a._check().services.log
        assert feed is not None
        await eventually(lambda: sum(feed.tail.positions().values()) == count, "read")
    await a.flush(Durability.CHECKPOINT, timeout=10)
    for number in range(5):
        await write(a, number, document=f"tail {number}")
    if log is not None:
        await a.flush(Durability.LOG, timeout=10)
    return a


async def test_restored_from_checkpoints_alone(
    world: World, server: MemoryCheckpointServer
) -> None:
    a = await filled(world, server)
    b = world.replica("b", checkpoints=server.store())
    async with running(b):
        assert b.sources() == {"checkpoints": 60}
        assert b.journaled() == b.frontier()
        view = b.get(Note, "5")
        assert view is not None
        assert view.text == "59"
        await crash(a)
    await world.reopen("b")
    again = world.replica("b")
    async with running(again):
        assert sum(sum(one.values()) for one in again.frontier().values()) == 60, "on disk"


async def test_restored_from_checkpoints_and_the_logs_tail(
    world: World, server: MemoryCheckpointServer, log_server: MemoryLogServer
) -> None:
    a = await filled(world, server, log_server)
    log = CountingLog(log_server)
    b = world.replica("b", checkpoints=server.store(), log=log)
    async with running(b):
        assert b.sources() == {"checkpoints": 60, "log": 5}
        assert b.digest() == a.digest()
        assert len(log.came) == 5, "not from the beginning"
        assert sum(log.asked[0].values()) == 60
        await write(b, "goes on")
        await b.flush(Durability.LOG, timeout=10)
        await converged(a, b)
    await a.close()


@pytest.mark.parametrize("down", ["checkpoints", "log", "both"])
async def test_restored_with_services_down(
    memory_world: World,
    server: MemoryCheckpointServer,
    log_server: MemoryLogServer,
    down: str,
) -> None:
    world = memory_world
    a = await filled(world, server, log_server)
    if down != "log":
        server.stop()
    if down != "checkpoints":
        log_server.stop()
    b = world.replica("b", checkpoints=server.store(), log=log_server.log())
    began = time.monotonic()
    async with running(b):
        assert time.monotonic() - began < 2
        got = {"checkpoints": {"log": 65}, "log": {"checkpoints": 60}, "both": {}}[down]
        assert b.sources() == got
        await write(b, "edits go on")
        server.start()
        log_server.start()
        await converged(a, b)
    await a.close()


@pytest.mark.parametrize("hangs", ["checkpoints", "log"])
async def test_the_start_is_held_up_no_longer_than_the_setting_says(
    memory_world: World,
    server: MemoryCheckpointServer,
    log_server: MemoryLogServer,
    hangs: str,
) -> None:
    world = memory_world
    a = await filled(world, server, log_server)
    slow: Callable[[float], None] = server.slow if hangs == "checkpoints" else log_server.slow
    slow(60)
    b = world.replica(
        "b", checkpoints=server.store(), log=log_server.log(), replica__restore_timeout_s=0.2
    )
    began = time.monotonic()
    async with running(b):
        assert 0.2 <= time.monotonic() - began < 1
        assert world.probes["b"].counts["replica.restoring"] == 1
        if hangs == "checkpoints":
            await converged(a, b)
            assert b.sources() == {"log": 65}
        else:
            assert b.sources() == {"checkpoints": 60}
    slow(0)
    await a.close()


async def test_restored_from_everything_at_once(
    memory_world: World, server: MemoryCheckpointServer, log_server: MemoryLogServer
) -> None:
    world = memory_world
    a = await filled(world, server, log_server)
    b = world.replica("b", "a", checkpoints=server.store(), log=log_server.log())
    async with running(b):
        await converged(a, b)
        assert sum(b.sources().values()) == 65
        assert b.sources().keys() <= {"checkpoints", "log", "peers"}
    await a.close()


async def test_a_damaged_checkpoint_is_refused_and_the_rest_goes_on(
    memory_world: World, server: MemoryCheckpointServer, log_server: MemoryLogServer
) -> None:
    world = memory_world
    a = await filled(world, server, log_server)
    shard = shard_of(a, "Note/1")
    (info,) = server.checkpoints(shard)
    server.corrupt(info.id)
    await a.close()
    b = world.replica("b", checkpoints=server.store(), log=log_server.log())
    async with running(b):
        assert world.probes["b"].counts["checkpoint.refused"] >= 1
        assert b.digest() == a.digest(), "the log has that shard"
        assert b.sources()["checkpoints"] == 60 - sum(info.frontier.values())
        # Somebody who has it all writes another.
        await write(b, "news", document="1")
        await b.flush(Durability.CHECKPOINT, timeout=10)
        assert server.checkpoints(shard)[-1].id != info.id


async def test_a_checkpoint_that_claims_what_the_log_never_had(
    memory_world: World, server: MemoryCheckpointServer, log_server: MemoryLogServer
) -> None:
    """The log was made anew: offsets of the old one mean nothing in it."""
    world = memory_world
    a = await filled(world, server, log_server)
    await crash(a)
    fresh = MemoryLogServer(4)
    b = world.replica("b", checkpoints=server.store(), log=fresh.log())
    async with running(b):
        c = world.replica("c", log=fresh.log())
        async with running(c):
            shard = shard_of(b, "Note/1")
            await write(c, "new", document="1")
            await c.flush(Durability.LOG, timeout=10)
            await eventually(lambda: c.session in b.frontier()[shard], "read from the beginning")


async def test_a_crash_before_the_checkpoint_is_on_disk(
    memory_world: World,
    server: MemoryCheckpointServer,
    log_server: MemoryLogServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The log is not read on from its end then: what is below would be missing for good."""
    monkeypatch.setattr("mesh.services.shared.SAVE_S", 0.01)
    world = memory_world
    a = await filled(world, server, log_server)
    await crash(a)
    journal = world.journals["b"] = StuckJournal()
    saving = journal.save_snapshot

    async def stuck(record: object) -> None:
        await journal.open.wait()
        await saving(record)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "save_snapshot", stuck)
    b = world.replica(
        "b", checkpoints=server.store(), log=log_server.log(), replica__restore_timeout_s=0.1
    )
    await b.start()
    await eventually(lambda: b.frontier() == a.frontier(), "all is applied")
    saved = b._check().services._saved
    await eventually(lambda: "log.state" in saved, "positions were kept meanwhile")
    await crash(b)
    journal.open.set()
    again = world.replica("b", log=log_server.log())
    async with running(again):
        await eventually(lambda: again.frontier() == a.frontier(), "from the log alone")


async def test_what_nobody_else_brings_comes_from_a_checkpoint(
    memory_world: World, server: MemoryCheckpointServer
) -> None:
    world = memory_world
    a = await filled(world, server)
    await a.close()
    async with running(b := world.replica("b")):
        await write(b, "not empty")
    b = world.replica("b", checkpoints=server.store())
    async with running(b):
        assert b.sources() == {}
        await eventually(lambda: b.sources().get("checkpoints", 0) == 60, "taken")


async def test_a_checkpoint_names_no_offset_beyond_what_it_contains(
    memory_world: World, server: MemoryCheckpointServer, log_server: MemoryLogServer
) -> None:
    world = memory_world
    a = await filled(world, server, log_server)
    b = world.replica("b", "a", checkpoints=server.store(), log=log_server.log())
    async with running(b):
        for number in range(100):
            await write(a if number % 2 else b, number, document=str(number % 9))
        await a.flush(Durability.CHECKPOINT, timeout=10)
        await b.flush(Durability.CHECKPOINT, timeout=10)
        await converged(a, b)
        opener = a._check().core.opener
        for shard in range(4):
            for info in server.checkpoints(shard):
                for record in log_server.records(shard)[: info.log_offset]:
                    header = opener.header(record.data)
                    assert info.frontier[header.session] >= header.last
    await a.close()


async def test_cancelling_a_start_that_restores_leaves_nothing_behind(
    memory_world: World, server: MemoryCheckpointServer, log_server: MemoryLogServer
) -> None:
    world = memory_world
    a = await filled(world, server, log_server)
    await crash(a)
    others = asyncio.all_tasks()
    for turns in range(0, 60, 6):
        server.slow(0.005)
        b = world.replica(f"b{turns}", checkpoints=server.store(), log=log_server.log())
        starting = asyncio.create_task(b.start())
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            await b.close()
    await eventually(lambda: asyncio.all_tasks() == others, "no task is left")

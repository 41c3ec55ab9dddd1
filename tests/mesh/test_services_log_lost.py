"""A log that lost records: whoever wrote them, or has them, brings them back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from mesh import Durability, Replica
from mesh.services.log import LogFeed
from persistence.base import LogFrame, LogRecord
from persistence.memory_log import MemoryLog, MemoryLogServer
from tests.mesh.services_world import frames_of, shard_of, stored
from tests.mesh.world import World, crash, eventually, running, write

KEPT, WRITTEN = 15, 20


@pytest.fixture
def server() -> MemoryLogServer:
    return MemoryLogServer(4)


def feed_of(replica: Replica) -> LogFeed:
    feed = replica._check().services.log
    assert feed is not None
    return feed


async def all_read(replica: Replica, server: MemoryLogServer) -> None:
    shard = shard_of(replica)
    end = server.end(shard)
    await eventually(lambda: feed_of(replica).tail.safe()[shard] == end, "read, and on disk")


async def all_there(world: World, server: MemoryLogServer) -> None:
    own = {frame.data for frame in await frames_of(world, "a") if frame.own}
    assert own
    await eventually(lambda: own <= stored(server).keys(), "all of it is in the log again")


def lose_and_go_on(server: MemoryLogServer, shard: int) -> None:
    """The newest are lost, and others have written more than that since."""
    server.truncate(shard, KEPT)
    for number in range(WRITTEN):
        server.put(shard, b"another %d" % number)


async def test_records_lost_during_an_outage_are_offered_again(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    a = world.replica("a", log=server.log())
    async with running(a):
        await write(a, *range(WRITTEN))
        await a.flush(Durability.LOG, timeout=10)
        await all_read(a, server)
        server.stop()
        await eventually(lambda: a.health()["log"].state == "down")
        lose_and_go_on(server, shard_of(a))
        server.start()
        await all_there(world, server)
        assert world.probes["a"].counts["log.reset"] == 1


async def test_records_lost_while_a_replica_was_down_are_offered_again(
    memory_world: World, server: MemoryLogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.services.shared.SAVE_S", 0.01)
    world = memory_world
    a = world.replica("a", log=server.log())
    await a.start()
    await write(a, *range(WRITTEN))
    await a.flush(Durability.LOG, timeout=10)
    await all_read(a, server)
    kept = a._check().services
    await eventually(
        lambda: kept._saved.get("log.state") == feed_of(a).state()["log.state"], "kept"
    )
    shard = shard_of(a)
    await crash(a)
    lose_and_go_on(server, shard)
    async with running(world.replica("a", log=server.log())):
        await all_there(world, server)
        assert world.probes["a"].counts["log.reset"] == 1


async def test_a_log_that_was_made_anew_is_noticed_where_nobody_writes(
    memory_world: World, server: MemoryLogServer
) -> None:
    """Without an outage, too."""
    world = memory_world
    a = world.replica("a", log=server.log(), kafka__upload_after_s=0.05, kafka__poll_s=0.05)
    async with running(a):
        await write(a, *range(WRITTEN))
        await a.flush(Durability.LOG, timeout=10)
        await all_read(a, server)
        server.recreate()
        await all_there(world, server)
        assert world.probes["a"].counts["log.reset"] == 1


class Stalling(MemoryLog):
    """Answers late, as after a pause of the process: while `stalled` is not set."""

    def __init__(self, server: MemoryLogServer) -> None:
        super().__init__(server)
        self.stalled = asyncio.Event()
        self.stalled.set()

    async def read(
        self, offsets: Mapping[int, int], *, limit: int, wait_s: float
    ) -> list[LogRecord]:
        await self.stalled.wait()
        return await super().read(offsets, limit=limit, wait_s=wait_s)


async def test_records_lost_during_a_pause_are_offered_again(
    memory_world: World, server: MemoryLogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call fails, and the log is longer than before when the process goes on."""
    monkeypatch.setattr("mesh.services.log.GAP_S", 0.05)
    world = memory_world
    log = Stalling(server)
    a = world.replica("a", log=log, kafka__poll_s=0.01)
    async with running(a):
        await write(a, *range(WRITTEN))
        await a.flush(Durability.LOG, timeout=10)
        await all_read(a, server)
        log.stalled.clear()
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.2
        await eventually(lambda: loop.time() > until, "a pause")
        lose_and_go_on(server, shard_of(a))
        log.stalled.set()
        await all_there(world, server)


class Forgetful(MemoryLog):
    """Loses the first append as soon as it has said that it is safe."""

    lost = 0

    async def append(self, frames: Sequence[LogFrame]) -> None:
        await super().append(frames)
        if not self.lost:
            self.lost = len(frames)
            for frame in frames:
                self._server.truncate(frame.shard, 0)


async def test_own_records_lost_before_they_were_read_are_offered_again(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    log = Forgetful(server)
    a = world.replica("a", log=log, kafka__upload_after_s=0.05)
    async with running(a):
        await write(a, *range(WRITTEN))
        await a.flush(Durability.LOG, timeout=10)
        assert log.lost
        await all_there(world, server)


async def test_what_is_still_there_is_not_offered_again(
    memory_world: World, server: MemoryLogServer
) -> None:
    """Neither after an outage, nor where retention has removed what was read last."""
    world = memory_world
    a = world.replica("a", log=server.log(), kafka__upload_after_s=0.05)
    async with running(a):
        await write(a, *range(WRITTEN))
        await a.flush(Durability.LOG, timeout=10)
        await all_read(a, server)
        for kept in (0, WRITTEN):
            server.retain(shard_of(a), kept)
            server.stop()
            await eventually(lambda: a.health()["log"].state == "down")
            server.start()
            await eventually(lambda: a.health()["log"].state == "ok")
        await write(a, "more")
        await a.flush(Durability.LOG, timeout=10)
    assert world.probes["a"].counts["log.reset"] == 0
    assert max(stored(server).values()) == 1


async def test_what_the_log_lacks_is_uploaded_though_it_never_grows_to_where_it_was(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    log = Stalling(server)
    a = world.replica("a")
    b = world.replica("b", "a", log=log, kafka__upload_after_s=0.05, kafka__poll_s=0.01)
    async with running(a, b):
        shard = shard_of(a)
        lose_and_go_on(server, shard)
        await all_read(b, server)
        log.stalled.clear()
        lose_and_go_on(server, shard)
        await write(a, *range(5))
        await eventually(lambda: bool(feed_of(b)._lagging), "b waits until it has read the rest")
        server.recreate()
        log.stalled.set()
        await all_there(world, server)

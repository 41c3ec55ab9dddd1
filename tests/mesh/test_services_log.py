"""Replicas that only the event log connects: it keeps everything, sooner or later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from mesh import Durability, FlushTimeout, Replica
from mesh.services.log import LogFeed
from persistence.base import FrameRecord, LogRecord
from persistence.memory_log import MemoryLog, MemoryLogServer
from tests.mesh.services_world import CountingLog, StuckJournal, frames_of, shard_of, stored
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
    monkeypatch.setattr("mesh.services.tail.FIRST_PATIENCE_S", 0.05)


@pytest.fixture
def server() -> MemoryLogServer:
    return MemoryLogServer(4)


def feed_of(replica: Replica) -> LogFeed:
    feed = replica._check().services.log
    assert feed is not None
    return feed


async def test_replicas_converge_over_the_log_alone(world: World, server: MemoryLogServer) -> None:
    a, b = world.replica("a", log=server.log()), world.replica("b", log=server.log())
    async with running(a, b):
        for replica in (a, b):
            for number in range(20):
                with replica.edit(Task, str(number)) as task:
                    task.effort += 1
            await replica.flush(Durability.LOG, timeout=10)
        await converged(a, b)
        assert a.sources() == b.sources() == {"log": 20}
        assert a.health()["log"].state == "ok"
        assert set(stored(server).values()) == {1}


async def test_whoever_counts_events_finds_the_authors_count(
    memory_world: World, server: MemoryLogServer
) -> None:
    log = CountingLog(server)
    a = memory_world.replica("a", log=log, replica__flush_interval_ms=1_000)
    async with running(a):
        await write(a, "first")
        for number in range(7):
            with a.edit(Note, "1") as note:
                note.text = str(number)
        await a.flush(Durability.LOG, timeout=10)
        assert [frame.events for frame in log.appended] == [1, 7]
        shard = shard_of(a)
        assert [(f.shard, f.session, f.first) for f in log.appended] == [
            (shard, a.session, 1), (shard, a.session, 2),
        ]  # fmt: skip


async def test_a_stopped_log_stops_nothing(memory_world: World, server: MemoryLogServer) -> None:
    world = memory_world
    a, b = world.replica("a", log=server.log()), world.replica("b", log=server.log())
    async with running(a, b):
        await write(a, "before")
        await converged(a, b)
        server.stop("killed by a test")
        await eventually(lambda: a.health()["log"].state == "down", "noticed")
        since = a.health()["log"].since
        await write(a, *range(20))
        with pytest.raises(FlushTimeout, match=r"on disk here.*log: killed by a test"):
            await a.flush(Durability.LOG, timeout=0.05)
        assert (a.health()["log"].reason, a.health()["log"].since) == ("killed by a test", since)
        server.start()
        await a.flush(Durability.LOG, timeout=10)
        await converged(a, b)
        await eventually(lambda: a.health()["log"].state == "ok", "well again")


async def test_a_part_of_an_append_fails(memory_world: World, server: MemoryLogServer) -> None:
    world = memory_world
    a, b = world.replica("a", log=server.log()), world.replica("b", log=server.log())
    async with running(a, b):
        await write(a, "first")
        server.stop()
        await eventually(lambda: a.health()["log"].state == "down")
        await write(a, *range(10))
        server.fail_next_append(stored=1)
        server.start()
        await a.flush(Durability.LOG, timeout=10)
        await converged(a, b)
        times = stored(server)
        assert len(times) == 11
        assert sum(times.values()) == 12, "the one that was there already came again"
        assert b.sources() == {"log": 11}


async def test_frames_that_are_there_several_times(
    memory_world: World, server: MemoryLogServer
) -> None:
    server.duplicate(3)
    world = memory_world
    a, b = world.replica("a", log=server.log()), world.replica("b", log=server.log())
    async with running(a, b):
        await write(a, *range(10))
        await write(b, *range(10), document="2")
        await converged(a, b)
        assert b.sources() == {"log": 10}


async def test_a_reader_goes_on_where_it_stopped(world: World, server: MemoryLogServer) -> None:
    a = world.replica("a", log=server.log())
    async with running(a):
        async with running(b := world.replica("b", log=server.log())):
            await write(a, *range(30))
            await converged(a, b)
        await world.reopen("b")
        await write(a, *range(5))
        await a.flush(Durability.LOG, timeout=10)
        log = CountingLog(server)
        again = world.replica("b", log=log)
        async with running(again):
            await converged(a, again)
            assert again.sources() == {"log": 5}
            # The last that it knows, to see that it is the same, and what came since.
            asked = [one[shard_of(a)] for one in log.asked[:2]]
            assert (len(log.came), asked) == (6, [29, 30])


async def test_what_was_read_and_not_on_disk_at_a_crash_is_read_again(
    memory_world: World, server: MemoryLogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.services.shared.SAVE_S", 0.01)
    world = memory_world
    a = world.replica("a", log=server.log())
    async with running(a):
        await write(a, *range(10))
        await a.flush(Durability.LOG, timeout=10)
        journal = world.journals["b"] = StuckJournal()
        b = world.replica("b", log=server.log(), replica__restore_timeout_s=0.1)
        await b.start()
        await eventually(lambda: same(a, b), "applied")
        saved = b._check().services._saved
        await eventually(lambda: "log.state" in saved, "the position was kept meanwhile")
        await crash(b)
        assert await journal.replay(0, 10) == []
        journal.open.set()
        again = world.replica("b", log=server.log())
        async with running(again):
            await converged(a, again)


@pytest.mark.parametrize(
    "state", [b"", b"garbage", b"\x01", b"\x92\xa1x\x07", b"\x91\x93\x00\x00\x00"]
)
async def test_a_position_that_means_nothing_begins_anew(
    memory_world: World, server: MemoryLogServer, state: bytes
) -> None:
    world = memory_world
    a = world.replica("a", log=server.log())
    async with running(a):
        await write(a, *range(5))
        await a.flush(Durability.LOG, timeout=10)
    await world.journal("a").set_meta({"log.state": state})
    log = CountingLog(server)
    async with running(world.replica("a", log=log)):
        await eventually(lambda: len(log.came) == 6, "read anew, the session's end included")


async def dead_author(world: World, server: MemoryLogServer) -> Replica:
    """A survivor that has all that an author wrote whose folder is lost; of its six frames the log,
    which is down, has one.
    """
    a = world.replica("a", log=server.log())
    b = world.replica("b", "a", log=server.log(), kafka__upload_after_s=0.1)
    await a.start()
    await b.start()
    await write(a, "in the log")
    await a.flush(Durability.LOG, timeout=10)
    server.stop()
    await eventually(lambda: a.health()["log"].state == b.health()["log"].state == "down")
    await write(a, *range(5))
    await a.flush(Durability.PEERS(1), timeout=10)
    await crash(a)
    await world.forget("a")
    return b


async def test_what_a_dead_author_owed_is_uploaded_and_not_for_ever(
    world: World, server: MemoryLogServer
) -> None:
    b = await dead_author(world, server)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(b.close)
        log = CountingLog(server)
        c = world.replica("c", "b", log=log, kafka__upload_after_s=0.1)
        async with running(c):
            await eventually(lambda: same(b, c), "c has them from b")
            await c.flush()
            server.start()
            await eventually(lambda: len(stored(server)) == 6, "all are in the log")
            alone = world.replica("d", log=server.log())
            async with running(alone):
                await converged(b, alone)
                assert alone.sources() == {"log": 6}
            feeds = (feed_of(b), feed_of(c))
            await eventually(lambda: not any(feed._lacking() for feed in feeds), "both know it")
            many = sum(stored(server).values())
            assert many <= 11, "at worst both came at the same time"
            reads = len(log.asked)
            await eventually(lambda: len(log.asked) > reads + 8, "time for some more rounds")
            assert sum(stored(server).values()) == many
        assert world.probes["b"].counts["log.hole"] == 0


async def test_a_reader_that_is_behind_uploads_nothing_that_is_there(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    a = world.replica("a", log=server.log())
    b = world.replica("b", "a")
    async with running(a, b):
        await write(a, *range(30))
        await a.flush(Durability.LOG, timeout=10)
        await converged(a, b)
        await eventually(lambda: b.journaled() == b.frontier(), "on disk")
        await crash(b)

    class SlowLog(CountingLog):
        async def read(
            self, offsets: Mapping[int, int], *, limit: int, wait_s: float
        ) -> list[LogRecord]:
            await asyncio.sleep(0.02)
            return await super().read(offsets, limit=2, wait_s=wait_s)

    log = SlowLog(server)
    again = world.replica("b", log=log, kafka__upload_after_s=0.02)
    async with running(again):
        await eventually(lambda: not feed_of(again)._lacking(), "it knows that all is there")
        assert log.appended == []
        assert world.probes["b"].counts["log.hole"] == 0


async def test_a_hole_that_only_snapshots_could_fill(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    a = world.replica("a", replica__snapshot_every_frames=10)
    async with running(a):
        for number in range(40):
            await write(a, number, document="{x}" + str(number % 3))
        await eventually(lambda: world.probes["a"].counts["journal.pruned"] > 0, "pruned")
        b = world.replica("b", "a", log=server.log(), kafka__upload_after_s=0.02)
        async with running(b):
            await eventually(lambda: same(a, b), "b has it by a snapshot")
            counts = world.probes["b"].counts
            await write(a, *range(3), document="{x}1")
            await eventually(lambda: counts["log.hole"] == 1, "told")
            await eventually(lambda: len(stored(server)) >= 3, "what follows is uploaded")
            await eventually(lambda: not feed_of(b)._lacking(), "and nothing waited for")
            assert set(stored(server).values()) == {1}
            assert counts["log.hole"] == 1


async def test_a_hole_in_the_middle_is_not_taken_for_uploaded(
    memory_world: World, server: MemoryLogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a", log=server.log())
    async with running(a, b):
        await write(a, *range(12))
        await converged(a, b)
        await b.flush()
        shard, journal = shard_of(a), world.journal("b")
        frames = journal.frames

        async def holed(*where: int) -> list[FrameRecord]:
            return [one for one in await frames(*where) if not 5 <= one.first <= 7]

        monkeypatch.setattr(journal, "frames", holed)
        await feed_of(b)._upload(shard, a.session, 12)
        latest = world.probes["b"].latest["log.hole"]
        assert (latest["after"], latest["upto"]) == (4, 7)
        assert len(stored(server)) == 9


async def test_the_journal_keeps_what_the_log_has_not(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    often: Any = {"replica__snapshot_every_frames": 10, "kafka__upload_after_s": 1_000}
    a = world.replica("a", log=server.log(), **often)
    b = world.replica("b", "a", log=server.log(), **often)

    async def keeps(name: str, session: int) -> int:
        return sum(record.session == session for record in await frames_of(world, name))

    async with running(b):
        await a.start()
        await write(a, "first")
        await converged(a, b)
        await b.flush()
        server.stop()
        await eventually(lambda: a.health()["log"].state == b.health()["log"].state == "down")
        await write(a, *range(40))
        await converged(a, b)
        await b.flush()
        counts = world.probes["b"].counts
        await eventually(lambda: counts["snapshot.saved"] > 0, "a snapshot has them")
        assert await keeps("b", a.session) >= 40
        pruned = counts["journal.pruned"]
        b._check().committer.compact()
        await eventually(lambda: counts["journal.pruned"] > pruned, "pressed, it gives them up")
        assert await keeps("b", a.session) == 0
        saved = world.probes["a"].counts["snapshot.saved"]
        a._check().committer.compact()
        await eventually(lambda: world.probes["a"].counts["snapshot.saved"] > saved)
        assert await keeps("a", a.session) >= 40, "its own nobody else has to keep"
        await a.close()
        assert await keeps("a", a.session) >= 40, "nor when it closes"
        session = a.session
        again = world.replica("a", log=server.log(), **often)
        async with running(again):
            saved = world.probes["a"].counts["snapshot.saved"]
            again._check().committer.compact()
            await eventually(lambda: world.probes["a"].counts["snapshot.saved"] > saved)
            assert await keeps("a", session) >= 40, "nor in the next session"
            server.start()
            await eventually(lambda: len(stored(server)) == 42, "delivered after the restart")
            await eventually(lambda: feed_of(again).delivery.done)
            again._check().committer.compact()
            await eventually(lambda: world.probes["a"].counts["journal.pruned"] > 0, "pruned")
            assert await keeps("a", session) == 0


async def test_the_journal_lets_go_of_what_the_log_has(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    often: Any = {"replica__snapshot_every_frames": 10}
    a = world.replica("a", log=server.log(), **often)
    b = world.replica("b", log=server.log(), **often)
    async with running(a, b):
        for number in range(60):
            await write(a, number)
            await a.flush(Durability.LOG, timeout=10)
        await converged(a, b)
        counts = [world.probes[name].counts for name in ("a", "b")]
        await eventually(lambda: all(one["journal.pruned"] > 0 for one in counts), "pruned")
        for name in ("a", "b"):
            assert len(await frames_of(world, name)) < 60


async def test_an_empty_replica_is_restored_from_the_log_when_it_is_started(
    world: World, server: MemoryLogServer
) -> None:
    a = world.replica("a", log=server.log())
    async with running(a):
        for number in range(50):
            await write(a, number, document=str(number % 9))
        await a.flush(Durability.LOG, timeout=10)
        server.skip(shard_of(a), 3)
        b = world.replica("b", log=server.log())
        began = time.monotonic()
        async with running(b):
            assert time.monotonic() - began < 2, "offsets that were left out are not waited for"
            assert b.digest() == a.digest(), "at once"
            assert b.journaled() == b.frontier() == a.frontier()
            assert b.sources() == {"log": 50}
            assert b.status()["refused"] == {}


async def test_a_log_that_is_down_or_slow_does_not_hold_up_the_start(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    a = world.replica("a", log=server.log())
    async with running(a):
        await write(a, *range(5))
        await a.flush(Durability.LOG, timeout=10)
        for fault in ("down", "slow"):
            if fault == "down":
                server.stop()
            else:
                server.slow(0.6)
            began = time.monotonic()
            b = world.replica(fault, log=server.log(), replica__restore_timeout_s=0.2)
            async with running(b):
                assert time.monotonic() - began < 0.5
                assert b.frontier() != a.frontier()
                server.start()
                server.slow(0)
                await converged(a, b)


async def test_retention_has_removed_the_beginning(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    a = world.replica("a", log=server.log())
    async with running(a):
        await write(a, *range(20))
        await a.flush(Durability.LOG, timeout=10)
        server.retain(shard_of(a), 20)
        # Nothing is left of that shard: there is nothing to wait for.
        began = time.monotonic()
        async with running(world.replica("b", log=server.log())):
            assert time.monotonic() - began < 2
        await write(a, *range(5))
        await a.flush(Durability.LOG, timeout=10)
        # What is left hangs on what is gone, here; peers bring that.
        c = world.replica("c", log=server.log())
        began = time.monotonic()
        async with running(c):
            assert time.monotonic() - began < 2
            world.discoveries["c"].list.append("a")
            await converged(a, c)
            await eventually(lambda: feed_of(c)._lacking() == {}, "it knows what is there")
            assert world.probes["c"].counts["log.uploaded"] == 0


async def test_a_log_that_was_made_anew_is_offered_everything(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    a = world.replica("a", log=CountingLog(server))
    await a.start()
    await write(a, *range(20))
    await a.flush(Durability.LOG, timeout=10)
    await eventually(lambda: set(feed_of(a).tail.positions().values()) == {0, 20}, "read")
    fresh = MemoryLogServer(4)
    log = a._environment.log
    assert isinstance(log, MemoryLog)
    server.stop()
    await eventually(lambda: a.health()["log"].state == "down")
    log._server = fresh
    async with AsyncExitStack() as stack:
        stack.push_async_callback(a.close)
        b = world.replica("b", log=fresh.log())
        async with running(b):
            await converged(a, b)
        assert world.probes["a"].counts["log.reset"] == 1


async def test_a_cause_far_behind_what_depends_on_it(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when an author's log was out of its reach, and others built on what its peers got."""
    monkeypatch.setattr("mesh.services.tail.MAX_WAITING", 20)
    monkeypatch.setattr("mesh.services.log.RECORDS", 30)
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    server = MemoryLogServer(4)
    async with running(a, b):
        await write(a, "the cause")
        await converged(a, b)
        await write(b, *range(150))
        frames = await frames_of(world, "b")
        shard = shard_of(a)
        for record in sorted(frames, key=lambda one: one.session == a.session):
            server.put(shard, record.data)
        c = world.replica("c", log=server.log(), replica__inbox_frames_max=16)
        async with running(c):
            await eventually(lambda: c.frontier() == b.frontier(), "all of it", within=10)


async def test_closing_waits_for_a_log_that_is_up(
    memory_world: World, server: MemoryLogServer
) -> None:
    world = memory_world
    a = world.replica("a", log=server.log())
    async with running(a):
        with a.edit(Note, "1") as note:
            note.text = "just before the end"
    assert len(stored(server)) == 2, "what was written, and the session's end"
    server.stop()
    b = world.replica("b", log=server.log(), replica__close_timeout_s=5)
    began = time.monotonic()
    async with running(b):
        await write(b, "owed")
    assert time.monotonic() - began < 2

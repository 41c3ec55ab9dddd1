"""One replica by itself: edits, reads, misuse, garbage, restart, close."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random

import pytest

from crdt.errors import (
    CallerError,
    CrossShardTransaction,
    EditMisuse,
    InvalidId,
    ReadOnly,
    UnknownField,
)
from mesh import Backpressure, Durability, Replica, ReplicaClosed, TransactionTooLarge
from mesh.durability import FlushTimeout
from mesh.environment import LinkClosed, PartHealth
from mesh.wire import Frames, SnapshotPart, encode
from persistence.base import FrameRecord, StorageError
from persistence.memory import MemoryJournal
from tests.mesh.world import Note, Task, World, converged, eventually, running


async def test_an_edit_is_seen_at_once_and_survives_a_restart(world: World) -> None:
    replica = world.replica("a")
    async with running(replica):
        assert replica.get(Task, "42") is None
        with replica.edit(Task, "42", type="task.opened", caused_by="mail/7") as task:
            task.title = "Audit json.decoder"
            task.effort += 3
            task.labels.add("security")
            task.notes.append("looks fine so far\n")
            assert task.effort == 3
        view = replica.get(Task, "42")
        assert view is not None
        assert (view.title, view.effort, set(view.labels)) == (
            "Audit json.decoder",
            3,
            {"security"},
        )
        first, digest = replica.session, replica.digest()
    await world.reopen("a")
    replica = world.replica("a")
    async with running(replica):
        assert replica.session != first
        assert replica.digest() == digest
        view = replica.get(Task, "42")
        assert view is not None
        assert str(view.notes) == "looks fine so far\n"


async def test_a_body_that_raises_has_changed_nothing(memory_world: World) -> None:
    replica = memory_world.replica("a")
    async with running(replica):
        before = (replica.digest(), replica.frontier())
        editors = []

        def broken() -> None:
            with replica.edit(Task, "42") as task:
                editors.append(task)
                task.title = "half"
                task.notes.append("half")
                _ = 1 // 0

        with pytest.raises(ZeroDivisionError):
            broken()
        assert (replica.digest(), replica.frontier()) == before
        assert replica.get(Task, "42") is None
        with pytest.raises(ReadOnly):
            editors[0].title = "later"
        with replica.edit(Task, "42") as task:
            task.title = "whole"
        assert replica.exists(Task, "42")


async def test_awaiting_in_an_edit_is_refused(memory_world: World) -> None:
    replica = memory_world.replica("a")
    async with running(replica):
        before = replica.digest()

        async def careless() -> None:
            with replica.edit(Task, "42") as task:
                task.title = "x"
                await asyncio.sleep(0)

        with pytest.raises(EditMisuse, match="awaited"):
            await careless()
        assert replica.digest() == before
        # Many edits of one loop step, with awaits only between them, are fine.
        for number in range(50):
            with replica.edit(Task, "42") as task:
                task.effort += 1
            if number % 7 == 0:
                await asyncio.sleep(0)


async def test_an_edit_of_another_task_meanwhile_is_refused(memory_world: World) -> None:
    replica = memory_world.replica("a")
    async with running(replica):
        inside, done = asyncio.Event(), asyncio.Event()

        async def careless() -> None:
            with replica.edit(Task, "1") as task:
                task.title = "x"
                inside.set()
                await done.wait()

        other = asyncio.create_task(careless())
        await inside.wait()
        with pytest.raises(EditMisuse, match="Task/1"), replica.edit(Task, "2"):
            pass
        done.set()
        with pytest.raises(EditMisuse):
            await other
        with replica.edit(Task, "2") as task:
            task.title = "fine"


async def test_nested_edits_and_other_threads_are_refused(memory_world: World) -> None:
    replica = memory_world.replica("a")
    async with running(replica):

        def nested() -> None:
            with replica.edit(Task, "1") as task:
                task.title = "x"
                with replica.edit(Task, "2"):
                    pass

        with pytest.raises(EditMisuse, match="Task/2"):
            nested()
        assert replica.get(Task, "1") is None

        def elsewhere() -> None:
            with replica.edit(Task, "3") as task:
                task.title = "x"

        with pytest.raises(EditMisuse, match="thread"):
            await asyncio.to_thread(elsewhere)


async def test_a_transaction_is_of_one_shard(memory_world: World) -> None:
    replica = memory_world.replica("a")
    async with running(replica):
        with replica.transaction(type="job.split") as tx:
            tx.edit(Task, "{job-7}/1").title = "one"
            tx.edit(Note, "{job-7}/about").text = "two parts"
            assert tx.create(Task, "{job-7}/2")
        assert [view.id for view in replica.documents(Task)] == ["Task/{job-7}/1", "Task/{job-7}/2"]
        frontier = replica.frontier()

        def too_wide() -> None:
            with replica.transaction(type="too.wide") as tx:
                for number in range(50):
                    tx.edit(Task, str(number)).title = "x"

        with pytest.raises(CrossShardTransaction, match="tag"):
            too_wide()
        assert replica.frontier() == frontier


async def test_create_delete_documents(memory_world: World) -> None:
    replica = memory_world.replica("a")
    async with running(replica):
        assert replica.create(Task, "1")
        assert not replica.create(Task, "1")
        with replica.edit(Task, "2") as task:
            task.title = "two"
            task.notes.append("text")
        found = list(replica.documents(Task, where=lambda task: task.title == "two"))
        assert [view.id for view in found] == ["Task/2"]
        assert replica.delete(Task, "2")
        assert not replica.delete(Task, "2")
        assert not replica.exists(Task, "2")
        assert replica.get(Task, "2") is None


async def test_what_the_caller_gets_wrong_is_said(memory_world: World) -> None:
    replica = memory_world.replica("a")
    with pytest.raises(ReplicaClosed, match="not started"):
        replica.edit(Task, "1")
    async with running(replica):
        with pytest.raises(InvalidId):
            replica.edit(Task, "")
        with pytest.raises(UnknownField), replica.edit(Task, "1") as task:
            task.titel = "typo"  # type: ignore[attr-defined]
        with pytest.raises(CallerError, match="type"):
            replica.edit(Task, "1", type="x" * 300)
        with pytest.raises(CallerError, match="at least one"):
            Durability.PEERS(0)
        with pytest.raises(ReplicaClosed, match="started before"):
            await replica.start()
    with pytest.raises(ReplicaClosed, match="closed"):
        replica.edit(Task, "1")
    with pytest.raises(ReplicaClosed):
        await replica.flush()
    await replica.close()


async def test_a_transaction_that_fits_no_frame_is_refused_whole(memory_world: World) -> None:
    replica = memory_world.replica("a")
    async with running(replica):
        before = replica.digest()

        def too_large() -> None:
            with replica.edit(Task, "1") as task:
                for number in range(5):
                    task.findings[str(number)] = {"data": "x" * 900_000}

        with pytest.raises(TransactionTooLarge):
            too_large()
        assert replica.digest() == before
        # Much in one step is fine: it becomes several frames of one flush.
        for number in range(30):
            with replica.edit(Task, "1") as task:
                task.findings[str(number)] = {"data": str(number) * 30_000}
        await replica.flush()
    replica = memory_world.replica("a")
    async with running(replica):
        view = replica.get(Task, "1")
        assert view is not None
        assert len(view.findings) == 30


async def test_garbage_is_refused_and_changes_nothing(memory_world: World) -> None:
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a, b):
        with a.edit(Task, "1") as task:
            task.title = "mine"
        await converged(a, b)
        before = (a.digest(), a.frontier())
        (record,) = await world.journal("a").frames(
            a._check().editor.host("Task/1").index, a.session, 0, 10, 10
        )
        rng = random.Random(1)
        link = b._check().exchange.links["a"]
        for _ in range(40):
            broken = bytearray(record.data)
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
            await link._link.send(encode(Frames((bytes(broken),))))
        await link._link.send(b"\xc1 not a message")
        await link._link.send(encode(SnapshotPart(0, 1, 0, 1, b"not a snapshot")))
        refused = world.probes["a"].counts
        await eventually(
            lambda: refused["frame.refused"] >= 40 and refused["message.refused"] == 1
            and refused["snapshot.refused"] == 1,
            "all of it was refused",
        )  # fmt: skip
        assert (a.digest(), a.frontier()) == before
        assert "b" in a._check().exchange.links
        assert sum(a.status()["refused"].values()) >= 42
        # Honest frames still get through on the same link.
        with b.edit(Task, "1") as task:
            task.effort += 1
        await converged(a, b)
        # A flood ends the link; the peer may dial again.
        for _ in range(200):
            await _try_send(b, b"\xc1")
        await eventually(lambda: refused["link.flood"] > 0, "flood noticed")
        with a.edit(Task, "1") as task:
            task.effort += 1
        await converged(a, b)


async def _try_send(replica: Replica, data: bytes) -> None:
    link = replica._check().exchange.links.get("a")
    if link is not None:
        with contextlib.suppress(LinkClosed):
            await link._link.send(data)


class RefusingJournal(MemoryJournal):
    """A disk that is full until it is not."""

    full = False

    async def append(self, frames: object) -> int:
        if self.full:
            raise StorageError("disk full (test)")
        return await super().append(frames)  # type: ignore[arg-type]


async def test_a_full_disk_lets_nothing_out_and_loses_nothing(memory_world: World) -> None:
    world = memory_world
    journal = world.journals["a"] = RefusingJournal()
    a = world.replica("a", replica__owed_bytes_max=65_536)
    b = world.replica("b", "a")
    async with running(a, b):
        await eventually(lambda: bool(a._check().exchange.links), "linked")
        journal.full = True
        written = 0

        async def flood() -> None:
            nonlocal written
            while True:
                with a.edit(Task, str(written)) as task:
                    task.title = "x" * 100
                written += 1
                if written % 50 == 0:
                    await asyncio.sleep(0)

        with pytest.raises(Backpressure):
            await flood()
        assert written > 100
        with pytest.raises(FlushTimeout) as caught:
            await a.flush(timeout=0.05)
        assert "not on disk" in str(caught.value)
        await eventually(lambda: a.health()["journal"].state == "down", "down")
        assert list(b.documents(Task)) == []
        assert b.lag()["a"].ahead == 0
        journal.full = False
        await a.ready()
        await a.flush(Durability.PEERS(1), timeout=10)
        assert a.health()["journal"].state == "ok"
        assert len(list(b.documents(Task))) == written


async def test_closing_on_a_dead_disk_says_so(memory_world: World) -> None:
    world = memory_world
    journal = world.journals["a"] = RefusingJournal()
    replica = world.replica("a")
    await replica.start()
    journal.full = True
    with replica.edit(Task, "1") as task:
        task.title = "never on disk"
    with pytest.raises(StorageError):
        await replica.close()
    await replica.close()


class DeadCoordinator:
    """A coordinator that is out of reach."""

    def health(self) -> PartHealth:
        return PartHealth("down", 1, "connection refused", "start Temporal")


async def test_losing_the_coordinator_stops_nothing(memory_world: World) -> None:
    replica = memory_world.replica("a", coordinator=DeadCoordinator())  # type: ignore[arg-type]
    async with running(replica):
        assert replica.health()["coordinator"].state == "down"
        with replica.edit(Task, "1") as task:
            task.title = "still works"
        await replica.flush()
        assert replica.health()["journal"].state == "ok"
        assert replica.status()["health"]["coordinator"]["cure"] == "start Temporal"


async def test_no_task_is_left_behind(memory_world: World) -> None:
    before = asyncio.all_tasks()
    a, b = memory_world.replica("a"), memory_world.replica("b", "a", "nowhere")
    async with running(a, b):
        with a.edit(Task, "1") as task:
            task.title = "x"
        await converged(a, b)
    assert asyncio.all_tasks() == before


async def test_a_replica_closed_by_its_owners_cancellation(memory_world: World) -> None:
    replica = memory_world.replica("a", "nowhere")
    inside = asyncio.Event()

    async def owner() -> None:
        async with replica:
            with replica.edit(Task, "1") as task:
                task.title = "kept"
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(owner())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = memory_world.replica("a")
    async with running(again):
        assert again.exists(Task, "1")


async def test_an_own_frame_never_seen_here_is_proof_of_a_copy(memory_world: World) -> None:
    """Somebody writes with this session's key: a cloned machine. Its frame is refused, loudly."""
    world = memory_world
    a = world.replica("a")
    async with running(a):
        with a.edit(Task, "1") as task:
            task.title = "one"
        await a.flush()
        host = a._check().editor.host("Task/1")
        (record,) = await world.journal("a").frames(host.index, a.session, 0, 10, 10)
        assert isinstance(record, FrameRecord)
        host.outbox.framed = 0
        before = a.digest()
        a._check().exchange._ingest.frame(record.data, "somebody")
        assert world.probes["a"].counts["frame.forked"] == 1
        assert a.digest() == before
        host.outbox.framed = record.last


async def test_a_forked_childs_replica_refuses_to_write(memory_world: World) -> None:
    replica = memory_world.replica("a")
    async with running(replica):
        child = os.fork()
        if child == 0:  # the same session and key in two processes: only one may write
            try:
                replica.edit(Task, "1")
            except ReplicaClosed as error:
                os._exit(0 if "fork" in str(error) else 1)
            os._exit(2)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        with replica.edit(Task, "1") as task:
            task.title = "the parent goes on"


async def test_a_journal_over_its_bound_is_compacted(memory_world: World) -> None:
    """Peers that were away keep frames; a full disk matters more: they will take a snapshot."""
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a):
        async with running(b):
            await eventually(lambda: len(a.peers()) == 1, "linked")
        for number in range(50):
            with a.edit(Note, "n") as note:
                note.text = "x" * 1000 + str(number)
            await a.flush()
        host = a._check().editor.host("Note/n")
        await a._check().committer.snapshot(host)
        assert len(await world.journal("a").replay(0, 100)) == 50, "kept for b"
        a._check().committer.compact()
        await eventually(lambda: world.probes["a"].counts["journal.pruned"] > 0, "pruned")
        assert await world.journal("a").replay(0, 100) == []
        again = world.replica("b", "a")
        async with running(again):
            await converged(a, again)

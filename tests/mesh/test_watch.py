"""Watching: coalesced per document, bounded, ends with the replica."""

from __future__ import annotations

import asyncio

from crdt import Document, Register, Text
from mesh.watch import MISSED, SNAPSHOT, Change, Watchers
from tests.mesh.world import Note, Task, World, converged, running


def change(document: str, *fields: str, mine: bool = False, stamp: int = 1) -> Change:
    return Change(document, frozenset(fields), "x", 7, mine, f"type {stamp}", stamp)


def test_merging_keeps_what_somebody_else_did() -> None:
    theirs, ours = change("d", "a", stamp=1), change("d", "b", mine=True, stamp=2)
    merged = theirs.merged(ours)
    assert (merged.fields, merged.mine, merged.stamp) == (frozenset("ab"), False, 1)
    later = merged.merged(change("d", "c", stamp=3))
    assert (later.fields, later.stamp) == (frozenset("abc"), 3)
    assert ours.merged(ours).mine
    assert theirs.merged(change("d")).fields == frozenset(), "the whole document"


async def test_a_reader_that_lags_is_told_that_it_missed_some() -> None:
    watchers = Watchers(limit=3)
    watcher = watchers.add("")
    for number in range(5):
        watcher.put(change(f"Task/{number}"))
    got = [await anext(watcher) for _ in range(4)]
    assert [one.type for one in got] == [MISSED, "type 1", "type 1", "type 1"]
    assert [one.document for one in got[1:]] == ["Task/2", "Task/3", "Task/4"]


async def test_changes_name_fields_author_and_whether_they_are_mine(memory_world: World) -> None:
    a, b = memory_world.replica("a"), memory_world.replica("b", "a")
    async with running(a, b):
        tasks, everything = a.watch(Task), a.watch()
        with a.edit(Task, "1", type="task.opened", actor="ann") as task:
            task.title = "x"
            task.labels.add("y")
        mine = await anext(tasks)
        assert (mine.document, mine.fields, mine.actor, mine.type, mine.mine, mine.session) == (
            "Task/1", frozenset({"title", "labels"}), "ann", "task.opened", True, a.session,
        )  # fmt: skip
        with b.edit(Note, "n") as note:
            note.text = "not watched by tasks"
        with b.edit(Task, "2") as task:
            task.effort += 1
        theirs = await anext(tasks)
        assert (theirs.document, theirs.fields, theirs.actor, theirs.mine, theirs.session) == (
            "Task/2", frozenset({"effort"}), "b", False, b.session,
        )  # fmt: skip
        await converged(a, b)
        seen = {(await anext(everything)).document for _ in range(3)}
        assert seen == {"Task/1", "Note/n", "Task/2"}


async def test_many_changes_of_a_document_are_one_for_a_slow_reader(memory_world: World) -> None:
    replica = memory_world.replica("a")
    async with running(replica):
        watcher = replica.watch(Task)
        for _ in range(1_000):
            with replica.edit(Task, "hot") as task:
                task.effort += 1
        with replica.edit(Task, "hot") as task:
            task.notes.append("text")
        replica.delete(Task, "other")
        change_ = await anext(watcher)
        assert change_.fields == {"effort", "notes"}
        replica.delete(Task, "hot")
        assert (await anext(watcher)).fields == frozenset()
        watcher.close()
        assert [one async for one in watcher] == []


class Session(Document, on_delete="gone"):
    title: Register[str]
    notes: Text


async def test_a_document_that_is_gone_is_a_change_and_stays_gone(memory_world: World) -> None:
    a, b = memory_world.replica("a"), memory_world.replica("b", "a")
    async with running(a, b):
        with a.edit(Session, "1") as session:
            session.title = "first"
            session.notes.append("first")
        await converged(a, b)
        watcher = b.watch(Session)
        assert a.delete(Session, "1")
        assert not a.delete(Session, "1")
        with b.edit(Session, "1") as session:
            session.title = "concurrent"
            session.notes.append("concurrent")
        mine = await anext(watcher)
        assert (mine.fields, mine.mine) == (frozenset({"title", "notes"}), True)
        await converged(a, b)
        theirs = await anext(watcher)
        assert (theirs.document, theirs.fields, theirs.mine) == ("Session/1", frozenset(), False)
        for replica in (a, b):
            assert replica.get(Session, "1") is None
        with b.edit(Session, "1") as session:
            assert session.snapshot() == {"title": None, "notes": ""}
            session.notes.append("second")
        await converged(a, b)
        view = a.get(Session, "1")
        assert view is not None
        assert view.snapshot() == {"title": None, "notes": "second"}


async def test_watching_ends_with_the_replica(memory_world: World) -> None:
    replica = memory_world.replica("a")
    await replica.start()
    watcher = replica.watch()

    async def read() -> list[str]:
        return [change.document async for change in watcher]

    reading = asyncio.create_task(read())
    with replica.edit(Task, "1") as task:
        task.title = "x"
    await replica.close()
    assert await reading == ["Task/1"]


async def test_a_watch_that_nobody_reads_any_more_is_gone(memory_world: World) -> None:
    replica = memory_world.replica("a")
    async with running(replica):

        async def first() -> Change:
            async for found in replica.watch(Task):
                return found
            raise AssertionError("no change")

        reading = asyncio.create_task(first())
        await asyncio.sleep(0)
        assert replica.status()["watchers"] == 1
        with replica.edit(Task, "1") as task:
            task.effort += 1
        assert (await reading).document == "Task/1"
        del reading
        assert replica.status()["watchers"] == 0


async def test_a_joined_snapshot_is_a_change(memory_world: World) -> None:
    a = memory_world.replica("a", replica__snapshot_every_frames=10)
    async with running(a):
        for number in range(30):
            with a.edit(Task, "1") as task:
                task.effort += number
            await a.flush()
        b = memory_world.replica("b", "a")
        async with running(b):
            watcher = b.watch(Task)
            seen = await anext(watcher)
            await converged(a, b)
            assert (seen.document, seen.mine, seen.type in (SNAPSHOT, "task.edited")) == (
                "Task/1", False, True,
            )  # fmt: skip

"""Snapshots are taken in the cut, and encoded and sealed in a thread: the event loop goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crdt.errors import InvalidValue
from crdt.snapshot import ShardSnapshot, encode_snapshot
from mesh import Replica, ReplicaClosed, shards
from mesh.shards import ShardHost
from persistence import sealing
from tests.mesh.world import Note, World, eventually, running, write

PATIENCE_S = 10.0


class Held:
    """Stands where snapshots are encoded and holds every one until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.threads: list[int] = []

    def __call__(self, snapshot: ShardSnapshot) -> bytes:
        self.threads.append(threading.get_ident())
        self.begun.set()
        assert self.go.wait(PATIENCE_S), "the event loop waits for the snapshot"
        return encode_snapshot(snapshot)


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Snapshots wait until the end of the block at most."""
    holding = Held()
    with monkeypatch.context() as patch:
        patch.setattr(shards, "encode_snapshot", holding)
        try:
            yield holding
        finally:
            holding.go.set()


def host_of(replica: Replica) -> ShardHost:
    return replica._check().editor.host("Note/1")


async def test_the_loop_goes_on_while_a_snapshot_is_encoded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a):
        await write(a, "before")
        host = host_of(a)
        with held(monkeypatch) as holding:
            a._check().committer.compact()
            await eventually(holding.begun.is_set, "a snapshot is being encoded")
            with a.edit(Note, "1") as note:
                note.text = "meanwhile"
            assert (a.get(Note, "1") or pytest.fail("gone")).text == "meanwhile"
            upto = host.lattice.frontier[a.session]
            assert host.frames_since_snapshot == 0, "what is cut from here on counts anew"
        assert threading.get_ident() not in holding.threads
        await a.flush(timeout=5)
        (record,) = await world.journal("a").snapshots()
        found = await a._check().joining.incoming(record.data, "a")
        assert found is not None
        assert found.snapshot.frontier[a.session] == upto - 1, "the shard as it was at the cut"
        assert host.frames_since_snapshot == 1
        assert host.snapshot_bytes == len(record.data)
        async with running(b):
            await eventually(lambda: b.frontier() == a.frontier(), "b has all of it")
    await world.reopen("a")
    again = world.replica("a")
    async with running(again):
        assert (again.get(Note, "1") or pytest.fail("gone")).text == "meanwhile"


async def test_nothing_is_pruned_before_the_snapshot_is_there(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = memory_world
    a = world.replica("a")
    async with running(a):
        await write(a, "1", "2", "3")
        with held(monkeypatch) as holding:
            a._check().committer.compact()
            await eventually(holding.begun.is_set, "a snapshot is being encoded")
            assert len(await world.journal("a").replay(0, 100)) == 3
            assert await world.journal("a").snapshots() == []
        await eventually(lambda: world.probes["a"].counts["journal.pruned"] > 0, "pruned")
        assert len(await world.journal("a").snapshots()) == 1


async def test_a_snapshot_that_is_too_large_is_reported_once(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = memory_world
    a = world.replica("a", replica__snapshot_every_frames=10)
    async with running(a):
        with monkeypatch.context() as patch:
            patch.setattr(sealing, "_MAX_CONTENT_BYTES", 1_000)
            await write(a, "x" * 1_000)
            with pytest.raises(InvalidValue, match="use more shards"):
                await a._check().committer.snapshot(host_of(a))
            await write(a, *range(9))
            assert world.probes["a"].counts["snapshot.failed"] == 1, "not again at every cut"
        # It goes on, and takes one as soon as that is possible.
        assert await a._check().committer.snapshot(host_of(a))
        assert world.probes["a"].counts["snapshot.saved"] == 1


async def test_what_was_joined_and_cannot_be_kept_ends_the_replica(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames on top of it could not be read back from a journal that lacks it."""
    world = memory_world
    a, b = world.replica("a"), world.replica("b")
    await b.start()
    async with running(a):
        await write(a, "x" * 2_000)
        sealed = await a._check().committer.snapshot(host_of(a))
    with monkeypatch.context() as patch:
        patch.setattr(sealing, "_MAX_CONTENT_BYTES", 1_000)
        assert await b._check().joining.take(host_of(b).index, sealed, "a")
        await eventually(lambda: world.probes["b"].counts["replica.failed"] == 1, "failed")
    assert "use more shards" in str(world.probes["b"].latest["replica.failed"]["reason"])
    with pytest.raises(ReplicaClosed), b.edit(Note, "1") as note:
        note.text = "refused"
    with pytest.raises(InvalidValue):
        await b.close()

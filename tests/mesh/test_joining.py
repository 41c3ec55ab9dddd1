"""Snapshots of others are decoded in a thread: what is refused changes nothing, edits go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from crdt.lattice import Shard
from crdt.snapshot import ShardSnapshot, decode_snapshot
from mesh import Replica
from mesh import joining as module
from tests.mesh.world import Note, World, converged, eventually, running, write


@dataclass
class Holding:
    """Decoding that waits to be let go."""

    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    threads: set[int] = field(default_factory=set)


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Holding]:
    holding = Holding()

    def slowly(body: bytes) -> ShardSnapshot:
        holding.threads.add(threading.get_ident())
        holding.begun.set()
        assert holding.go.wait(60)
        return decode_snapshot(body)

    with monkeypatch.context() as patch:
        patch.setattr(module, "decode_snapshot", slowly)
        try:
            yield holding
        finally:
            holding.go.set()


def shard(replica: Replica, document: str = "Note/1") -> Shard:
    return replica._check().editor.host(document).lattice


async def sealed_by(replica: Replica, document: str = "Note/1") -> tuple[int, bytes]:
    life = replica._check()
    host = life.editor.host(document)
    return host.index, await life.committer.snapshot(host)


async def test_an_empty_replica_adopts_what_a_thread_built(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = memory_world.replica("a"), memory_world.replica("b")
    async with running(a, b):
        await write(a, "one")
        index, data = await sealed_by(a)
        lattice = shard(b)
        with held(monkeypatch) as holding:
            b._check().joining.offer(index, data, "a", pytest.fail)
            await eventually(holding.begun.is_set, "it is being decoded")
            assert b._check().joining.waits(index)
            assert lattice.is_empty
        await eventually(lambda: b.frontier()[index] == a.frontier()[index], "adopted")
        assert threading.get_ident() not in holding.threads
        assert shard(b) is lattice, "whoever holds on to it sees the new state"
        assert b.digest()[index] == a.digest()[index]
        assert not b._check().joining.waits(index)
        with b.edit(Note, "1") as note:
            note.text = "on top of it"
        await b.flush()
    await memory_world.reopen("b")
    again = memory_world.replica("b")
    async with running(again):
        found = again.get(Note, "1")
        assert found is not None
        assert found.text == "on top of it"


async def test_what_is_written_while_it_is_built_stays(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was built for an empty shard, and the shard is empty no more: the two are joined."""
    a, b = memory_world.replica("a"), memory_world.replica("b")
    async with running(a, b):
        await write(a, "one")
        index, data = await sealed_by(a)
        with held(monkeypatch) as holding:
            b._check().joining.offer(index, data, "a", pytest.fail)
            await eventually(holding.begun.is_set, "it is being decoded")
            with b.edit(Note, "1") as note:
                note.text = "meanwhile"
            assert (b.get(Note, "1") or pytest.fail("gone")).text == "meanwhile"
        await eventually(lambda: a.session in b.frontier()[index], "joined")
        assert b.session in b.frontier()[index]
        assert memory_world.probes["b"].counts["snapshot.joined"] == 1
        c = memory_world.replica("c", "b")
        async with running(c):
            await converged(b, c)


async def test_a_snapshot_of_another_shard_than_was_asked_for_is_refused(
    memory_world: World,
) -> None:
    a, b = memory_world.replica("a"), memory_world.replica("b")
    async with running(a, b):
        await write(a, "one")
        index, data = await sealed_by(a)
        told: list[bool] = []
        other = (index + 1) % b.shards
        b._check().joining.offer(other, data, "a", lambda: told.append(True))
        await eventually(lambda: told == [True], "who gave it is told")
        assert memory_world.probes["b"].latest["snapshot.refused"]["reason"] == "OtherShard"
        assert all(not frontier for frontier in b.frontier().values())

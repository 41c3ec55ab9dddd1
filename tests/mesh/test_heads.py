"""Many sessions that write without seeing each other: heads are absorbed before no frame can name
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from crdt.ids import shard_of
from crdt.lattice import Shard
from crdt.operation import encode_body
from crdt.snapshot import decode_snapshot
from mesh import Replica
from persistence.base import FrameRecord
from persistence.limits import MAX_DEPS
from persistence.sealing import Draft, Sealer
from tests.mesh.world import Note, Task, World, converged, eventually, running
from tests.persistence.world import NOW, Writer, transaction

DOCUMENT = "Note/n"


def strangers(world: World, count: int) -> list[FrameRecord]:
    """The first frames of that many sessions, none of which had seen another."""
    identity = world.identity("many")
    body = encode_body([transaction(DOCUMENT, "x")])
    draft = Draft(shard_of_note(world), 1, 1, (), NOW << 16, None, body)
    frames = []
    for _ in range(count):
        sealer = Sealer(identity, identity.new_session(world.clock, world.entropy))
        (raw,) = sealer.seal([draft])
        frames.append(FrameRecord(draft.shard, sealer.session, 1, 1, False, raw))
    return frames


def shard_of_note(world: World) -> int:
    return shard_of(DOCUMENT, world.authority.mesh.shards)


def receive(replica: Replica, frames: Sequence[FrameRecord]) -> None:
    for frame in frames:
        replica._check().exchange._ingest.frame(frame.data, "somebody")


def shard(replica: Replica) -> Shard:
    return replica._check().editor.host(DOCUMENT).lattice


async def heads_named(world: World, replica: Replica) -> list[int]:
    """How many others' frames each of the replica's own frames names."""
    opener = replica._check().core.opener
    held = await world.journal(replica.name).replay(0, 65_536)
    return [len(opener.header(record.data).deps) for _, record in held if record.own]


async def test_more_writers_than_a_frame_can_name(world: World) -> None:
    """5,200 sessions write at once; replicas go on, agree, and start again."""
    a, b = world.replica("a"), world.replica("b", "a")
    frames = strangers(world, 5_200)
    async with running(a, b):
        receive(a, frames)
        assert len(shard(a).heads) < MAX_DEPS
        with a.edit(Note, "n") as note:
            note.text = "still here"
        await eventually(lambda: len(shard(a).frontier) >= len(frames) + 1, "all applied")
        await eventually(lambda: len(shard(a).heads) < 8, "absorbed")
        await a.flush()
        await converged(a, b)
        assert max(await heads_named(world, a)) <= MAX_DEPS
        digest = a.digest()
    await world.reopen("a")
    again = world.replica("a")
    async with running(again):
        assert again.digest() == digest
        with again.edit(Note, "n") as note:
            note.text = "and again"
        await again.flush(timeout=10)


async def test_a_journal_with_too_many_heads_is_opened(memory_world: World) -> None:
    """What stopped a replica for good before: its folder gets well by itself."""
    world = memory_world
    await world.journal("a").append(strangers(world, MAX_DEPS + 100))
    a = world.replica("a")
    async with running(a):
        with a.edit(Note, "n") as note:
            note.text = "first"
        await a.flush(timeout=10)
        assert await heads_named(world, a) == [MAX_DEPS, 100, 0]
        assert set(shard(a).heads) == {a.session}


@pytest.fixture
def low_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.shards.ABSORB_HEADS", 4)
    monkeypatch.setattr("mesh.shards.MAX_HEADS", 12)
    monkeypatch.setattr("mesh.shards.MAX_DEPS", 16)


@pytest.mark.usefixtures("low_bounds")
async def test_a_snapshot_that_brings_too_many_heads(memory_world: World) -> None:
    world = memory_world
    a, b = world.replica("a"), world.replica("b")
    writer = Writer(
        (identity := world.identity("many")),
        Sealer(identity, identity.new_session(world.clock, world.entropy)),
        {shard_of_note(world): Shard(world.authority.mesh.digest_key)},
    )
    for frame in strangers(world, 40):
        writer.receive(frame)
    sealed = writer.snapshot(shard_of_note(world), 0).data
    async with running(a):
        receive(a, strangers(world, 10))
        life = a._check()
        opened = life.core.opener.open_snapshot(sealed)
        assert await life.joining.take(opened.shard, sealed, "somebody")
        await eventually(lambda: world.probes["a"].counts["snapshot.joined"] == 1, "joined")
        with a.edit(Note, "n") as note:
            note.text = "behind the frames that absorb"
        await a.flush(timeout=10)
        named = await heads_named(world, a)
        assert max(named) == 16
        assert sum(named) >= 40, "those of the snapshot, at least: earlier ones may be pruned"
        assert set(shard(a).heads) == {a.session}
        assert decode_snapshot(opened.body).frontier.keys() <= shard(a).frontier.keys()
        digest = a.digest()
    again = world.replica("a")
    async with running(again, b):
        assert again.digest() == digest
        world.discoveries["b"].list.append("a")
        await converged(again, b)


@pytest.mark.usefixtures("low_bounds")
async def test_many_that_absorb_at_once_come_to_rest(memory_world: World) -> None:
    world = memory_world
    names = ["a", "b", "c", "d"]
    replicas = [world.replica(name, *(one for one in names if one != name)) for name in names]
    async with running(*replicas):
        await eventually(lambda: all(len(one.peers()) == 3 for one in replicas), "linked")
        watcher = replicas[0].watch()
        for _ in range(5):
            frames = strangers(world, 30)
            for replica in replicas:
                receive(replica, frames)
            await converged(*replicas)
        await eventually(lambda: all(len(shard(one).heads) <= 4 for one in replicas), "absorbed")
        before = [world.probes[name].counts["heads.absorbed"] for name in names]
        for replica in (*replicas, *replicas):
            with replica.edit(Task, "last") as task:
                task.title = "seen"
            await converged(*replicas)
        after = [world.probes[name].counts["heads.absorbed"] for name in names]
        assert after == before, "they go on absorbing each other's heads"
        assert len(shard(replicas[0]).heads) <= 4
        # Nobody is told of changes where nothing changed.
        assert {(await anext(watcher)).document for _ in range(2)} == {DOCUMENT, "Task/last"}

"""Certificates of sessions whose frames a replica holds are never forgotten."""

from __future__ import annotations

import pytest

from mesh import Replica
from persistence.base import FrameRecord
from persistence.sealing import Sealer
from tests.mesh.world import Note, World, converged, eventually, running
from tests.persistence.world import Writer


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persistence.certificates.MAX_KNOWN_SESSIONS", 4)


def strangers(world: World, replica: Replica, count: int) -> list[tuple[FrameRecord, FrameRecord]]:
    """Two frames each of that many sessions."""
    shard = replica._check().editor.host("Note/n").index
    identity = world.identity("many")
    pairs = []
    for _ in range(count):
        sealer = Sealer(identity, identity.new_session(world.clock, world.entropy))
        writer = Writer(identity, sealer, {shard: type(replica._check().core.hosts[0].lattice)()})
        (first,), (second,) = (writer.write((shard, "Note/n", text)) for text in ("1", "2"))
        pairs.append((first, second))
    return pairs


def receive(replica: Replica, frames: list[FrameRecord]) -> None:
    for frame in frames:
        replica._check().exchange._ingest.frame(frame.data, "somebody")


@pytest.mark.usefixtures("forgetful")
async def test_a_folder_with_more_sessions_than_are_remembered(memory_world: World) -> None:
    world = memory_world
    a = world.replica("a")
    async with running(a):
        pairs = strangers(world, a, 20)
        receive(a, [first for first, _ in pairs])
        life = a._check()
        await life.committer.snapshot(life.editor.host("Note/n"))
        # Only in the snapshot are the certificates of these.
        receive(a, [second for _, second in pairs])
        await a.flush()
        assert world.probes["a"].counts["frame.uncertified"] == 0
        digest = a.digest()
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a, b):
        assert a.digest() == digest
        with a.edit(Note, "n") as note:
            note.text = "3"
        await converged(a, b)
        sealed = await a._check().committer.snapshot(a._check().editor.host("Note/n"))
        opened = b._check().core.opener.open_snapshot(sealed)
        assert len(opened.certificates) == 21


@pytest.mark.usefixtures("forgetful")
async def test_a_session_forgotten_while_its_frame_waited(memory_world: World) -> None:
    world = memory_world
    a = world.replica("a")
    async with running(a):
        (cause, _), *others = strangers(world, a, 12)
        shard = cause.shard
        identity = world.identity("late")
        sealer = Sealer(identity, identity.new_session(world.clock, world.entropy))
        late = Writer(identity, sealer, {shard: type(a._check().core.hosts[0].lattice)()})
        late.receive(cause)
        (waiting,) = late.write((shard, "Note/n", "late"))
        receive(a, [waiting, *(first for first, _ in others), cause])
        await eventually(lambda: waiting.session in a.frontier()[shard], "applied")
        assert a._check().core.trust.get(waiting.session) is not None


@pytest.mark.usefixtures("forgetful")
async def test_a_snapshot_with_more_sessions_than_are_remembered(memory_world: World) -> None:
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a):
        pairs = strangers(world, a, 20)
        receive(a, [first for first, _ in pairs])
        await a.flush()
        async with running(b):
            life = b._check()
            host = a._check().editor.host("Note/n")
            sealed = await a._check().committer.snapshot(host)
            assert await life.joining.take(host.index, sealed, "a")
            await eventually(lambda: world.probes["b"].counts["snapshot.joined"] > 0, "joined")
            await converged(a, b)
            receive(b, [second for _, second in pairs])
            await b.flush()
            assert world.probes["b"].counts["frame.uncertified"] == 0
    again = world.replica("b")
    async with running(again):
        assert set(again.frontier()[host.index]) == set(host.lattice.frontier)


async def test_a_snapshot_that_leaves_certificates_out_is_refused(memory_world: World) -> None:
    world = memory_world
    a = world.replica("a")
    async with running(a):
        pairs = strangers(world, a, 3)
        receive(a, [first for first, _ in pairs])
        core = a._check().core
        host = a._check().editor.host("Note/n")
        sealed = host.snapshot(core.trust.certificates([core.session]), 1).seal(core.sealer)
        assert await a._check().joining.incoming(sealed, "somebody") is None
        assert world.probes["a"].latest["snapshot.refused"]["reason"] == "UnknownSession"

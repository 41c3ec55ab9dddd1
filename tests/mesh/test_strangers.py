"""Who has no business here gets nowhere, is named and counted, and honest traffic goes on."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest

from mesh import Replica
from mesh.compose import open_replica
from mesh.durability import Durability
from mesh.editing import ObserverReadOnly
from mesh.health import IDENTITY
from mesh.ingest import Reception
from mesh.instrumentation import CountingProbe, LoggingProbe
from mesh.publishing import publish
from mesh.settings import split_address
from mesh.transports.tls import PROTOCOL
from mesh.wire import MeshKeys, RosterNews
from persistence.certificates import OBSERVER
from persistence.identity import Identity, create_genesis, open_identity, provision, write_identity
from persistence.memory_checkpoints import MemoryCheckpointServer
from persistence.office import Office
from persistence.roster import Revocation, Roster, first_roster, key_fingerprint, sign_roster
from persistence.sealing import Sealer
from tests.mesh.world import HostClock, Note, World, converged, eventually, running, same, write
from tests.persistence.world import SeededEntropy, Writer

DAY = 86_400_000
FAST: dict[str, Any] = {"replica__anti_entropy_interval_s": 0.1, "peers__redial_max_s": 0.2}
KEY_2 = b"2" * 32


class LongAgo(HostClock):
    """A clock that shows a day of last year."""

    def wall_ms(self) -> int:
        return super().wall_ms() - 300 * DAY


def linked(replica: Replica) -> set[str]:
    return set(replica._check().exchange.links)


# ------------------------------------------------------------------ over real TCP


def reason(probe: CountingProbe, part: str) -> bool:
    """Whether the link refused last was refused for this; two that dial each other at the same time
    refuse one of the links, too.
    """
    return part in str(probe.latest["link.refused"]["reason"])


async def test_strangers_at_the_door_of_a_live_mesh(tmp_path: Path) -> None:
    authority = create_genesis(tmp_path / "authority", "fleet", 4)
    for name in ("a", "b", "x"):
        provision(tmp_path / "authority", tmp_path / name, name)
    late = authority.issue("late", LongAgo(), SeededEntropy(5), lasts_ms=100 * DAY)
    write_identity(tmp_path / "late", late)
    probe = CountingProbe()
    async with open_replica(tmp_path / "a", probe=probe, **FAST) as a:
        seeds: dict[str, Any] = {"peers__seeds": [a.address], **FAST}
        late_probe = CountingProbe()
        async with (
            open_replica(tmp_path / "b", **seeds) as b,
            open_replica(tmp_path / "late", probe=late_probe, **seeds) as expired,
            open_replica(tmp_path / "x", **seeds) as x,
        ):
            await eventually(lambda: linked(a) == {"b", "x"}, "members are linked")
            office = Office(tmp_path / "authority")
            office.revoke("x", "its laptop was stolen", authority)
            assert await publish(office, authority, a.address) == "a"
            await eventually(lambda: "mesh-authority" not in linked(a), "it said goodbye")
            await eventually(lambda: "x" not in linked(a), "the revoked one is out")
            await eventually(lambda: "x" not in linked(b), "for everybody")
            assert {peer.name for peer in a.peers()} == {"b"}, "nothing is kept for the others"
            again = a._check().core.roll.refusals
            await eventually(lambda: again.total >= 3, "it tries again, and is refused")
            await stranger_without_certificate(a.address)
            await eventually(lambda: probe.counts["peer.refused"] >= 2, "strangers are counted")
            with expired.edit(Note, "1") as note:
                note.text = "from the expired"
            with x.edit(Note, "1") as note:
                note.text = "from the revoked"
            with a.edit(Note, "1") as note:
                note.text = "honest"
            await eventually(lambda: same(a, b), "honest traffic goes on")
            found = b.get(Note, "1")
            assert found is not None
            assert found.text == "honest"
            assert linked(expired) == set()
            await eventually(lambda: late_probe.counts["dial.failed"] > 0, "it is told, too")
            assert "refuses our certificate" in str(late_probe.latest["dial.failed"])
            await eventually(lambda: reason(probe, "its laptop was stolen"), "it is said why")
            mine = x.health()[IDENTITY]
            assert a.health()[IDENTITY].state == "ok"
            assert "x was revoked" in a.health()[IDENTITY].reason
            assert mine.state == "ok", "who is out is told when it knocks, and gets no roster"
            assert expired.health()[IDENTITY].state == "down"
            assert "mesh join" in expired.health()[IDENTITY].cure
    assert open_identity(tmp_path / "b").roster == office.roster()[1], "it spread, and is kept"


async def stranger_without_certificate(address: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([PROTOCOL])
    host, port = split_address(address)
    for _ in range(2):
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        with contextlib.suppress(OSError):
            assert await reader.read() == b""
        writer.close()


async def test_a_certificate_that_expired_is_refused_by_name(tmp_path: Path) -> None:
    authority = create_genesis(tmp_path / "authority", "fleet", 4)
    provision(tmp_path / "authority", tmp_path / "a", "a")
    late = authority.issue("late", LongAgo(), SeededEntropy(5), lasts_ms=100 * DAY)
    write_identity(tmp_path / "late", late)
    probe = CountingProbe()
    async with (
        open_replica(tmp_path / "a", probe=probe) as a,
        open_replica(tmp_path / "late", peers__seeds=[a.address]),
    ):
        await eventually(lambda: probe.counts["peer.refused"] > 0, "refused")
        assert "its certificate has expired" in str(probe.latest["peer.refused"]["reason"])


def test_refusals_are_logged_once_and_then_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    probe = LoggingProbe()
    with caplog.at_level(logging.WARNING, "statemesh"):
        for count in range(1, 1001):
            probe.event("link.refused", peer="x", reason="revoked", count=count)
    counts = [record.getMessage().rpartition("count=")[2] for record in caplog.records]
    assert counts == ["1", "10", "100", "1000"]


# ------------------------------------------------------------------ in one process


def next_roster(world: World, *gone: Identity, key: bytes = b"") -> tuple[Roster, bytes]:
    """The authority speaks for the first time."""
    mesh = world.authority.mesh
    roster = first_roster(mesh)
    for one in gone:
        serial = one.certified.serial
        roster = roster.revoking(Revocation(serial, one.replica, world.clock.wall_ms()), 1)
    if key:
        roster = roster.sealing_with(2, key_fingerprint(mesh.id, 2, key), 1)
    return roster, sign_roster(mesh.id, world.authority.key, roster)


async def test_an_observer_reads_and_what_it_signs_is_void_everywhere(
    memory_world: World,
) -> None:
    world = memory_world
    world.identities["eye"] = world.authority.issue(
        "eye", world.clock, world.entropy, role=OBSERVER
    )
    a, eye, b = world.replica("a"), world.replica("eye", "a"), world.replica("b", "a")
    async with running(a, eye):
        await write(a, "seen", document="n")
        await converged(a, eye)
        with (
            pytest.raises(ObserverReadOnly, match="join with an invitation for members"),
            eye.edit(Note, "n") as note,
        ):
            note.text = "no"
        with pytest.raises(ObserverReadOnly):
            eye.create(Note, "other")
        # Its program is not asked: a frame that it signs all the same.
        identity = world.identity("eye")
        shard = a._check().editor.host("Note/n").index
        lattice = type(a._check().core.hosts[0].lattice)()
        sealer = Sealer(identity, identity.new_session(world.clock, world.entropy))
        (frame,) = Writer(identity, sealer, {shard: lattice}).write((shard, "Note/n", "forged"))
        received = a._check().exchange._ingest.frame(frame.data, "eye")
        assert received.reception is Reception.TAKEN
        await eventually(lambda: world.probes["a"].counts["frame.void"] == 1, "void")
        async with running(b):
            await converged(a, b, eye)
            assert frame.session in b.frontier()[shard], "its seq is used up on all replicas"
            for replica in (a, b, eye):
                found = replica.get(Note, "n")
                assert found is not None
                assert found.text == "seen"
    again = world.replica("a")
    async with running(again):
        found = again.get(Note, "n")
        assert found is not None
        assert found.text == "seen", "void when it is read back, too"


async def test_a_member_without_the_right_gives_no_snapshots(memory_world: World) -> None:
    world = memory_world
    world.identities["mute"] = world.authority.issue(
        "mute", world.clock, world.entropy, snapshots=False
    )
    mute, a = world.replica("mute"), world.replica("a", "mute")
    async with running(mute, a):
        await write(mute, "one")
        await converged(mute, a)  # its frames count
        host = mute._check().core.hosts[mute._check().editor.host("Note/1").index]
        sealed = await mute._check().committer.snapshot(host)
        assert await a._check().joining.incoming(sealed, "mute") is None
        refused = world.probes["a"].latest["snapshot.refused"]
        assert refused["reason"] == "NotAllowed"
        assert "mute may not give snapshots" in str(refused["detail"])
        await write(a, "two")
        await converged(mute, a)


async def test_who_may_not_give_snapshots_writes_no_checkpoints(memory_world: World) -> None:
    world, server = memory_world, MemoryCheckpointServer(memory_world.clock)
    world.identities["mute"] = world.authority.issue(
        "mute", world.clock, world.entropy, snapshots=False
    )
    mute = world.replica("mute", checkpoints=server.store())
    a = world.replica("a", "mute", checkpoints=server.store())
    async with running(mute):
        await write(mute, "one")
        async with running(a):
            await a.flush()
            await converged(mute, a)
            await mute.flush(Durability.CHECKPOINT, timeout=20)  # by whoever may
        infos = await server.store().newest()
        assert {info.replica for info in infos.values()} == {"a"}


async def test_snapshots_of_the_revoked_are_not_joined(memory_world: World) -> None:
    world = memory_world
    x, a = world.replica("x"), world.replica("a", "x")
    async with running(x, a):
        await write(x, "one")
        await converged(x, a)
        sealed = await x._check().committer.snapshot(x._check().editor.host("Note/1"))
        assert await a._check().joining.incoming(sealed, "x") is not None
        assert a._check().core.roll.adopt(next_roster(world, world.identity("x"))[1])
        assert await a._check().joining.incoming(sealed, "x") is None
        await eventually(lambda: linked(a) == set(), "and its link ends")
        assert world.probes["a"].latest["link.refused"]["reason"]


async def test_a_certificate_that_expires_while_linked_ends_the_link(memory_world: World) -> None:
    world = memory_world
    world.identities["brief"] = world.authority.issue(
        "brief", world.clock, world.entropy, lasts_ms=1_500
    )
    a, brief = world.replica("a"), world.replica("brief", "a")
    async with running(a, brief):
        await eventually(lambda: linked(a) == {"brief"}, "linked while it counts")
        await eventually(lambda: linked(a) == set(), "ended when it does not")
        await eventually(lambda: brief.health()[IDENTITY].state == "down", "and it knows")
        assert "expired on" in str(world.probes["a"].latest["link.refused"]["reason"])


async def test_a_successors_session_cannot_be_borrowed(memory_world: World) -> None:
    """Certificates of sessions are public: who shows one must be seen as its owner by TLS."""
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    old = world.authority.issue("b", world.clock, world.entropy)
    dial = world.transports["b"].dial

    async def dial_with_the_old_certificate(address: str) -> object:
        link = await dial(address)
        link.other.certificate = old.certificate  # type: ignore[attr-defined]
        return link

    world.transports["b"].dial = dial_with_the_old_certificate  # type: ignore[method-assign, assignment]
    async with running(a, b):
        await eventually(lambda: world.probes["a"].counts["link.refused"] > 1, "refused")
        assert "another certificate" in str(world.probes["a"].latest["link.refused"]["reason"])
        assert linked(a) == set()


async def told(replica: Replica, roster: Roster) -> None:
    """Wait until a replica has this roster and every key in it."""
    roll = replica._check().core.roll
    await eventually(lambda: roll.roster == roster, "the roster is here")
    await eventually(lambda: roll.missing == (), "the keys are here")


async def test_a_roster_and_its_key_reach_everybody(memory_world: World) -> None:
    world = memory_world
    names = ("a", "b", "c")
    a, b, c = (
        world.replica(name, *seeds) for name, seeds in zip(names, ((), "a", "b"), strict=True)
    )
    roster, blob = next_roster(world, key=KEY_2)
    async with running(a, b, c):
        await eventually(lambda: linked(b) == {"a", "c"}, "a chain")
        spread = a._check().roster
        link = a._check().exchange.links["b"]
        spread._news(link, RosterNews(blob))  # as if b were told first
        spread._keys(link, MeshKeys(((2, b"wrong" + bytes(27)), (3, KEY_2))))
        assert a._check().core.roll.missing == (2,), "only what the roster names is taken"
        assert a.health()[IDENTITY].state == "degraded"
        spread._keys(link, MeshKeys(((2, KEY_2),)))
        # b is told at the next link-up, and tells c.
        link.end("test")
        for replica in (b, c):
            await told(replica, roster)
        await write(a, "sealed with key 2")
        await converged(a, b, c)
        assert all(r._check().core.identity.mesh.key_id == 2 for r in (a, b, c))
        assert not c._check().core.roll.adopt(blob), "not newer"


async def test_a_frame_whose_key_is_not_here_waits_for_it(memory_world: World) -> None:
    world = memory_world
    a, b = world.replica("a"), world.replica("b")
    roster, blob = next_roster(world, key=KEY_2)
    async with running(a, b):
        core = a._check().core
        assert core.roll.adopt(blob)
        assert core.roll.take_key(2, KEY_2)
        await write(a, "later")
        host = a._check().editor.host("Note/1")
        (record,) = await core.environment.journal.frames(host.index, a.session, 0, 1, 8)
        ingest = b._check().exchange._ingest
        assert ingest.frame(record.data, "bus").reception is Reception.GAPPED
        assert ingest.frame(record.data, "bus").reception is Reception.GAPPED
        theirs = b._check().core
        assert len(theirs.roll.keyless) == 1
        assert theirs.roll.missing == (2,), "asked for, though no roster named it yet"
        assert world.probes["b"].counts["frame.refused"] == 0
        assert b.get(Note, "1") is None
        world.discoveries["b"].list.append("a")
        await eventually(lambda: same(a, b), "the key came, and the frame with it")
        assert len(theirs.roll.keyless) == 0
        assert theirs.roll.roster.version == roster.version


async def test_frames_that_wait_for_a_key_are_bounded(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.roll.MAX_KEYLESS", 3)
    world = memory_world
    a, b = world.replica("a"), world.replica("b")
    _, blob = next_roster(world, key=KEY_2)
    async with running(a, b):
        assert a._check().core.roll.adopt(blob)
        assert a._check().core.roll.take_key(2, KEY_2)
        await write(a, *range(10))
        index = a._check().editor.host("Note/1").index
        records = await a._check().core.environment.journal.frames(index, a.session, 0, 10, 16)
        assert len(records) == 10
        for record in records:
            b._check().exchange._ingest.frame(record.data, "bus")
        keyless = b._check().core.roll.keyless
        assert len(keyless) == 3
        assert keyless.holds(index, a.session, 10), "the newest stay"
        world.discoveries["b"].list.append("a")
        await converged(a, b)  # what was dropped comes by repair


async def test_a_forged_roster_changes_nothing_and_is_counted(memory_world: World) -> None:
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    stranger = dataclasses.replace(world.authority, key=world.identity("b").key)
    mesh = world.authority.mesh
    roster, _ = next_roster(world, world.identity("a"))
    async with running(a, b):
        await eventually(lambda: linked(a) == {"b"}, "linked")
        b._check().exchange.links["a"].send(RosterNews(sign_roster(mesh.id, stranger.key, roster)))
        await eventually(lambda: world.probes["a"].counts["roster.refused"] == 1, "refused")
        assert a._check().core.roll.roster.version == 0
        await write(a, "on")
        await converged(a, b)

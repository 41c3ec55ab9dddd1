"""A session with two histories: whoever has both in front of him says so, and accuses nobody else.

Each test begins with the two shortest histories there are: two frames of one name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from crdt.codec import encode_stamped
from crdt.operation import Operation, Transaction, encode_body
from crdt.paths import TypeCode, field_path
from mesh import Replica
from mesh import forks as forks_module
from mesh.forks import BREAK, TWIN, Fork
from mesh.health import DEGRADED, IDENTITY, OFF, OK
from mesh.ingest import Received, Reception
from persistence import journal as journal_module
from persistence.certificates import SessionKey
from persistence.frame import encode_frame, frame_hash, parse_frame
from persistence.identity import Identity
from persistence.roster import Revocation, first_roster, sign_roster
from persistence.sealing import Draft, Sealer
from tests.mesh.world import World, crash, eventually, running, write

TEXT = field_path("text", TypeCode.REGISTER)


class Session:
    """One that signs whatever it is told, as often as it is told to."""

    def __init__(self, identity: Identity, key: SessionKey) -> None:
        self.identity, self.key = identity, key

    def frame(
        self, text: str, first: int = 1, count: int = 1, previous: bytes | None = None
    ) -> bytes:
        """A frame of so many operations that follows the frame of this hash."""
        operation = Operation("Note/1", TEXT, encode_stamped(1, text), ())
        body = encode_body([Transaction("edit", "x", 1, "", (operation,) * count)])
        draft = Draft(0, first, first + count - 1, (), 1 << 16, previous, body)
        return Sealer(self.identity, self.key).seal([draft])[0]


def session_of(world: World, name: str) -> Session:
    identity = world.identity(name)
    return Session(identity, identity.new_session(world.clock, world.entropy))


class Reader:
    """A replica without others, and what it says."""

    def __init__(self, world: World, replica: Replica) -> None:
        self.world, self.replica = world, replica

    def take(self, raw: bytes, source: str = "somebody") -> Received:
        return self.replica._check().ingest.frame(raw, source)

    @property
    def alarms(self) -> int:
        return self.world.probes["a"].counts["frame.forked"]

    @property
    def alarm(self) -> dict[str, object]:
        return self.world.probes["a"].latest["frame.forked"]

    @property
    def forks(self) -> dict[str, Fork]:
        return self.replica._check().core.forks.found

    @property
    def accused(self) -> str:
        """What health says, if it accuses somebody."""
        part = self.replica.health()[IDENTITY]
        assert (part.state == DEGRADED) == bool(part.reason and part.cure), part
        return part.reason if part.state == DEGRADED else ""

    async def proof(self, liar: str = "liar") -> Fork:
        await eventually(lambda: not self.forks[liar].awaits, "looked up")
        return self.forks[liar]


@pytest.fixture
async def reader() -> AsyncIterator[Reader]:
    world = World(shards=1)
    replica = world.replica("a")
    async with running(replica):
        yield Reader(world, replica)


# ------------------------------------------------------------------ twins


async def test_a_second_frame_under_a_known_name_is_noticed_and_kept(reader: Reader) -> None:
    liar = session_of(reader.world, "liar")
    told, twin = liar.frame("one"), liar.frame("another")
    assert reader.take(told).reception is Reception.TAKEN
    before = reader.replica.digest()
    assert reader.take(twin, "b").reception is Reception.DUPLICATE
    assert reader.replica.digest() == before, "what was here stays"
    assert reader.alarm == {
        "peer": "b", "replica": "liar", "shard": 0, "session": liar.key.session, "first": 1,
        "reason": TWIN, "count": 1,
    }  # fmt: skip
    assert f"liar (session {liar.key.session})" in reader.accused
    assert "mesh revoke" in reader.replica.health()[IDENTITY].cure
    proof = await reader.proof()
    assert (proof.held, proof.frame, proof.proven) == (told, twin, True)
    opener = reader.replica._check().core.opener
    assert opener.verify(proof.held).header.session == opener.verify(twin).header.session


async def test_it_is_counted_however_often_it_comes_and_said_once(reader: Reader) -> None:
    liar = session_of(reader.world, "liar")
    told, twin = liar.frame("one"), liar.frame("another")
    for raw in (told, twin, told, twin, twin):
        reader.take(raw)
    assert reader.alarm["count"] == reader.alarms == 3
    assert reader.accused.count("liar") == 1
    assert (await reader.proof()).frame == twin


async def test_late_copies_are_no_news(reader: Reader) -> None:
    honest = session_of(reader.world, "honest")
    one = honest.frame("one")
    two = honest.frame("two", 2, previous=frame_hash(one))
    for raw in (two, one, one, two, one):
        reader.take(raw)
    await eventually(lambda: reader.replica.journaled()[0].get(honest.key.session) == 2, "on disk")
    assert (reader.alarms, reader.forks, reader.accused) == (0, {}, "")


async def test_the_same_frame_in_another_flush_is_the_same_frame(reader: Reader) -> None:
    honest = session_of(reader.world, "honest")
    raw = honest.frame("one")
    mesh = reader.world.authority.mesh
    frame = parse_frame(raw, mesh.id, mesh.shards)
    parts = (frame.header_bytes, frame.siblings, frame.signature, frame.certificate, frame.sealed)
    assert encode_frame(*parts) == raw
    signature = honest.key.sign(b"statemesh flush 1\0" + mesh.id + frame.siblings)
    reader.take(raw)
    again = encode_frame(*parts[:2], signature, *parts[3:])
    assert reader.take(again).reception is Reception.DUPLICATE
    assert reader.alarms == 0


async def test_what_was_damaged_on_its_way_accuses_nobody(reader: Reader) -> None:
    liar = session_of(reader.world, "liar")
    twin = liar.frame("another")
    reader.take(liar.frame("one"))
    for at in range(0, len(twin), 7):
        bent = bytes([*twin[:at], twin[at] ^ 1, *twin[at + 1 :]])
        assert reader.take(bent).reception is Reception.REFUSED
    assert (reader.alarms, reader.forks, reader.accused) == (0, {}, "")


async def test_what_another_signed_in_its_name_accuses_nobody(reader: Reader) -> None:
    honest, forger = session_of(reader.world, "honest"), session_of(reader.world, "forger")
    reader.take(honest.frame("one"))
    mesh = reader.world.authority.mesh
    twin = parse_frame(honest.frame("another"), mesh.id, mesh.shards)
    signature = forger.key.sign(b"statemesh flush 1\0" + mesh.id + twin.siblings)
    forged = encode_frame(
        twin.header_bytes, twin.siblings, signature, twin.certificate, twin.sealed
    )
    assert reader.take(forged).reception is Reception.REFUSED
    assert (reader.alarms, reader.forks, reader.accused) == (0, {}, "")


async def test_a_twin_of_a_frame_that_waits(reader: Reader) -> None:
    liar = session_of(reader.world, "liar")
    first = liar.frame("first")
    told = liar.frame("one", 2, previous=frame_hash(first))
    twin = liar.frame("another", 2, previous=frame_hash(first))
    reader.take(first)
    gap = liar.frame("late", 3, previous=frame_hash(told))
    late = liar.frame("later", 3, previous=frame_hash(told))
    assert reader.take(gap).reception is Reception.GAPPED
    assert reader.take(late).reception is Reception.DUPLICATE
    assert (reader.alarm["first"], reader.alarm["reason"]) == (3, TWIN)
    reader.take(twin)
    reader.take(told)
    assert (await reader.proof()).held == gap, "kept once it is on disk"


async def test_a_twin_that_is_longer_brings_its_end_and_is_noticed(reader: Reader) -> None:
    liar = session_of(reader.world, "liar")
    reader.take(liar.frame("one"))
    assert reader.take(liar.frame("another", count=3)).reception is Reception.TAKEN
    assert reader.alarm["reason"] == TWIN
    assert reader.replica.frontier()[0][liar.key.session] == 3


async def test_a_twin_of_an_own_frame(reader: Reader) -> None:
    """Whoever has our key and memory: each of us may be the copy."""
    await write(reader.replica, "one")
    core = reader.replica._check().core
    own = Session(core.identity, core.sealer._key)
    assert reader.take(own.frame("another")).reception is Reception.DUPLICATE
    assert reader.alarm["reason"] == TWIN
    assert f"a (session {core.session})" in reader.accused
    assert (await reader.proof("a")).held


async def test_after_a_restart_the_journal_still_knows() -> None:
    world = World(shards=1)
    replica = world.replica("a")
    liar = session_of(world, "liar")
    async with running(replica):
        Reader(world, replica).take(liar.frame("one"))
        await eventually(lambda: liar.key.session in replica.journaled()[0], "on disk")
        await crash(replica)
    again = world.replica("a")
    async with running(again):
        reader = Reader(world, again)
        assert reader.take(liar.frame("another")).reception is Reception.DUPLICATE
        assert reader.alarm["reason"] == TWIN
        assert (await reader.proof()).held


async def test_of_a_name_from_long_ago_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So much is remembered and no more; the oldest names go first."""
    monkeypatch.setattr(journal_module, "MAX_KNOWN_FRAMES", 2)
    world = World(shards=1)
    replica = world.replica("a")
    async with running(replica):
        reader, liar = Reader(world, replica), session_of(world, "liar")
        previous = b""
        for first in (1, 2, 3):
            raw = liar.frame("told", first, previous=previous)
            previous = frame_hash(raw)
            reader.take(raw)
        assert len(replica._check().core.forks._names) == 2
        reader.take(liar.frame("another", 3, previous=previous))
        assert reader.alarms == 1


# ------------------------------------------------------------------ breaks


async def test_a_frame_that_does_not_follow_is_named_once_both_are_at_hand(
    reader: Reader,
) -> None:
    liar = session_of(reader.world, "liar")
    told, twin = liar.frame("one"), liar.frame("another")
    reader.take(told)
    after = liar.frame("after the other", 2, previous=frame_hash(twin))
    assert reader.take(after).reception is Reception.TAKEN
    assert (reader.alarm["first"], reader.alarm["reason"]) == (2, BREAK)
    proof = await reader.proof()
    assert (proof.held, proof.frame, proof.proven) == (told, after, True)
    assert "liar" in reader.accused


async def test_who_gives_a_snapshot_can_accuse_nobody_of_a_break(reader: Reader) -> None:
    """Hashes in it are its giver's word. What does not follow them is said, and nobody named."""
    honest = session_of(reader.world, "honest")
    one = honest.frame("one")
    reader.take(one)
    host = reader.replica._check().core.hosts[0]
    await eventually(lambda: host.journaled.get(honest.key.session) == 1, "on disk")
    host.chain[honest.key.session] = b"\1" * 32
    reader.take(honest.frame("two", 2, previous=frame_hash(one)))
    assert reader.alarm["reason"] == BREAK
    assert not (await reader.proof("honest")).proven
    assert reader.accused == ""


async def test_a_suspicion_gives_way_to_a_proof(reader: Reader) -> None:
    liar = session_of(reader.world, "liar")
    told = liar.frame("one")
    reader.take(told)
    host = reader.replica._check().core.hosts[0]
    host.chain[liar.key.session] = b"\1" * 32
    reader.take(liar.frame("two", 2, previous=frame_hash(told)))
    assert not (await reader.proof()).proven
    reader.take(liar.frame("another", 2, previous=frame_hash(told)))
    assert reader.forks["liar"].proven
    assert reader.forks["liar"].reason == TWIN


# ------------------------------------------------------------------ what comes of it


async def test_what_the_session_writes_still_counts(reader: Reader) -> None:
    """Replicas that have not heard of it would take it, and others rest on it."""
    liar = session_of(reader.world, "liar")
    told = liar.frame("one")
    reader.take(told)
    reader.take(liar.frame("another"))
    assert reader.take(liar.frame("two", 2, previous=frame_hash(told))).reception is Reception.TAKEN


async def test_once_it_is_revoked_nobody_need_do_anything(reader: Reader) -> None:
    liar = session_of(reader.world, "liar")
    reader.take(liar.frame("one"))
    reader.take(liar.frame("another"))
    assert "liar" in reader.accused
    mesh, core = reader.world.authority.mesh, reader.replica._check().core
    gone = Revocation(liar.identity.certified.serial, "liar", reader.world.clock.wall_ms())
    roster = first_roster(mesh).revoking(gone, 1)
    core.roll.adopt(sign_roster(mesh.id, reader.world.authority.key, roster))
    await eventually(lambda: reader.accused == "", "taken back")
    assert reader.replica.health()[IDENTITY].state in (OK, OFF)


async def test_what_is_kept_is_bounded(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks_module, "MAX_REPLICAS", 2)
    long = "x" * 1000
    monkeypatch.setattr(forks_module, "MAX_KEPT_BYTES", 1000)
    for number in range(3):
        liar = session_of(reader.world, f"liar-{number}")
        reader.take(liar.frame(f"{long}{number}"))
        reader.take(liar.frame(f"{number}{long}"))
        reader.take(liar.frame(f"{number}{number}{long}"))
    assert set(reader.forks) == {"liar-0", "liar-1"}
    assert reader.alarms == 6, "said all the same"
    for name in ("liar-0", "liar-1"):
        await reader.proof(name)
        assert name in reader.accused
    kept = sum(len(one.frame) + len(one.held) for one in reader.forks.values())
    assert kept <= 1000


# ------------------------------------------------------------------ nobody had both


async def test_who_was_told_the_one_and_who_was_told_the_other_find_out() -> None:
    """Their frontiers are equal and their digests not, so one joins the other's shard; it finds
    whose last frame is another one there, and has it shown.
    """
    world = World(shards=1)
    liar = session_of(world, "liar")
    a, b = world.replica("a", "b"), world.replica("b", "a")
    world.identity("a"), world.identity("b")
    world.isolate("a")
    told, twin = liar.frame("one"), liar.frame("another")
    async with running(a, b):
        Reader(world, a).take(told)
        Reader(world, b).take(twin)
        for one in (a, b):
            await eventually(lambda: liar.key.session in one.journaled()[0], "on disk")  # noqa: B023
        world.network.heal()

        def said() -> bool:
            return any(probe.counts["frame.forked"] for probe in world.probes.values())

        await eventually(said, "one of them says so")
        await eventually(lambda: a.digest() == b.digest(), "they agree")
        for name in ("a", "b"):
            if alarm := world.probes[name].latest.get("frame.forked"):
                assert (alarm["replica"], alarm["reason"]) == ("liar", TWIN)


async def test_of_a_session_that_both_know_alike_nothing_is_asked() -> None:
    world = World(shards=1)
    honest, liar = session_of(world, "honest"), session_of(world, "liar")
    a, b = world.replica("a"), world.replica("b")
    async with running(a, b):
        one = honest.frame("one")
        for replica, raw in ((a, liar.frame("one")), (b, liar.frame("another"))):
            reader = Reader(world, replica)
            reader.take(one)
            reader.take(raw)
            await eventually(lambda: len(replica.journaled()[0]) == 2, "on disk")  # noqa: B023
        host = a._check().core.hosts[0]
        theirs = b._check().core.hosts[0]
        snapshot = theirs.lattice.snapshot()
        assert host.parted(snapshot, theirs.chain) == [(liar.key.session, 1)]
        assert host.parted(snapshot, {honest.key.session: frame_hash(one)}) == []
        assert host.parted(host.lattice.snapshot(), host.chain) == []

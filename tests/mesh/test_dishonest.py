"""Writers whose frames say less of their past than their removals do: every replica comes to the
same state all the same, and what can never be applied holds up nobody else.
"""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import Sequence
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt import (
    Counter,
    Document,
    Feed,
    Flag,
    Keep,
    Map,
    Maximum,
    MultiValue,
    Register,
    RemoveWins,
    Set,
)
from crdt.codec import encode_stamped
from crdt.lattice import Shard
from crdt.limits import MAX_BODY_SESSIONS, MAX_SEQ
from crdt.operation import Operation, Removal, Transaction, encode_body
from crdt.paths import TypeCode, field_path
from mesh.core import Core
from mesh.ingest import Ingest, Received, Reception
from mesh.outbox import MAX_TARGET_BYTES
from mesh.recovery import open_core
from mesh.settings import Settings
from persistence.base import FrameRecord
from persistence.frame import Header
from persistence.journal import apply_frame, claims, read_transactions
from persistence.sealing import Draft, Sealer
from simulations.sites import Site
from tests.mesh.world import World, eventually, running
from tests.persistence.world import make_opener

DOCUMENT = "Note/n"
TEXT = field_path("text", TypeCode.REGISTER)


class Thing(Document):
    """Everything of which something can be removed."""

    title: Register[str]
    tags: MultiValue[str]
    done: Flag
    effort: Counter
    best: Maximum[int]
    labels: Set[str]
    banned: Annotated[Set[str], RemoveWins()]
    log: Annotated[Feed[str], Keep(2)]
    children: Map[str, Map[str, Counter]]


class Lost(Document, on_delete="gone"):
    """One that is deleted for good."""

    labels: Set[str]


class Author:
    """A session that writes frames by hand; what it has heard it may leave out of their deps."""

    def __init__(self, world: World, name: str) -> None:
        identity = world.identity(name)
        self.sealer = Sealer(identity, identity.new_session(world.clock, world.entropy))
        self.site = Site(1)
        self.site.session = self.sealer.session
        self.site.shard = Shard(world.authority.mesh.digest_key)
        self.framed = 0
        self.opener = make_opener(world.authority)

    @property
    def session(self) -> int:
        return self.sealer.session

    def edit(self, rng: random.Random) -> None:
        """One edit of any kind, made honestly on what was heard so far."""
        if rng.random() < 0.1:
            self.site.delete(rng.choice((Thing, Lost)))
            return
        if rng.random() < 0.1:
            with self.site.edit(Lost) as lost:
                (lost.labels.add if rng.random() < 0.5 else lost.labels.discard)(rng.choice("ab"))
            return
        with self.site.edit(Thing) as thing:
            change(thing, rng)

    def frame(self, transactions: Sequence[Transaction], honest: bool = True) -> bytes:
        """Seal what was written; unless `honest`, as if nothing had been seen."""
        shard, session = self.site.shard, self.session
        first = self.framed + 1
        last = self.framed = self.framed + sum(len(each.operations) for each in transactions)
        deps = [dot for dot in sorted(shard.heads.items()) if dot[0] != session] if honest else []
        if shard.frontier.get(session, 0) < last:  # not written through the site
            shard.use_up(session, first, last)
        shard.frame_applied(session, first, last, deps)
        draft = Draft(0, first, last, deps, first << 16, None, encode_body(transactions))
        return self.sealer.seal([draft])[0]

    def written(self, honest: bool) -> bytes | None:
        """All that `edit` wrote, as a frame."""
        transactions, self.site.written = self.site.written, []
        return self.frame(transactions, honest) if transactions else None

    def hear(self, raw: bytes) -> None:
        """Apply another's frame; they come in causal order."""
        opened = self.opener.unseal(raw)
        transactions = read_transactions(opened.header, opened.body)
        apply_frame(self.site.shard, opened.header, transactions)


def change(thing: Thing, rng: random.Random) -> None:
    name = rng.choice("ab")
    match rng.randrange(11):
        case 0:
            thing.title = name
        case 1:
            thing.tags = name
        case 2:
            del thing.tags
        case 3:
            thing.done = rng.random() < 0.5
        case 4:
            thing.effort += 1
        case 5:
            thing.best = rng.randrange(9)
        case 6:
            (thing.labels.add if rng.random() < 0.5 else thing.labels.discard)(name)
        case 7:
            (thing.banned.add if rng.random() < 0.5 else thing.banned.discard)(name)
        case 8:
            thing.log.append(name)
        case 9:
            thing.children[name]["x"] += 1
        case _:
            thing.children.discard(name)


def put(text: str, *seen: tuple[int, int], payload: bool = True) -> Transaction:
    """A register is written, or only removed, by somebody who says to have seen these."""
    removals = (Removal(TEXT, False, tuple(sorted(seen))),) if seen else ()
    value = encode_stamped(1, text) if payload else None
    return Transaction("edit", "x", 1, "", (Operation(DOCUMENT, TEXT, value, removals),))


class Kept:
    """Who would bring applied frames to disk."""

    def __init__(self) -> None:
        self.records: list[FrameRecord] = []

    def received(self, record: FrameRecord) -> None:
        self.records.append(record)


class Reader:
    """A replica's way in, from bytes to lattice, without its loops."""

    def __init__(self, core: Core) -> None:
        self.core, self.kept = core, Kept()
        self.host = core.hosts[0]
        self.ingest = Ingest(core, self.kept)

    def take(self, raw: bytes) -> Received:
        return self.ingest.frame(raw, "somebody")

    @property
    def state(self) -> tuple[bytes, dict[int, int]]:
        return self.host.lattice.digest(), self.host.lattice.frontier


async def readers(world: World, count: int, **overrides: Any) -> list[Reader]:
    found = []
    for number in range(count):
        name = f"reader-{number}"
        environment = world.replica(name)._environment
        configured = Settings().override(**overrides)
        core, _ = await open_core(configured, environment, world.identity(name))
        found.append(Reader(core))
    return found


async def test_a_removal_waits_for_what_it_claims_to_have_seen() -> None:
    world = World(shards=1)
    first, second = await readers(world, 2)
    honest, liar = Author(world, "honest"), Author(world, "liar")
    add = honest.frame([put("added")])
    removal = liar.frame([put("", (honest.session, 1), payload=False)], honest=False)
    assert first.take(add).reception is Reception.TAKEN
    assert first.take(removal).reception is Reception.TAKEN
    assert second.take(removal).reception is Reception.GAPPED
    assert second.take(removal).reception is Reception.DUPLICATE
    assert second.host.inbox.missing({}, second.core.now()) == {honest.session: (0, 1, "somebody")}
    assert second.take(add).reception is Reception.TAKEN
    assert first.state == second.state
    assert not first.host.lattice.exists(DOCUMENT)


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_order_of_honest_and_dishonest_frames_gives_one_state(seed: int) -> None:
    """Frames of edits of every type with removals, some of them without their deps."""
    rng = random.Random(seed)

    async def play() -> None:
        world = World(shards=1, seed=seed)
        authors = [Author(world, f"author-{number}") for number in range(3)]
        history: list[bytes] = []
        heard = [0] * len(authors)
        liars = rng.randrange(1, len(authors) + 1)
        for _ in range(rng.randrange(4, 24)):
            at = rng.randrange(len(authors))
            author = authors[at]
            upto = rng.randrange(heard[at], len(history) + 1)
            for raw in history[heard[at] : upto]:
                author.hear(raw)
            heard[at] = upto
            for _ in range(rng.randrange(1, 3)):
                author.edit(rng)
            written = author.written(honest=at >= liars or rng.random() < 0.5)
            history += [written] if written else []
        found = await readers(world, 3)
        for reader in found:
            order = history + rng.sample(history, len(history) // 2)
            rng.shuffle(order)
            # The certificate comes with the first frame of a session.
            for author in authors:
                reader.ingest.certificate(author.sealer.certificate, "somebody")
            for raw in order:
                reader.take(raw)
            assert reader.host.inbox.frames == 0
        assert all(reader.state == found[0].state for reader in found)
        for author in authors:
            for raw in history:
                author.hear(raw)
            assert author.site.shard.digest() == found[0].state[0]

    asyncio.run(play())


async def test_a_claim_of_what_never_existed_holds_up_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mesh.ingest.STUCK_S", 0.05)
    world = World(shards=1)
    a, b = world.replica("a"), world.replica("b", "a")
    honest, liar = Author(world, "honest"), Author(world, "liar")
    async with running(a, b):
        ingest = a._check().exchange._ingest
        inbox = a._check().core.hosts[0].inbox
        ingest.frame(liar.frame([put("lie", (honest.session, MAX_SEQ))], honest=False), "b")
        ingest.frame(liar.frame([put("behind it")], honest=False), "b")
        ingest.frame(honest.frame([put("true")]), "b")
        assert a.frontier()[0].keys() >= {honest.session}
        await eventually(lambda: a.health()["peers"].state == "degraded", "named")
        reason = a.health()["peers"].reason
        assert f"session {liar.session}" in reason
        assert f"seq {MAX_SEQ} of session {honest.session}" in reason
        assert a.status()["waiting_frames"] == inbox.frames == 2
        assert world.probes["a"].latest["frame.stuck"]["session"] == liar.session
        with b.edit(Thing, "1") as thing:
            thing.title = "b goes on"
        await eventually(lambda: b.frontier()[0][b.session] == a.frontier()[0].get(b.session))
        assert world.probes["a"].counts["frame.stuck"] == 1


async def test_health_takes_it_back_once_what_was_claimed_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mesh.ingest.STUCK_S", 0.05)
    world = World(shards=1)
    a, b = world.replica("a"), world.replica("b", "a")
    honest, liar = Author(world, "honest"), Author(world, "liar")
    async with running(a, b):
        ingest = a._check().exchange._ingest
        ingest.frame(liar.frame([put("early", (honest.session, 1))], honest=False), "b")
        await eventually(lambda: a.health()["peers"].state == "degraded", "named")
        ingest.frame(honest.frame([put("late")]), "b")
        await eventually(lambda: a.health()["peers"].state == "ok", "taken back")


async def test_repair_asks_for_what_is_claimed(memory_world: World) -> None:
    """What a removal claims is with another replica: it is asked for, and all agree."""
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    honest, liar = Author(world, "honest"), Author(world, "liar")
    add = honest.frame([put("added")])
    lie = liar.frame([put("", (honest.session, 1), payload=False)], honest=False)
    async with running(a, b):
        b._check().exchange._ingest.frame(add, "nobody")
        a._check().exchange._ingest.frame(lie, "b")
        b._check().exchange._ingest.frame(lie, "nobody")
        await eventually(lambda: a.frontier() == b.frontier() and liar.session in a.frontier()[0])
        assert a.digest() == b.digest()


async def test_a_journal_is_read_back_as_it_was_applied(world: World) -> None:
    """Frames without their deps, replayed: the order of the journal is the order of applying."""
    honest, liar = Author(world, "honest"), Author(world, "liar")
    a = world.replica("a")
    async with running(a):
        ingest = a._check().exchange._ingest
        ingest.frame(liar.frame([put("", (honest.session, 2), payload=False)], honest=False), "x")
        ingest.frame(honest.frame([put("one")]), "x")
        assert liar.session not in a.frontier()[0]
        ingest.frame(honest.frame([put("two")]), "x")
        assert a.frontier()[0][liar.session] == 1
        await a.flush()
        digest = a.digest()
    await world.reopen("a")
    again = world.replica("a")
    async with running(again):
        assert again.digest() == digest


async def test_what_a_snapshot_brought_counts_as_seen() -> None:
    world = World(shards=1)
    behind, ahead = await readers(world, 2)
    honest, liar = Author(world, "honest"), Author(world, "liar")
    frames = [honest.frame([put(text)]) for text in ("one", "two")]
    lie = liar.frame([put("", (honest.session, 2), payload=False), put("more")], honest=False)
    for raw in frames:
        ahead.take(raw)
    assert behind.take(lie).reception is Reception.GAPPED
    behind.host.join(ahead.host.lattice.snapshot(), ahead.host.chain)
    behind.host.inbox.rescan()
    behind.ingest.pump(behind.host)
    ahead.take(lie)
    assert behind.state == ahead.state
    assert behind.host.inbox.frames == behind.host.inbox.bytes == 0


def test_claims_are_what_deps_and_the_own_session_leave_over() -> None:
    header = Header(1, b"", 0, 7, 3, 4, ((1, 5), (2, 2)), 0, 0, 0, b"", {})
    seen = ((1, 5), (2, 3), (7, 9))
    transactions = [put("x", *seen), put("y", (2, 2), (3, 1)), put("z", (3, 4))]
    assert claims(header, transactions) == ((2, 3), (3, 4))
    assert claims(header, None) == ()


async def test_a_frame_that_names_too_many_sessions_is_void_everywhere() -> None:
    """No honest writer can: a transaction's bytes bound what it can name."""
    assert MAX_BODY_SESSIONS * 20 > MAX_TARGET_BYTES
    world = World(shards=1)
    (reader,) = await readers(world, 1)
    liar = Author(world, "liar")
    seen = [(session, 1) for session in range(1, MAX_BODY_SESSIONS + 2)]
    assert reader.take(liar.frame([put("", *seen)], honest=False)).reception is Reception.TAKEN
    assert not reader.host.lattice.exists(DOCUMENT)
    assert reader.host.lattice.frontier == {liar.session: 1}
    # As many as there may be are waited for, and count for the bytes that wait.
    assert reader.take(liar.frame([put("", *seen[1:])], honest=False)).reception is Reception.GAPPED
    assert reader.host.inbox.frames == 1
    assert reader.host.inbox.bytes > 100 * MAX_BODY_SESSIONS


async def test_claims_count_for_the_memory_that_waiting_frames_may_take() -> None:
    world = World(shards=1)
    (reader,) = await readers(world, 1, replica__inbox_bytes_max=8 << 20)
    liars = [Author(world, f"liar-{number}") for number in range(8)]
    seen = [(session, 1) for session in range(1, 20_000)]
    for liar in liars:
        reader.take(liar.frame([put("", *seen)], honest=False))
    assert 0 < reader.host.inbox.frames < len(liars)


async def test_frames_that_wait_take_no_more_memory_than_they_count_for() -> None:
    """What compresses well comes as a few bytes and is a lot once it is opened."""
    world = World(shards=1)
    (reader,) = await readers(world, 1)
    liar = Author(world, "liar")
    reader.core.trust.learn(liar.sealer.certificate)
    frames = [liar.frame([put("x" * 900_000)]) for _ in range(33)]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for raw in frames[1:]:
        assert reader.take(raw).reception is Reception.GAPPED
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    inbox = reader.host.inbox
    assert inbox.frames == 32
    assert held < inbox.bytes + (1 << 20), f"{held} bytes held, {inbox.bytes} counted"
    # And nothing of what was written is lost for that.
    reader.take(frames[0])
    assert reader.host.lattice.frontier == {liar.session: 33}
    assert inbox.bytes == 0


async def test_deps_count_for_the_memory_that_waiting_frames_may_take() -> None:
    world = World(shards=1)
    (reader,) = await readers(world, 1)
    author = Author(world, "author")
    author.site.shard.heads.update((session, 1) for session in range(1, 1_001))
    raw = author.frame([put("x")])
    assert reader.take(raw).reception is Reception.GAPPED
    assert reader.host.inbox.bytes > len(raw) + 100 * 1_000

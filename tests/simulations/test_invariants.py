"""Invariants of running worlds report what they are there for, and nothing that is excused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from crdt.ids import shard_of
from mesh.dissemination import MAX_CONTROL_BYTES, MAX_CONTROL_MESSAGES
from mesh.forks import TWIN
from mesh.lifecycle import Lifecycle
from persistence.base import FrameRecord
from persistence.limits import MAX_FRAME_BYTES
from simulations.agents.writers import Promises
from simulations.faults.kinds import KINDS
from simulations.invariants.base import Checker, Spoiled
from simulations.invariants.lies import LiesNamed, overheard
from simulations.invariants.replicas import (
    BoundedMemory,
    NothingRefused,
    OfHistory,
    StrongConvergence,
    UniqueIds,
)
from simulations.judges.base import Judge
from simulations.judges.history import History, Read
from simulations.world import World
from tests.mesh.test_forks import Session

SHARDS = 4
SPOILS = KINDS["equivocation"].breaks


def in_world(act: Callable[[World], None], replicas: int = 2) -> None:
    """Do this where replicas run and are linked."""

    async def scenario(world: World) -> None:
        for host in world.hosts.values():
            host.start()
        await asyncio.sleep(2.0)
        act(world)

    World(1, replicas, shards=SHARDS).run(scenario)


def life(world: World, name: str = "replica-1") -> Lifecycle:
    replica = world.hosts[name].replica
    assert replica is not None
    return replica._started()


# ------------------------------------------------------------------ memory


def too_many_frames(one: Lifecycle) -> None:
    one.core.hosts[0].inbox.frames = 1 << 20


def too_many_bytes(one: Lifecycle) -> None:
    one.core.hosts[0].inbox.frames = 1
    one.core.hosts[0].inbox.bytes = 1 << 40


def too_much_to_send(one: Lifecycle) -> None:
    link = next(iter(one.exchange.links.values()))
    buffer = one.core.settings.peers.send_buffer_bytes
    link.queue._add(True, bytes(4 * buffer + MAX_FRAME_BYTES + 1))


def too_many_messages(one: Lifecycle) -> None:
    link = next(iter(one.exchange.links.values()))
    for _ in range(MAX_CONTROL_MESSAGES + 1):
        link.queue._control += 1
        link.queue._control_bytes += 1
        link.queue._add(False, b"m")


def too_long_messages(one: Lifecycle) -> None:
    link = next(iter(one.exchange.links.values()))
    message = bytes(MAX_CONTROL_BYTES + 1)
    link.queue._control += 1
    link.queue._control_bytes += len(message)
    link.queue._add(False, message)


def too_much_owed(one: Lifecycle) -> None:
    one.committer.outbox_bytes = 1 << 40


@pytest.mark.parametrize(
    ("overfill", "what"),
    [
        (too_many_frames, "frames in the inbox of shard 0"),
        (too_many_bytes, "bytes in the inbox of shard 0"),
        (too_much_to_send, "bytes of frames in the queue to replica-2"),
        (too_many_messages, f"messages in the queue to replica-2, at most {MAX_CONTROL_MESSAGES}"),
        (too_long_messages, "bytes of messages in the queue to replica-2"),
        (too_much_owed, "bytes owed to the journal"),
    ],
)
def test_a_queue_over_its_bound_is_a_violation(
    overfill: Callable[[Lifecycle], None], what: str
) -> None:
    def act(world: World) -> None:
        checker = BoundedMemory(world)
        checker.look()
        assert checker.violations == []
        overfill(life(world))
        checker.look()
        assert [one.invariant for one in checker.violations] == ["BoundedMemory"]
        assert what in checker.violations[0].message
        assert checker.violations[0].message.startswith("replica-1: ")

    in_world(act)


# ------------------------------------------------------------------ lies


def twins(world: World) -> tuple[int, bytes, bytes]:
    """A session of replica-2's, and two frames of it under one name."""
    core = life(world, "replica-2").core
    identity, entropy = core.identity, core.environment.entropy
    liar = Session(identity, identity.new_session(world.true_clock, entropy))
    return liar.key.session, liar.frame("one"), liar.frame("another")


@pytest.mark.parametrize("noticed", [True, False])
def test_who_is_sent_two_frames_of_a_name_must_say_so(
    noticed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(world: World) -> None:
        checker = LiesNamed(world)
        world.listeners.append(checker.event)
        session, told, twin = twins(world)
        world.happened("replica-2", "equivocated", {"shard": 0, "session": session, "first": 1})
        one = life(world)
        if not noticed:
            monkeypatch.setattr(one.core.forks, "meet", lambda *_: None)
        with overheard([checker.heard]):
            for raw in (told, told, twin, twin):
                one.ingest.frame(raw, "replica-2")
            one.ingest.frame(twin[:-1] + b"x", "replica-2")
        checker.end([])
        said = [each.message for each in checker.violations]
        if noticed:
            assert said == []
            return
        assert f"replica-1 was sent two frames of session {session}" in said[0]
        assert "replica-1 has proof against replica-2" in said[-1]

    in_world(act)


def test_saying_it_of_another_name_is_not_enough() -> None:
    def act(world: World) -> None:
        checker = LiesNamed(world)
        session, told, twin = twins(world)
        opener = life(world).core.opener
        header = opener.header(told)
        fields = {"shard": 0, "session": session, "first": 2, "reason": TWIN}
        checker.event("replica-1", "frame.forked", fields)
        checker.heard("replica-1", 1, header, told)
        checker.heard("replica-1", 2, header, twin)
        assert checker.violations == [], "another run of the program has not seen the first"
        checker.heard("replica-1", 1, header, twin)
        assert len(checker.violations) == 1

    in_world(act)


# ------------------------------------------------------------------ where somebody lied


def spoiling(world: World, checker: Checker, shard: int) -> Checker:
    checker.tolerated = SPOILS
    checker.spoiled.event("replica-1", "equivocated", {"shard": shard, "session": 7, "first": 1})
    return checker


def document_in(shard: int) -> str:
    return next(
        name for name in map("Ledger/{}".format, range(99)) if shard_of(name, SHARDS) == shard
    )


@pytest.mark.parametrize(("kind", "fields"), [
    ("digest.mismatch", {}), ("frame.forked", {}), ("frame.void", {}), ("lattice.conflict", {}),
])  # fmt: skip
def test_alarms_are_excused_in_that_shard_alone(kind: str, fields: dict[str, object]) -> None:
    def act(world: World) -> None:
        checker = spoiling(world, NothingRefused(world), 2)
        for shard in (2, 1):
            where: dict[str, object] = {"shard": shard}
            if kind == "lattice.conflict":
                where = {"document": document_in(shard)}
            checker.event("replica-1", kind, fields | where)
            assert len(checker.violations) == (shard == 1)

    in_world(act)


def test_two_frames_of_a_name_and_two_states_are_wrong_elsewhere() -> None:
    def act(world: World) -> None:
        unique = spoiling(world, UniqueIds(world), 2)
        states = spoiling(world, StrongConvergence(world), 2)
        host = world.hosts["replica-1"]
        for shard in (2, 1):
            for data in (b"one", b"another"):
                unique.journaled(host, [FrameRecord(shard, 7, 1, 1, False, data)])
            assert len(unique.violations) == (shard == 1)
            lattice = life(world).core.hosts[shard].lattice
            lattice.digest = lambda: b"another"  # type: ignore[method-assign]
            states.look()
            assert len(states.violations) == (shard == 1)

    in_world(act)


class Recorded(Judge):
    """Tells what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.documents: list[str] = []

    def judge(self, history: History) -> list[str]:
        self.documents = history.documents()
        return []


def test_of_a_history_what_was_done_elsewhere_is_judged() -> None:
    def act(world: World) -> None:
        promises = Promises()
        for shard in range(SHARDS):
            promises.history.read(Read("x", document_in(shard), {}))
        judge = Recorded()
        spoiling(world, OfHistory(world, promises, judge), 2).end([])
        assert judge.documents == sorted(document_in(shard) for shard in (0, 1, 3))
        OfHistory(world, promises, judge).end([])
        assert len(judge.documents) == SHARDS, "in a world where nobody can lie, all"

    in_world(act)


def test_a_rotten_value_spoils_the_shard_of_its_document() -> None:
    spoiled = Spoiled(SHARDS)
    spoiled.event("replica-1", "memory.rotten", {"document": document_in(3), "session": 1})
    spoiled.event("replica-1", "frame.dropped", {"shard": 1})
    assert spoiled.shards == {3}

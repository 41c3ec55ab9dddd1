"""Replicas that are linked, however, come to have the same state; whatever was cut, lost or
corrupted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from crdt.operation import Operation
from mesh import Durability, Replica
from mesh.fetching import PAUSE_FIRST_S
from mesh.links import LinkTimes, PeerLink
from mesh.serving import Serving
from mesh.shards import ShardHost, TakenSnapshot
from mesh.wire import WantRest, WantSnapshot
from tests.mesh.world import Note, Task, World, converged, eventually, running, same


def scribble(replica: Replica, rng: random.Random, count: int) -> None:
    """Edits of every kind, on few documents, so that replicas meet."""
    for _ in range(count):
        with replica.edit(Task, str(rng.randrange(12))) as task:
            match rng.randrange(8):
                case 0:
                    task.title = f"{replica.name} {rng.random()}"
                case 1:
                    task.effort += rng.randrange(1, 5)
                case 2:
                    task.labels.add(str(rng.randrange(6)))
                case 3:
                    task.labels.discard(str(rng.randrange(6)))
                case 4:
                    task.done = rng.random() < 0.5
                case 5:
                    task.log.append(f"{replica.name} was here")
                case 6:
                    task.notes.append(f"{replica.name} ")
                case _:
                    task.findings[str(rng.randrange(4))] = {"by": replica.name}


async def test_two_replicas_converge(world: World) -> None:
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a, b):
        with a.edit(Task, "42") as task:
            task.title = "from a"
            task.effort += 3
            task.notes.append("both of us ")
        with b.edit(Task, "42") as task:
            task.labels.add("b")
            task.effort += 4
            task.notes.append("wrote this ")
        await converged(a, b)
        for replica in (a, b):
            view = replica.get(Task, "42")
            assert view is not None
            assert (view.title, view.effort, set(view.labels)) == ("from a", 7, {"b"})
            assert sorted(str(view.notes).split()) == ["both", "of", "this", "us", "wrote"]


@pytest.mark.parametrize("topology", ["full", "line", "star"])
async def test_five_replicas_converge(memory_world: World, topology: str) -> None:
    names = ["r0", "r1", "r2", "r3", "r4"]
    replicas = []
    for at, name in enumerate(names):
        seeds = {"full": names[:at], "line": names[:at][-1:], "star": names[:at][:1]}[topology]
        replicas.append(memory_world.replica(name, *seeds))
    rng = random.Random(topology)
    async with running(*replicas):
        for _ in range(20):
            for replica in replicas:
                scribble(replica, rng, 5)
            await asyncio.sleep(0)
        await converged(*replicas)
        assert all(len(list(replica.documents(Task))) == 12 for replica in replicas)


async def test_a_partition_heals(world: World) -> None:
    a, b, c = world.replica("a"), world.replica("b", "a"), world.replica("c", "a", "b")
    rng = random.Random(3)
    async with running(a, b, c):
        await eventually(lambda: all(len(r.peers()) == 2 for r in (a, b, c)), "all are linked")
        world.isolate("c")
        await eventually(lambda: not any(peer.connected for peer in c.peers()), "c is alone")
        assert c.health()["peers"].state == "degraded"
        for replica in (a, b, c):
            scribble(replica, rng, 200)
            await replica.flush()
        await converged(a, b)
        assert c.frontier() != a.frontier()
        world.network.heal()
        await converged(a, b, c)
        assert c.health()["peers"].state == "ok"
        await eventually(
            lambda: all(lag.lacks == lag.ahead == 0 for r in (a, b, c) for lag in r.lag().values()),
            "nobody lacks anything",
        )


async def test_a_lost_folder_is_recovered_from_peers_under_a_new_session(world: World) -> None:
    a = world.replica("a")
    async with running(a):
        b = world.replica("b", "a")
        async with running(b):
            with b.edit(Task, "1") as task:
                task.title = "written by b before its disk died"
                task.effort += 2
            await b.flush(Durability.PEERS(1), timeout=10)
            before = b.session
        await world.forget("b")
        again = world.replica("b", "a")
        async with running(again):
            assert again.session != before
            assert again.get(Task, "1") is None or again.frontier() == a.frontier()
            await converged(a, again)
            with again.edit(Task, "1") as task:
                task.effort += 1
            await again.flush(Durability.PEERS(1), timeout=10)
            view = a.get(Task, "1")
            assert view is not None
            assert (view.title, view.effort) == ("written by b before its disk died", 3)


async def test_pruned_frames_are_replaced_by_a_snapshot(world: World) -> None:
    a = world.replica("a", replica__snapshot_every_frames=10)
    async with running(a):
        for number in range(120):
            with a.edit(Note, "{one}/" + str(number % 7)) as note:
                note.text = f"version {number}"
            await a.flush()
        await eventually(lambda: world.probes["a"].counts["journal.pruned"] > 0, "pruned")
        b = world.replica("b", "a")
        async with running(b):
            await converged(a, b)
            assert world.probes["b"].counts["snapshot.joined"] > 0
            # What came as a snapshot is on b's disk too, and survives a restart.
            await b.flush()
        await world.reopen("b")
        world.network.cut("a", "b")
        again = world.replica("b")
        async with running(again):
            assert again.digest() == a.digest()


async def test_equal_frontiers_with_unequal_digests_are_joined_in_full(memory_world: World) -> None:
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a, b):
        for replica in (a, b):
            scribble(replica, random.Random(5), 30)
        with a.edit(Note, "victim") as note:
            note.text = "kept"
        await converged(a, b)
        # A bit of b's memory flips: an entry of the same dot with another payload.
        host = b._check().editor.host("Note/victim")
        ((path, ((session, seq, payload),)),) = list(host.lattice.under("Note/victim", b""))
        host.lattice.apply(session, seq, Operation("Note/victim", path, payload[:-1] + b"z", ()))
        host._changed = True
        assert a.digest() != b.digest()
        await eventually(lambda: a.digest() == b.digest(), "digests are equal again")
        assert (
            world.probes["a"].counts["digest.mismatch"]
            + world.probes["b"].counts["digest.mismatch"]
        )
        assert world.probes["a"].counts["lattice.conflict"] > 0
        view = a.get(Note, "victim")
        assert view is not None
        assert view.text == "kepz"


async def test_both_dial_and_one_link_stays(memory_world: World) -> None:
    world = memory_world
    a, b = world.replica("a", "b"), world.replica("b", "a")
    async with running(a, b):
        await eventually(
            lambda: bool(a._check().exchange.links and b._check().exchange.links), "linked"
        )
        scribble(a, random.Random(1), 20)
        await converged(a, b)
        await eventually(
            lambda: len(list(world.transports["a"].links)) == 1,
            "one link",
        )
        assert a._check().exchange.links["b"].initiated
        assert not b._check().exchange.links["a"].initiated


async def test_a_replica_does_not_link_to_itself(memory_world: World) -> None:
    a = memory_world.replica("a", "elsewhere")
    alias = memory_world.network.transport("a", "elsewhere")
    async with running(a):
        # As where a port is forwarded to this replica's own.
        await alias.listen(a._check().dialler._accept)
        await eventually(lambda: memory_world.probes["a"].counts["link.refused"] > 0, "refused")
        assert "this replica itself" in str(memory_world.probes["a"].latest["link.refused"])
        assert a.peers() == []
    await alias.close()


async def test_a_silent_peer_is_given_up(memory_world: World) -> None:
    world = memory_world
    patient = LinkTimes(greet=5, beat=0.02, dead=0.1)
    quiet = LinkTimes(greet=5, beat=1000, dead=1000)
    a = world.replica("a", times=patient, replica__anti_entropy_interval_s=1000)
    b = world.replica("b", "a", times=quiet, replica__anti_entropy_interval_s=1000)
    async with running(a, b):
        await eventually(lambda: world.probes["a"].counts["link.down"] > 0, "given up")
        assert "silent" in str(world.probes["a"].latest["link.down"]["reason"])


async def test_a_snapshot_that_comes_late_is_no_garbage(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = Serving._snapshot

    asked = memory_world.probes
    answered: list[int] = []

    async def late(self: Serving, link: PeerLink, request: WantSnapshot | WantRest) -> None:
        await eventually(lambda: asked["b"].counts["repair.snapshot"] > 1, "asked again")
        await serve(self, link, request)
        answered.append(request.shard)

    monkeypatch.setattr("mesh.exchange.ASK_AGAIN_S", 0.03)
    monkeypatch.setattr("mesh.transfers.SNAPSHOT_PART_BYTES", 200)
    monkeypatch.setattr(Serving, "_snapshot", late)
    world = memory_world
    a = world.replica("a", replica__snapshot_every_frames=10)
    async with running(a):
        for number in range(3_000):
            with a.edit(Note, "{one}" + str(number % 500)) as note:
                note.text = str(number)
        await a.flush()
        b = world.replica("b", "a")
        async with running(b):
            await converged(a, b)
            counts = world.probes["b"].counts
            await eventually(lambda: len(answered) > 1, "every answer came, the late ones too")
            with a.edit(Note, "{one}last") as note:
                note.text = "behind them on the link"
            await converged(a, b)
            assert (counts["snapshot.refused"], counts["link.down"]) == (0, 0)


async def test_snapshots_that_claim_what_nobody_has_do_not_go_round_as_fast_as_they_can(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ShardHost.snapshot

    def boasts(host: ShardHost, certificates: Sequence[bytes], stamp: int) -> TakenSnapshot:
        taken = honest(host, certificates, stamp)
        claimed = {session: seq + 1 for session, seq in taken.state.frontier.items()}
        return replace(taken, state=replace(taken.state, frontier=claimed))

    world = memory_world
    a = world.replica("a", replica__snapshot_every_frames=10)
    b = world.replica("b", "a")

    def asked() -> int:
        return sum(probe.counts["repair.snapshot"] for probe in world.probes.values())

    async with running(a):
        for number in range(3_000):
            with a.edit(Note, "{one}" + str(number % 500)) as note:
                note.text = str(number)
        await a.flush()
        monkeypatch.setattr(ShardHost, "snapshot", boasts)
        async with running(b):
            await eventually(lambda: asked() >= 1, "the first")
            began = world.clock.monotonic()
            await eventually(lambda: asked() >= 5, "each gives what the other lacks, ever again")
            assert world.clock.monotonic() - began > PAUSE_FIRST_S * (1 + 2) * 0.9


async def test_frames_dropped_for_want_of_a_certificate_are_fetched_with_it(
    memory_world: World,
) -> None:
    world = memory_world
    author = world.replica("author")
    a = world.replica("a", "author", "b", replica__anti_entropy_interval_s=1000)
    b = world.replica("b", replica__anti_entropy_interval_s=1000)
    async with running(author, a, b):
        exchange = a._check().exchange
        await eventually(lambda: len(exchange.links) == 2, "linked")
        for text in ("before", "after"):
            with author.edit(Note, "1") as note:
                note.text = text
            if text == "after":
                # b had the author's certificate when it greeted a, and has lost it since.
                trust = b._check().core.trust
                trust._kept.pop(author.session)
                trust._sessions._entries.pop(author.session)
            await eventually(lambda: same(a, author), "a has it")
            await a.flush()
            exchange.announce(exchange.links["b"])
            await eventually(lambda: same(a, b), "b has it", within=3)
            if text == "before":
                world.network.cut("a", "b")
                await eventually(lambda: "b" not in exchange.links, "cut")
                world.network.heal()
                await eventually(lambda: "b" in exchange.links, "linked anew")
        assert world.probes["b"].counts["frame.uncertified"] > 0


async def test_a_slow_peer_is_repaired_and_never_waited_for(memory_world: World) -> None:
    world = memory_world
    a = world.replica("a", peers__send_buffer_bytes=4096)
    b = world.replica("b", "a")
    async with running(a, b):
        await eventually(lambda: bool(a._check().exchange.links), "linked")
        for number in range(60):
            with a.edit(Note, str(number)) as note:
                note.text = random.Random(number).randbytes(3000).hex()
            if number % 10 == 9:
                await a.flush()
        await converged(a, b)
        assert world.probes["a"].counts["link.overflow"] > 0


async def test_replicas_restart_from_their_journals(world: World) -> None:
    a, b = world.replica("a"), world.replica("b", "a")
    sessions = set()
    async with running(a, b):
        scribble(a, random.Random(1), 50)
        scribble(b, random.Random(2), 50)
        await converged(a, b)
        digest = a.digest()
        sessions |= {a.session, b.session}
    for name in ("a", "b"):
        await world.reopen(name)
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a, b):
        assert not sessions & {a.session, b.session}
        assert a.digest() == b.digest() == digest
        scribble(b, random.Random(3), 50)
        await converged(a, b)

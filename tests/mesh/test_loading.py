"""A start hands the replica out before all its shards are in memory; nobody can tell, but by the
time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from crdt.ids import shard_of
from crdt.lattice import Shard
from mesh import Durability, Replica, ReplicaClosed
from mesh.committer import Committer
from mesh.compose import open_replica
from mesh.health import DEGRADED, JOURNAL, OK
from mesh.lifecycle import Lifecycle
from persistence import journal as recovery
from persistence.base import Journal, JournalDamaged, SnapshotRecord
from persistence.certificates import Trust
from persistence.identity import Identity, create_genesis, open_identity, provision
from persistence.inspect import check_folder
from persistence.salvage import rebuild
from persistence.sealing import Opener, Sealer
from persistence.sqlite import open_journal
from persistence.system import SystemClock, SystemEntropy
from tests.mesh.world import (
    Note,
    Task,
    World,
    converged,
    crash,
    eventually,
    running,
    write,
)

SHARDS = 4
NAMES = [str(number) for number in range(24)]
PATIENCE_S = 10.0


def shard(name: str) -> int:
    return shard_of(f"Note/{name}", SHARDS)


def of(number: int) -> str:
    """The name of a note in this shard."""
    return next(name for name in NAMES if shard(name) == number)


def loaded(replica: Replica) -> list[int]:
    return [host.index for host in replica._started().core.hosts if host.loaded]


def texts(replica: Replica) -> dict[str, object]:
    return {note.id: note.text for note in replica.documents(Note)}


async def left(world: World, name: str = "a") -> Replica:
    """A replica that wrote to all shards, and was closed in order."""
    replica = world.replica(name)
    async with running(replica):
        for one in NAMES:
            with replica.edit(Note, one) as note:
                note.text = f"text {one}"
        assert {shard(one) for one in NAMES} == set(range(SHARDS))
    await world.reopen(name)
    return replica


@asynccontextmanager
async def unloaded(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """Replicas load nothing by themselves until the event is set, or the block ends."""
    go = asyncio.Event()
    load = Lifecycle._load

    async def later(life: Lifecycle) -> None:
        await go.wait()
        await load(life)

    with monkeypatch.context() as patch:
        patch.setattr(Lifecycle, "_load", later)
        try:
            yield go
        finally:
            go.set()


async def test_what_is_asked_for_is_loaded_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await left(world)
    again = world.replica("a")
    async with unloaded(monkeypatch) as go, running(again):
        assert loaded(again) == []
        assert (again.get(Note, of(2)) or pytest.fail("gone")).text == f"text {of(2)}"
        assert loaded(again) == [2]
        assert again.get(Note, "not there") is None
        assert not again.exists(Task, of(2))
        go.set()
        await eventually(lambda: loaded(again) == list(range(SHARDS)), "the rest")
        await eventually(lambda: world.probes["a"].counts["replica.loaded"] == 1)
        most = {2, shard_of("Note/not there", SHARDS), shard_of(f"Task/{of(2)}", SHARDS)}
        assert world.probes["a"].latest["replica.loaded"]["shards"] == SHARDS - len(most)
        assert texts(again) == {f"Note/{name}": f"text {name}" for name in NAMES}
        assert again.digest() == before.digest()


async def test_everything_is_right_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await left(world)
    again = world.replica("a")
    async with unloaded(monkeypatch), running(again):
        assert again.frontier() == before.frontier()
        assert again.journaled() == before.journaled()
        assert again.digest() == before.digest()
        assert again.health()[JOURNAL].state == OK
        assert (again.lag(), again.peers(), again.sources()) == ({}, [], {})
        assert "not read yet" in repr(again._started().core.hosts[0])
        assert again.status()["loading"] == SHARDS
        assert loaded(again) == [], "all of that is known without it"
        assert texts(again) == {f"Note/{name}": f"text {name}" for name in NAMES}
        status = again.status()
        found = (status["loading"], status["documents"], status["entries"])
        assert found == (0, len(NAMES), len(NAMES))
        assert again.digest() == before.digest(), "as it is counted, too"


async def test_an_edit_before_the_rest_is_there_is_durable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await left(world)
    again = world.replica("a")
    async with unloaded(monkeypatch):
        await again.start()
        await write(again, "new", document=of(1))
        assert loaded(again) == [1]
        await crash(again)
        await world.reopen("a")
        once_more = world.replica("a")
        async with running(once_more):
            assert loaded(once_more) == [1], "it has a frame that its snapshot has not"
            changed = {f"Note/{of(1)}": "new"}
            assert texts(once_more) == {f"Note/{one}": f"text {one}" for one in NAMES} | changed


async def test_a_journal_over_its_bound_waits_for_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who compacts it reads all shards: at once, and on the event loop, if they are not loaded."""
    await left(world)
    again, found = world.replica("a", replica__journal_bytes_max=1 << 20), list[list[int]]()

    async def large() -> int:
        return 1 << 30

    monkeypatch.setattr("mesh.lifecycle.SIZE_S", 0.0)
    monkeypatch.setattr(world.journal("a"), "size", large)
    monkeypatch.setattr(Committer, "compact", lambda _: found.append(loaded(again)))
    async with unloaded(monkeypatch) as go, running(again):
        await write(again, *range(20), document=of(1))
        assert loaded(again) == [1]
        assert found == []
        go.set()
        await eventually(lambda: len(found) > 0, "compacted")
    assert found[0] == list(range(SHARDS))


async def test_replicas_converge_when_one_is_edited_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(b):
        async with running(a):
            for one in NAMES:
                await write(a, f"text {one}", document=one)
            await converged(a, b)
        await world.reopen("a")
        waiting = 3
        others = [one for one in NAMES if shard(one) != waiting]
        for one in others[::2]:
            await write(b, f"b {one}", document=one)
        again = world.replica("a")
        async with unloaded(monkeypatch) as go, running(again):
            for one in others[:2]:
                await write(again, f"a {one}", document=one)
            asked = {shard(one) for one in others[:2]}
            assert set(loaded(again)) == asked
            inbox = again._started().core.hosts[waiting].inbox
            await eventually(lambda: bool(again._check().exchange.links), "they are linked")
            await write(b, "while it is loaded", document=of(waiting))
            await eventually(lambda: inbox.frames > 0, "a frame waits for its shard")
            assert set(loaded(again)) == asked, "no peer makes the event loop load one"
            go.set()
            await again.flush(Durability.PEERS(1), timeout=PATIENCE_S)
            await converged(again, b)
            assert texts(again) == texts(b)
            assert texts(b)[f"Note/{of(waiting)}"] == "while it is loaded"
            assert again.status()["refused"] == b.status()["refused"] == {}


async def test_snapshots_in_and_out_wait_for_their_shard(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await left(memory_world)
    again, b = memory_world.replica("a"), memory_world.replica("b")
    async with unloaded(monkeypatch) as go, running(again, b):
        await write(b, "of b", document=of(3))
        given = b._started().core.hosts[3]
        life, host = again._check(), again._started().core.hosts[3]
        data = await b._check().committer.snapshot(given)
        out = asyncio.create_task(life.committer.snapshot(host))
        taken = asyncio.create_task(life.joining.take(3, data, "b"))
        await write(again, "other", document=of(0))
        assert not host.loaded
        assert not out.done()
        assert not taken.done()
        go.set()
        assert await out
        assert await taken
        await again.flush(timeout=PATIENCE_S)
        await eventually(lambda: b.session in again.frontier()[3], "joined")


# ---------------------------------------------------------------------------- the end, meanwhile


class Held:
    """Stands where the content of shards is read, and holds every thread until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.inside = self.reads = 0
        self._read = recovery._content

    def __call__(self, body: bytes, digest_key: bytes, where: str) -> Shard:
        self.inside += 1
        self.reads += 1
        self.begun.set()
        try:
            assert self.go.wait(PATIENCE_S), "nobody lets it go"
            return self._read(body, digest_key, where)
        finally:
            self.inside -= 1


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    holding = Held()
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "_content", holding)
        try:
            yield holding
        finally:
            holding.go.set()


@pytest.mark.parametrize("cancelled", [False, True], ids=["closed", "cancelled"])
async def test_the_end_while_it_is_loaded_waits_for_the_thread_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    await left(world)
    tasks = asyncio.all_tasks()
    again = world.replica("a")
    with held(monkeypatch) as holding:
        await again.start()
        await eventually(holding.begun.is_set, "a shard is being read")
        runner = again._runner
        assert runner is not None
        (loading,) = (task for task in asyncio.all_tasks() - tasks if task.get_name() == "load")
        closing = asyncio.create_task(crash(again) if cancelled else again.close())
        await eventually(lambda: loading.cancelling() > 0, "it ends")
        assert not loading.done(), "the thread reads on"
        assert not runner.done()
        holding.go.set()
        await asyncio.wait([closing], timeout=PATIENCE_S)
        assert closing.done()
        assert (holding.inside, holding.reads) == (0, 1), "and no other shard is begun"
        assert runner.done()
        assert asyncio.all_tasks() <= tasks
    await world.reopen("a")
    once_more = world.replica("a")
    async with running(once_more):
        assert len(texts(once_more)) == len(NAMES)


async def test_an_edit_and_the_end_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await left(world)
    again = world.replica("a")
    async with unloaded(monkeypatch):
        async with running(again):
            with again.edit(Note, of(3)) as note:
                note.text = "last"
        assert loaded(again) == [3], "the others were of no interest"
    await world.reopen("a")
    once_more = world.replica("a")
    async with running(once_more):
        assert texts(once_more)[f"Note/{of(3)}"] == "last"
        assert len(texts(once_more)) == len(NAMES)


# ---------------------------------------------------------------------------- what is not as it was


async def spoil(journal: Journal, identity: Identity, number: int) -> None:
    """A snapshot of the replica's own making says of itself what is not so."""
    opener = Opener(identity.mesh, Trust(identity.mesh))
    (kept,) = [one for one in await journal.snapshots() if one.shard == number]
    opened = opener.open_snapshot(kept.data)
    body = opened.body[:-1] + bytes((opened.body[-1] ^ 1,))
    opener.trust.keep_all(opened.certificates, opened.certificates)
    certificates = opener.trust.certificates(sorted(opened.certificates))
    sealer = Sealer(identity, identity.new_session(SystemClock(), SystemEntropy()))
    data = sealer.seal_snapshot(number, body, certificates, opened.chain, opened.stamp)
    await journal.save_snapshot(SnapshotRecord(number, kept.position, data))


async def test_a_shard_that_is_not_what_it_says_ends_the_replica_and_says_why(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await left(world)
    await spoil(world.journal("a"), world.identity("a"), 2)
    again = world.replica("a")
    async with unloaded(monkeypatch) as go:
        await again.start()
        for _ in range(2):
            with pytest.raises(JournalDamaged, match=r"shard 2 has digest .*mesh repair"):
                again.get(Note, of(2))
        with pytest.raises(JournalDamaged, match="shard 2"), again.edit(Note, of(2)) as note:
            note.text = "lost"
        await write(again, "kept", document=of(1))
        go.set()
        await eventually(lambda: again._runner is not None and again._runner.done(), "it ends")
    health = again.health()[JOURNAL]
    assert health.state == DEGRADED
    assert "shard 2 has digest" in health.reason
    assert "mesh repair" in health.cure
    assert "shard 2 has digest" in again.status()["state"]
    assert world.probes["a"].counts["replica.failed"] == 1
    assert world.probes["a"].counts["replica.loaded"] == 0
    with pytest.raises(ReplicaClosed, match=r"shard 2 has digest .*mesh repair"):
        again.edit(Note, of(1))
    with pytest.raises(JournalDamaged, match=r"shard 2 has digest .*mesh repair"):
        await again.close()


async def test_one_that_frames_must_be_applied_to_is_found_by_the_start(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await left(memory_world)
    async with unloaded(monkeypatch):
        again = memory_world.replica("a")
        await again.start()
        await write(again, "later", document=of(2))
        await crash(again)
    await spoil(memory_world.journal("a"), memory_world.identity("a"), 2)
    with pytest.raises(JournalDamaged, match="shard 2 has digest"):
        await memory_world.replica("a").start()


async def test_it_is_found_and_repaired_offline(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    create_genesis(tmp_path / "authority", "fleet", SHARDS)
    provision(tmp_path / "authority", folder, "a")
    async with open_replica(folder, peers__listen="") as a:
        for one in NAMES:
            await write(a, one, document=one)
    async with open_journal(folder) as journal:
        await spoil(journal, open_identity(folder), 2)

    async def use() -> None:
        async with open_replica(folder, peers__listen="") as a:
            assert a.exists(Note, of(0))
            await eventually(lambda: a._runner is not None and a._runner.done(), "it ends")

    with pytest.raises(JournalDamaged, match=r"shard 2 has digest .*mesh repair"):
        await use()
    (finding,) = (await asyncio.to_thread(check_folder, folder)).findings
    assert "shard 2 has digest" in finding.problem
    assert "mesh repair" in finding.cure
    salvage = await rebuild(folder, "a test")
    assert salvage.snapshots == SHARDS - 1
    async with open_replica(folder, peers__listen="") as a:
        kept = {f"Note/{one}": one for one in NAMES if shard(one) != 2}
        assert kept.items() <= texts(a).items()

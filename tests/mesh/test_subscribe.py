"""A replica that holds some shards, or is used for some document types, only."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from crdt import Document, Register
from crdt.ids import shard_of
from mesh import CallerError, Durability, NotSubscribed, Replica
from mesh.subscription import Subscription
from tests.mesh.world import Note, Task, World, eventually, running, write

SHARDS = 4


class Other(Document):
    """A type that is not subscribed to."""

    text: Register[str]


def named(shard: int, kind: str = "Note", at: int = 0) -> str:
    """The name of a document that lives in this shard."""
    names = (str(n) for n in range(1_000) if shard_of(f"{kind}/{n}", SHARDS) == shard)
    return [next(names) for _ in range(at + 1)][-1]


def partial(world: World, name: str, *seeds: str, subscribe: tuple[object, ...]) -> Replica:
    replica = world.replica(name, *seeds)
    replica._subscribe = subscribe  # type: ignore[assignment]
    return replica


async def test_only_held_shards_are_replicated() -> None:
    world = World()
    a, b = world.replica("a"), partial(world, "b", "a", subscribe=(1, 3))
    async with running(a, b):
        await eventually(lambda: a._started().core.held_by.get("b") == frozenset({1, 3}))
        for shard in range(SHARDS):
            await write(a, f"in {shard}", document=named(shard))
        await eventually(lambda: b.frontier()[1] == a.frontier()[1] != {})
        await eventually(lambda: b.frontier()[3] == a.frontier()[3] != {})
        assert b.frontier()[0] == b.frontier()[2] == {}
        with b.edit(Note, named(1, at=1)) as note:
            note.text = "from b"
        await b.flush(Durability.PEERS(1), timeout=5)
        assert a.exists(Note, named(1, at=1))
        # Rounds of comparison bring nothing more, and ask for nothing.
        ticks = world.probes["b"].counts["repair.asked"]
        b._started().exchange.tick()
        a._started().exchange.tick()
        await write(b, "more", document=named(3, at=1))
        await b.flush(Durability.PEERS(1), timeout=5)
        assert b.frontier()[0] == b.frontier()[2] == {}
        assert world.probes["b"].counts["repair.asked"] == ticks
        assert world.probes["b"].counts["repair.snapshot"] == 0
    await world.close()


async def test_documents_elsewhere_are_refused_with_the_cure() -> None:
    world = World()
    b = partial(world, "b", subscribe=(1,))
    async with running(b):
        other = named(2)
        for use in (
            lambda: b.get(Note, other),
            lambda: b.exists(Note, other),
            lambda: b.create(Note, other),
            lambda: b.delete(Note, other),
            lambda: b.edit(Note, other).__enter__(),
            lambda: b.transaction(type="x").__enter__().edit(Note, other),
        ):
            with pytest.raises(NotSubscribed, match=r"lives in shard 2.*2 in subscribe"):
                use()
            b._started().editor.abandon(None)
        assert b.create(Note, named(1))
        assert [note.id for note in b.documents(Note)] == [f"Note/{named(1)}"]
    await world.close()


async def test_types_narrow_what_may_be_used_and_watched() -> None:
    world = World()
    a, b = world.replica("a"), partial(world, "b", "a", subscribe=(Note,))
    async with running(a, b):
        changes = b.watch()
        with a.edit(Task, "1") as task:
            task.title = "not for b"
        await write(a, "for b")
        await eventually(lambda: b.exists(Note, "1"))
        await eventually(lambda: b.frontier() == a.frontier())
        async with asyncio.timeout(5):
            assert (await anext(changes)).document == "Note/1"
        changes.close()
        assert [change async for change in changes] == []
        for use in (
            lambda: b.get(Task, "1"),
            lambda: list(b.documents(Task)),
            lambda: b.watch(Task),
            lambda: b.create(Task, "2"),
        ):
            with pytest.raises(NotSubscribed, match="only Note; open the replica with Task"):
                use()
    await world.close()


async def test_durability_counts_only_who_holds_the_shard() -> None:
    world = World()
    a, b = world.replica("a"), partial(world, "b", "a", subscribe=(1,))
    async with running(a, b):
        await eventually(lambda: "b" in a._started().core.held_by)
        await write(a, "x", document=named(1))
        result = await a.flush(Durability.PEERS(1), timeout=5)
        assert result.replicas == ("b",)
        await write(a, "y", document=named(2))
        with pytest.raises(Exception, match="not reached"):
            await a.flush(Durability.PEERS(1), timeout=0.1)
        started = asyncio.get_running_loop().time()
        a._settings.replica.__dict__["close_timeout_s"] = 30.0
        await a.close()
        assert asyncio.get_running_loop().time() - started < 10, "it waits for nobody in vain"
    await world.close()


async def test_a_wider_subscription_later_gets_the_rest(tmp_path: Path) -> None:
    world = World(tmp_path)
    a, b = world.replica("a"), partial(world, "b", "a", subscribe=(1,))
    async with running(a):
        async with running(b):
            for shard in range(SHARDS):
                await write(a, "x", document=named(shard))
            await eventually(lambda: b.exists(Note, named(1)))
        await world.reopen("b")
        wide = world.replica("b", "a")
        async with running(wide):
            await eventually(lambda: wide.frontier() == a.frontier())
    await world.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [((4,), "0 to 3"), ((-1,), "0 to 3"), (("Task/1",), "no document type"), ((True,), "give")],
)
def test_what_does_not_exist_is_refused(given: tuple[object, ...], said: str) -> None:
    with pytest.raises(CallerError, match=said):
        Subscription(given, 4)  # type: ignore[arg-type]


async def test_open_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATEMESH_HOME", str(tmp_path / "home"))
    async with Replica.open(tmp_path / "a", subscribe=[Note, "Task", 3]) as replica:
        shards = replica.shards
        named = {shard_of(f"Note/{n}", shards): str(n) for n in range(1_000)}
        assert replica.create(Note, named[3])
        with pytest.raises(NotSubscribed, match="lives in shard 2"):
            replica.create(Note, named[2])
        with pytest.raises(NotSubscribed, match="only Note, Task"):
            replica.create(Other, "1")

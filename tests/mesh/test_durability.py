"""How durable a write is: levels, results, timeouts."""

from __future__ import annotations

import asyncio
import random

import pytest

from mesh import Durability, FlushTimeout, ReplicaClosed
from mesh.durability import Acknowledgements
from mesh.wire import Journaled
from tests.mesh.world import Note, Task, World, eventually, running


def test_holders_have_all_of_it() -> None:
    acknowledgements = Acknowledgements()
    acknowledgements.session("b", 1)
    acknowledgements.session("c", 2)
    for shard in (0, 1):
        acknowledgements.journaled("b", shard, 5)
    acknowledgements.journaled("c", 0, 9)
    acknowledgements.journaled("stranger", 0, 9)
    assert acknowledgements.holders({0: 5, 1: 5}) == ("b",)
    assert acknowledgements.holders({0: 5}) == ("b", "c")
    assert acknowledgements.holders({0: 6}) == ("c",)
    acknowledgements.journaled("b", 0, 3)
    assert acknowledgements.holders({0: 5}) == ("b", "c"), "never backwards"
    acknowledgements.session("c", 3)
    assert acknowledgements.holders({0: 5}) == ("b",), "a new session may have lost its disk"


async def test_journal_level_names_what_was_written(world: World) -> None:
    replica = world.replica("a")
    async with running(replica):
        empty = await replica.flush()
        assert empty.written == {}
        with replica.edit(Task, "1") as task:
            task.title = "x"
            task.effort += 1
        shard = replica._check().editor.host("Task/1").index
        result = await replica.flush(timeout=10)
        assert (result.written, result.session, result.replicas) == (
            {shard: 2}, replica.session, (),
        )  # fmt: skip
        assert replica.journaled()[shard][replica.session] == 2
        records = await world.journal("a").frames(shard, replica.session, 0, 2, 10)
        assert [(record.first, record.last, record.own) for record in records] == [(1, 2, True)]


async def test_peers_level_waits_for_others_disks(world: World) -> None:
    a, b, c = world.replica("a"), world.replica("b", "a"), world.replica("c", "a")
    async with running(a, b):
        with a.edit(Task, "1") as task:
            task.title = "x"
        one = await a.flush(Durability.PEERS(1), timeout=10)
        assert one.replicas == ("b",)
        shard = a._check().editor.host("Task/1").index
        assert await world.journal("b").frames(shard, a.session, 0, 1, 10)
        with pytest.raises(FlushTimeout) as caught:
            await a.flush(Durability.PEERS(2), timeout=0.05)
        assert str(caught.value).startswith("PEERS(2) was not reached within 0.05 s")
        assert caught.value.result.replicas == ("b",)
        waiting = asyncio.create_task(a.flush(Durability.PEERS(2)))
        async with running(c):
            two = await waiting
            assert two.replicas == ("b", "c")


async def test_what_a_replaced_link_still_brings_counts_no_more(memory_world: World) -> None:
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a):
        exchange = a._check().exchange
        async with running(b):
            await eventually(lambda: "b" in exchange.links, "linked")
            stale = exchange.links["b"]
        # b comes back without its disk, while what its last session said is still being read.
        await world.forget("b")
        again = world.replica("b")
        async with running(again):
            with a.edit(Task, "1") as task:
                task.effort += 1
            written = (await a.flush()).written
            world.discoveries["b"].list.append("a")
            await eventually(lambda: exchange.links.get("b", stale) is not stale, "linked anew")
            exchange.message(stale, Journaled({one: {a.session: 9} for one in written}))
            beyond = dict.fromkeys(written, 9)
            assert not a._check().core.acknowledgements.holders(beyond)


async def test_a_timeout_means_not_yet(memory_world: World) -> None:
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a, b):
        await eventually(lambda: a.health()["peers"].state == "ok", "linked")
        world.network.cut("a", "b")
        with a.edit(Task, "1") as task:
            task.title = "not yet"
        with pytest.raises(FlushTimeout, match="on their way"):
            await a.flush(Durability.PEERS(1), timeout=0.05)
        world.network.heal()
        assert (await a.flush(Durability.PEERS(1), timeout=10)).replicas == ("b",)
        assert b.exists(Task, "1")


async def test_waiting_ends_with_the_replica(memory_world: World) -> None:
    replica = memory_world.replica("a")
    await replica.start()
    with replica.edit(Task, "1") as task:
        task.title = "x"
    waiting = asyncio.create_task(replica.flush(Durability.PEERS(3)))
    await asyncio.sleep(0)
    await replica.close()
    with pytest.raises(ReplicaClosed):
        await waiting


async def test_closing_hands_over_to_linked_peers(memory_world: World) -> None:
    a, b = memory_world.replica("a"), memory_world.replica("b", "a")
    async with running(b):
        async with running(a):
            await eventually(lambda: a.health()["peers"].state == "ok", "linked")
            with a.edit(Task, "1") as task:
                task.title = "just before the end"
        assert b.exists(Task, "1")


async def test_an_interval_spaces_what_a_busy_replica_writes(memory_world: World) -> None:
    replica = memory_world.replica("a", replica__flush_interval_ms=10_000)
    async with running(replica):
        with replica.edit(Task, "1") as task:
            task.title = "first"
        shard = replica._check().editor.host("Task/1").index

        def on_disk() -> int:
            return replica.journaled()[shard].get(replica.session, 0)

        await eventually(lambda: on_disk() == 1, "no waiting for the interval")
        for _ in range(10):
            with replica.edit(Task, "1") as task:
                task.title = "more"
            await asyncio.sleep(0)
        assert on_disk() == 1
        await replica.flush(timeout=5)
        assert on_disk() == 11
        assert len(await memory_world.journal("a").frames(shard, replica.session, 0, 11, 20)) == 2


async def test_snapshots_cost_no_more_than_what_is_written(memory_world: World) -> None:
    replica = memory_world.replica("a", replica__snapshot_every_frames=10)
    async with running(replica):
        for number in range(200):
            with replica.edit(Note, "{one}" + str(number)) as note:
                note.text = random.Random(number).randbytes(500).hex()
        for number in range(120):
            with replica.edit(Note, "{one}0") as note:
                note.text = str(number)
            await replica.flush()
        # 120 frames of 0.4 kB each do not even outweigh one more snapshot of 100 kB.
        assert memory_world.probes["a"].counts["snapshot.saved"] == 1

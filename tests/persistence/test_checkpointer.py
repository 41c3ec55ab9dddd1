"""The checkpointer: who writes what when, and what is left after a death at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from crdt.ids import week_of
from crdt.operation import Operation, Transaction
from crdt.paths import TypeCode, field_path
from crdt.types.text import Insert
from persistence.base import ServiceUnavailable
from persistence.checkpointer import Capture, prove
from persistence.memory_checkpoints import MemoryCheckpoints, Result
from persistence.sealing import Sealer
from tests.persistence.checkpoint_world import LEASE_S, HandClock, World, catch_up, share
from tests.persistence.world import SeededEntropy, Writer

TEXT = field_path("notes", TypeCode.TEXT)


@pytest.fixture
def world() -> World:
    return World()


async def test_news_become_a_checkpoint_and_no_news_none(world: World) -> None:
    node = world.node()
    assert await node.round() == {}, "an empty replica wrote something"
    node.write(1, "one")
    node.write(3, "three")
    node.log_offset = 17
    newest = await node.checkpointer.round()
    assert newest.keys() == {1, 3}
    info = newest[1]
    shard = node.writer.shards[1]
    assert (dict(info.frontier), info.digest) == (shard.frontier, shard.digest())
    assert (info.log_offset, info.replica, info.verified) == (17, "a", True)
    assert [fields["shard"] for fields in node.events.of("checkpoint.written")] == [1, 3]
    assert await node.round() == newest, "nothing was new, and something changed"
    assert node.captured == [1, 3]
    node.write(1, "two")
    assert (await node.checkpointer.round())[1].id > info.id
    assert world.ids(1) == [(3, True)], "the older one stayed"


async def test_what_was_written_loads_and_proves(world: World) -> None:
    node = world.node()
    node.write(0, {"deep": [1, 2, 3]})
    await node.round()
    other = world.node("b", 3)
    loaded = await other.checkpointer.load(0)
    assert loaded is not None
    assert loaded.data == node.sealed(0)
    assert loaded.info == (await other.store.newest())[0]
    snapshot = prove(world.authority.mesh, 0, loaded.data)
    assert snapshot == node.writer.shards[0].snapshot()
    assert await other.checkpointer.load(0, loaded.info) == loaded
    assert await other.checkpointer.load(1) is None


async def test_a_shard_with_texts_is_proven_in_its_thread(world: World) -> None:
    node = world.node()
    writer, shard = node.writer, node.writer.shards[2]
    payload = shard.edit_text(writer.sealer.session, "Task/2", TEXT, [Insert(0, "hé")])
    operation = Operation("Task/2", TEXT, payload, ())
    draft = writer.draft(2, [Transaction("edit", "tester", 1, "", (operation,))])
    for raw in writer.sealer.seal([draft]):
        writer.receive(writer._record(raw, own=True))
    await node.round()
    loaded = await node.checkpointer.load(2)
    assert loaded is not None
    assert prove(world.authority.mesh, 2, loaded.data).texts.keys() == {"Task/2"}


async def test_one_of_two_holders_writes_until_it_goes(world: World) -> None:
    one, two = world.node("a", 2), world.node("b", 3)
    share(one, two, 0, "x")
    await asyncio.gather(one.round(), two.round())
    assert len(one.captured + two.captured) == 1, "both wrote"
    writer, waiter = (one, two) if one.captured else (two, one)
    for value in range(3):
        share(writer, waiter, 0, value)
        world.clock.seconds += LEASE_S - 1
        newest = await writer.checkpointer.round()
        assert await waiter.round() == newest, "the other does not know what is newest"
    assert not waiter.captured, "the lease did not stick"
    await writer.checkpointer.close()
    await writer.checkpointer.close()
    share(writer, waiter, 0, "last")
    await waiter.round()
    assert waiter.captured == [0], "a released lease was not taken over"
    assert world.server.holder(0) == waiter.name


async def test_a_lease_without_news_is_kept(world: World) -> None:
    one, two = world.node("a", 2), world.node("b", 3)
    share(one, two, 0, "x")
    await one.round()
    for _ in range(3):
        world.clock.seconds += LEASE_S - 1
        await one.round()
    assert world.server.holder(0) == "a"


async def test_the_lease_of_a_dead_writer_is_taken_over(world: World) -> None:
    one, two = world.node("a", 2), world.node("b", 3)
    share(one, two, 0, "x")
    await one.round()
    share(one, two, 0, "y")
    await two.round()
    assert not two.captured
    world.clock.seconds += LEASE_S + 1
    await two.round()
    assert two.captured == [0]
    share(two, one, 0, "z")
    await one.round()
    assert one.captured == [0], "the old holder wrote again"
    assert one.events.of("checkpoint.lease")[-1]["held"] is False
    assert (await two.store.newest())[0].replica == "b"


async def test_a_lease_stolen_in_the_middle_ends_the_write(world: World) -> None:
    node = world.node()
    node.write(0, "x")
    capture = node.capture

    async def slow(shard: int) -> Capture:
        captured = await capture(shard)
        world.server.steal(shard, "thief")
        return captured

    node.capture = slow
    assert await node.round() == {}
    assert world.ids() == [], "something was written after the lease was lost"
    assert not node.checkpointer.leases
    assert not node.events.of("checkpoint.failed"), "losing a lease is no failure"


async def test_a_lease_that_ran_out_in_the_middle_and_nobody_took_is_still_good(
    world: World,
) -> None:
    node = world.node()
    node.write(0, "x")
    capture = node.capture

    async def slow(shard: int) -> Capture:
        world.clock.seconds += LEASE_S * 2
        return await capture(shard)

    node.capture = slow
    assert (await node.round()).keys() == {0}


async def test_a_lease_lost_while_other_shards_were_written_is_not_used(world: World) -> None:
    """Another had it in between and wrote more: what we would write lacks that."""
    one, two = world.node("a", 2), world.node("b", 3)
    for shard in (0, 1):
        share(two, one, shard, "both have it")
    two.write(1, "only b has it")
    capture = one.capture

    async def slow(shard: int) -> Capture:
        captured = await capture(shard)
        if shard == 0:
            world.clock.seconds += LEASE_S + 1
            await two.round()
            await two.checkpointer.close()
        return captured

    one.capture = slow
    await one.round()
    assert 1 not in one.captured
    assert (await one.store.newest())[1].replica == "b"
    assert world.server.holder(1) == "", "it keeps b from writing"


async def test_a_lease_is_not_kept_where_another_has_written_more(world: World) -> None:
    one, two = world.node("a", 2), world.node("b", 3)
    share(one, two, 0, "x")
    await one.round()
    world.clock.seconds += LEASE_S + 1
    two.write(0, "only b has it")
    await two.round()
    await two.checkpointer.close()
    assert one.checkpointer.leases.keys() == {0}
    await one.round()
    assert not one.checkpointer.leases
    assert world.server.holder(0) == ""


async def test_what_another_wrote_before_the_lease_was_ours_is_looked_at(world: World) -> None:
    """Between the look at what is newest and the lease, another writes more and goes."""
    one, two = world.node("a", 2), world.node("b", 3)
    share(two, one, 0, "both have it")
    two.write(0, "only b has it")
    acquire = one.store.acquire

    async def late(shard: int, holder: str, ttl_s: float) -> object:
        if not two.captured:
            await two.round()
            await two.checkpointer.close()
        return await acquire(shard, holder, ttl_s)

    one.store.acquire = late  # type: ignore[method-assign,assignment]
    newest = await one.checkpointer.round()
    assert newest[0].replica == "b", "a checkpoint was replaced by one that lacks what it had"
    assert one.captured == []


async def test_one_that_lacks_something_waits_until_it_has_it(world: World) -> None:
    one, two = world.node("a", 2), world.node("b", 3)
    one.write(0, "only a has it")
    await one.round()
    await one.checkpointer.close()
    two.write(0, "only b has it")
    newest = await two.checkpointer.round()
    assert two.captured == []
    assert newest[0].replica == "a"
    assert world.server.holder(0) == "", "it keeps others from writing"
    await two.round()
    assert world.server.holder(0) == "", "it takes the lease again and again"
    assert two.events.paths == ["a checkpoint has what its lease's holder lacks"]
    catch_up(two, one, 0)
    assert (await two.checkpointer.round())[0].replica == "b"


async def test_a_holder_that_lost_its_data_lets_others_write(world: World) -> None:
    node, other = world.node("a", 2), world.node("b", 3)
    share(node, other, 0, "x")
    await node.round()
    share(node, other, 0, "y")
    reborn = world.node("a", 4)
    await reborn.round()
    assert world.server.holder(0) == "a"
    assert not reborn.checkpointer.leases
    world.clock.seconds += LEASE_S + 1
    await other.round()
    assert other.captured == [0]


async def test_closed_sessions_are_not_missed(world: World) -> None:
    """A floor takes them out of the frontier; that a checkpoint lists them is no news."""
    one, two = world.node("a", 2), world.node("b", 3)
    one.write(0, "of a session that is closed later")
    await one.round()
    await one.checkpointer.close()
    later, entropy = HandClock(), SeededEntropy(5)
    later.seconds += 8 * 7 * 86_400
    identity = two.writer.identity
    sealer = Sealer(identity, identity.new_session(later, entropy))
    two.writer = Writer(identity, sealer, two.writer.shards)
    catch_up(two, one, 0)
    floor = week_of(sealer.session)
    two.writer.shards[0].raise_floor(floor)
    two.write(0, "of the only session that is open")
    assert two.writer.shards[0].frontier == {sealer.session: 1}
    assert (await two.checkpointer.round())[0].replica == "a", "it does not know of the floor"
    two.floors[0] = floor
    newest = await two.checkpointer.round()
    assert (newest[0].replica, newest[0].frontier) == ("b", {sealer.session: 1})


# ---------------------------------------------------------------------------- a death at any moment


async def test_a_writer_dies_between_write_and_verified(world: World) -> None:
    node = world.node()
    node.write(0, "old")
    await node.round()
    node.write(0, "new")
    world.server.fail_next("load")
    with pytest.raises(ServiceUnavailable, match="failed at load"):
        await node.round()
    assert world.ids() == [(1, True), (2, False)]
    assert (await node.store.newest())[0].id == 1
    node.restart(world)
    await node.round()
    assert world.ids() == [(3, True)], "the leftover stayed"


async def test_the_leftover_of_another_goes_with_the_next_that_counts(world: World) -> None:
    one, two = world.node("a", 2), world.node("b", 3)
    share(one, two, 0, "x")
    world.server.fail_next("verified")
    with pytest.raises(ServiceUnavailable):
        await one.round()
    world.server.expire(0)
    await two.round()
    assert world.ids() == [(2, True)]


@pytest.mark.parametrize("call", ["write", "verified"])
async def test_only_the_answer_is_lost(world: World, call: str) -> None:
    node = world.node()
    node.write(0, "x")
    world.server.fail_next(call, done=True)
    with pytest.raises(ServiceUnavailable, match=f"answer to {call} was lost"):
        await node.round()
    await node.round()
    assert [verified for _, verified in world.ids()] == [True]


class Cancelling(MemoryCheckpoints):
    """Cancels who asks for one thing: the server does it, and nobody hears of it."""

    victim = ""
    task: asyncio.Task[object] | None = None

    async def _ask(self, call: str, work: Callable[[], Result]) -> Result:
        if call == self.victim and self.task is not None:
            self.task.cancel()
        return await super()._ask(call, work)


@pytest.mark.parametrize("call", ["newest", "acquire", "write", "load", "verified"])
async def test_cancelling_leaves_nothing_behind_that_counts(world: World, call: str) -> None:
    node = world.node()
    node.write(0, "x")
    await node.round()
    node.write(0, "y")
    store = Cancelling(world.server)
    node.store, store.victim = store, call
    task = asyncio.create_task(node.restart(world).round())
    store.task = task
    with pytest.raises(asyncio.CancelledError):
        await task
    store.victim = ""
    info = (await store.newest())[0]
    assert info.id == (2 if call == "verified" else 1)
    assert await node.checkpointer.load(0) is not None
    node.write(0, "z")
    await node.round()
    assert [verified for _, verified in world.ids()] == [True]

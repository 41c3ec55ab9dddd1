"""The work of checkpoints is shared: no replica takes all leases because it came first."""

from __future__ import annotations

from tests.persistence.checkpoint_world import World, catch_up


async def test_two_replicas_take_half_of_the_leases_each() -> None:
    world = World()
    a, b = world.node("a", 2), world.node("b", 3)
    for shard in range(4):
        a.write(shard, shard)
        catch_up(b, a, shard)
    await a.checkpointer.round(2)
    assert len(a.checkpointer.leases) == 2
    for shard in range(4):
        a.write(shard, "news")
        catch_up(b, a, shard)
    await b.checkpointer.round(2)
    assert len(b.checkpointer.leases) == 2
    assert not a.checkpointer.leases.keys() & b.checkpointer.leases.keys()
    assert (await a.checkpointer.round(2)).keys() == {0, 1, 2, 3}, "every shard has one"


async def test_what_nobody_else_takes_is_taken_in_later_rounds() -> None:
    world = World()
    a = world.node("a", 2)
    for shard in range(4):
        a.write(shard, shard)
    for held in (1, 2, 3, 4):
        await a.checkpointer.round(1)
        assert len(a.checkpointer.leases) == held
    assert (await a.checkpointer.round(1)).keys() == {0, 1, 2, 3}


async def test_replicas_begin_with_different_shards() -> None:
    first: set[int] = set()
    for seed, name in enumerate("abcdefgh", 2):
        node = World().node(name, seed)
        for shard in range(4):
            node.write(shard, shard)
        await node.checkpointer.round(1)
        first |= node.checkpointer.leases.keys()
    assert len(first) >= 3

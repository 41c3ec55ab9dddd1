"""Frames pushed along trees, over replicas that are not all linked, with and without a bus."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from mesh import Replica
from mesh.transports.discovery import Combined, Learned, StaticSeeds
from mesh.transports.memory_bus import MemoryBusServer
from tests.mesh.world import World, converged, eventually, running, same, write

SELDOM = 3_600.0
"""Seconds: no anti-entropy within a test."""


def linked(replica: Replica, *names: str) -> bool:
    return {peer.name for peer in replica.peers() if peer.connected} == set(names)


async def test_frames_cross_a_chain_without_anti_entropy(memory_world: World) -> None:
    """Every replica pushes on what was pushed to it."""
    world = memory_world
    chain = "abcde"
    replicas = [
        world.replica(name, *before, replica__anti_entropy_interval_s=SELDOM)
        for before, name in zip(["", *chain], chain, strict=False)
    ]
    async with running(*replicas):
        await eventually(lambda: linked(replicas[2], "b", "d") and linked(replicas[4], "d"))
        await eventually(lambda: linked(replicas[0], "b"))
        await write(replicas[0], "one", "two")
        await converged(*replicas)
        assert not world.probes["e"].counts["repair.asked"]


async def test_in_a_full_mesh_frames_end_up_coming_straight(memory_world: World) -> None:
    world = memory_world
    a, b, c = (
        world.replica(name, *seeds, replica__anti_entropy_interval_s=SELDOM)
        for name, seeds in (("a", ""), ("b", "a"), ("c", "ab"))
    )
    async with running(a, b, c):
        await eventually(
            lambda: linked(a, "b", "c") and linked(b, "a", "c") and linked(c, "a", "b")
        )
        for number in range(5):
            await write(a, number)
            await converged(a, b, c)
        (shard,) = [index for index, seqs in a.frontier().items() if a.session in seqs]

        def pushes(replica: Replica, to: str) -> bool:
            broadcast = replica._started().exchange.broadcast
            return broadcast._trees.eager(to, a.session)

        assert shard in c.frontier()
        await eventually(lambda: not pushes(b, "c") and not pushes(c, "b"), "pruned both ways")
        assert pushes(a, "b")
        assert pushes(a, "c")


async def test_when_the_way_frames_came_by_breaks_they_come_by_another(
    memory_world: World,
) -> None:
    """A ring of four: what came by one neighbour comes by the other, without anti-entropy."""
    world = memory_world
    a, b, c, d = (
        world.replica(name, *seeds, replica__anti_entropy_interval_s=SELDOM)
        for name, seeds in (("a", ""), ("b", "a"), ("c", "a"), ("d", "bc"))
    )
    async with running(a, b, c, d):
        await eventually(lambda: linked(d, "b", "c") and linked(a, "b", "c"))
        for number in range(3):
            await write(a, number)
            await converged(a, b, c, d)
        parents = d._started().exchange.broadcast._trees._parents
        parent, _ = parents.get(a.session) or ("", 0)
        assert parent in ("b", "c")
        world.network.cut("d", parent)
        await eventually(lambda: linked(d, "c" if parent == "b" else "b"))
        await write(a, "after the cut")
        await converged(a, b, c, d)


async def test_what_was_announced_and_is_not_pushed_is_asked_for(memory_world: World) -> None:
    """A neighbour that was pruned and still says what it has is enough."""
    world = memory_world
    a = world.replica("a", replica__anti_entropy_interval_s=SELDOM)
    b = world.replica("b", "a", replica__anti_entropy_interval_s=SELDOM)
    async with running(a, b):
        await eventually(lambda: linked(a, "b") and linked(b, "a"))
        broadcast = a._started().exchange.broadcast
        broadcast._trees.prune("b", [a.session])
        await write(a, "x")
        link = b._started().exchange.links["a"]
        (shard,) = [index for index, seqs in a.frontier().items() if a.session in seqs]
        b._started().exchange.broadcast.announced(link, {shard: dict(a.frontier()[shard])})
        await converged(a, b)
        await eventually(lambda: broadcast._trees.eager("b", a.session), "grafted")


async def test_what_anti_entropy_had_to_bring_is_pushed_the_next_time(memory_world: World) -> None:
    world = memory_world
    a = world.replica("a")
    b = world.replica("b", "a")
    async with running(a, b):
        await eventually(lambda: linked(a, "b") and linked(b, "a"))
        broadcast = a._started().exchange.broadcast
        broadcast._trees.prune("b", [a.session])
        await write(a, "x")
        await converged(a, b)
        await eventually(lambda: broadcast._trees.eager("b", a.session), "grafted")


async def test_with_a_bus_links_carry_only_what_it_did_not(memory_world: World) -> None:
    world = memory_world
    server = MemoryBusServer()
    a = world.replica("a", bus=server.bus())
    b = world.replica("b", "a", bus=server.bus())
    async with running(a, b):
        await eventually(lambda: linked(a, "b") and linked(b, "a"))
        trees_of_a = a._started().exchange.broadcast._trees
        for number in range(50):
            await write(a, number)
            await converged(a, b)
            if not trees_of_a.eager("b", a.session):
                break
        await eventually(lambda: not trees_of_a.eager("b", a.session), "the link is spared")
        server.stop()
        await write(a, "while the bus is down")
        await converged(a, b)
        server.start()
        await write(a, "and up again")
        await converged(a, b)


async def test_who_is_named_by_others_is_dialled_and_lost_halves_find_each_other(
    memory_world: World,
) -> None:
    """All know one seed; the mesh is linked in full, and again after a long partition."""
    world = memory_world
    names = "abcd"
    replicas = [
        learning(world.replica(name, replica__presence_interval_s=0.02), "a" if name != "a" else "")
        for name in names
    ]
    a, b, c, d = replicas
    async with running(*replicas):
        await eventually(
            lambda: all(
                linked(replica, *(other for other in names if other != name))
                for replica, name in zip(replicas, names, strict=True)
            ),
            "in full",
        )
        for here, there in product("ab", "cd"):
            world.network.cut(here, there)
        await eventually(lambda: {p.name for p in a.presence.all()} == {"a", "b"}, "forgotten")
        await eventually(lambda: {p.name for p in c.presence.all()} == {"c", "d"}, "forgotten")
        await eventually(lambda: "c" not in b.environment.discovery.addresses(), "forgotten")
        await write(b, "here")
        await write(d, "there")
        world.network.heal()
        await eventually(lambda: same(*replicas), "all have both")
        await eventually(lambda: all(len(one.presence.all()) == 4 for one in replicas))


def learning(replica: Replica, *seeds: str) -> Replica:
    """The same replica, not started, with the discovery that the composition root gives it."""
    environment = replica.environment
    found = Combined(StaticSeeds(filter(None, seeds)), Learned(environment.clock.monotonic))
    return Replica(replica._settings, replace(environment, discovery=found), replica._identity)

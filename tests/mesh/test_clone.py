"""A folder that was copied and opened twice: both copies notice, and others that see both."""

from __future__ import annotations

import random

from mesh import Replica, Settings
from mesh.clones import Clones
from mesh.environment import Environment
from mesh.health import DEGRADED, IDENTITY, Health
from mesh.instrumentation import CountingProbe
from persistence.memory import MemoryJournal
from tests.mesh.world import Addresses, HostClock, StrictProbe, World, eventually, running, write


def copy_of(world: World, name: str, address: str, *seeds: str) -> tuple[Replica, StrictProbe]:
    """The same identity once more, from a folder of its own, reachable elsewhere."""
    probe = StrictProbe()
    environment = Environment(
        world.clock, world.entropy, probe, MemoryJournal(),
        world.network.transport(name, address), Addresses(*seeds),
    )  # fmt: skip
    settings = Settings().override(
        replica__anti_entropy_interval_s=0.05, replica__close_timeout_s=0.5,
        peers__redial_min_s=0.01, peers__redial_max_s=0.05,
    )  # fmt: skip
    return Replica(settings, environment, world.identity(name)), probe


def alarmed(replica: Replica) -> bool:
    part = replica.health()[IDENTITY]
    return part.state == DEGRADED and "running more than once: a" in part.reason


async def test_two_copies_that_meet_know_of_each_other(memory_world: World) -> None:
    world = memory_world
    first = world.replica("a")
    second, probe = copy_of(world, "a", "elsewhere", "a")
    async with running(first, second):
        await eventually(lambda: alarmed(first), "the first copy")
        await eventually(lambda: alarmed(second), "the second copy")
        for counted in (world.probes["a"], probe):
            assert counted.latest["identity.cloned"]["replica"] == "a"
        assert "stop one of them" in first.health()[IDENTITY].cure
        assert first.session != second.session
        assert not first._check().exchange.links, "no link to oneself"


async def test_a_replica_that_dials_itself_is_no_clone(memory_world: World) -> None:
    world = memory_world
    replica, probe = copy_of(world, "a", "here", "b")
    other = world.network.transport("a", "b")
    async with running(replica):
        life = replica._check()
        await other.listen(life.dialler._accept)
        await eventually(lambda: probe.counts["link.refused"] > 0, "dialled")
        assert "is this replica itself" in str(probe.latest["link.refused"]["reason"])
        assert not probe.counts["identity.cloned"]
        assert not alarmed(replica)
    await other.close()


async def test_a_third_party_sees_both(memory_world: World) -> None:
    world = memory_world
    third = world.replica("c")
    first = world.replica("a", "c")
    second, _ = copy_of(world, "a", "elsewhere", "c")
    async with running(third, first, second):
        await eventually(lambda: alarmed(third), "by turns")
        assert world.probes["c"].latest["identity.cloned"]["replica"] == "a"
        await write(first, "one", document="1")
        await write(second, "two", document="2")
        await eventually(
            lambda: (
                {first.session, second.session}
                <= {one for shard in third.frontier().values() for one in shard}
            ),
            "what either writes arrives all the same",
        )


async def test_restarts_are_no_clones(memory_world: World) -> None:
    world = memory_world
    third = world.replica("c")
    async with running(third):
        for _ in range(5):
            first = world.replica("a", "c")
            async with running(first):
                await eventually(lambda: "a" in third._check().exchange.links, "linked")
            await eventually(lambda: "a" not in third._check().exchange.links, "gone")
        assert not world.probes["c"].counts["identity.cloned"]


def clones() -> tuple[Clones, CountingProbe]:
    probe = CountingProbe()
    return Clones("c", Health(HostClock(), probe), probe), probe


def test_one_greeting_that_lay_unread_proves_nothing() -> None:
    watch, probe = clones()
    for session in (1, 2, 1, 2):
        watch.linked("a", session)
    assert probe.counts["identity.cloned"] == 0
    watch.linked("a", 1)
    assert probe.counts["identity.cloned"] == 1
    assert watch.found == {"a": 1}


def test_what_is_remembered_is_bounded() -> None:
    watch, probe = clones()
    rng = random.Random(3)
    for number in range(20_000):
        watch.linked(f"r{rng.randrange(8_000)}", number)
    assert len(watch._latest) <= 4_096
    for number in range(1, 1_000):
        watch.linked("a", number)
    assert len(watch._latest["a"][1]) <= 64
    assert probe.counts["identity.cloned"] == 0

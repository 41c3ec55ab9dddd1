"""Where peers might be: seeds, what was told, who answers on the local network."""

from __future__ import annotations

import asyncio

import pytest

from crdt.errors import ServiceError
from mesh.environment import LearningDiscovery
from mesh.transports.discovery import ADDRESSES_MAX, Combined, Learned, StaticSeeds
from mesh.transports.zeroconf import ZeroconfDiscovery
from tests.mesh.world import eventually

MESH, OTHER = bytes(range(16)), bytes(range(1, 17))
LOOPBACK = ["127.0.0.1"]


class Hand:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_was_told_counts_for_a_while_and_is_bounded() -> None:
    clock = Hand()
    learned = Learned(clock)
    assert learned.addresses() == []
    learned.learn(["b:1", "a:1", "b:1"], 5.0)
    assert learned.addresses() == ["b:1", "a:1"], "in the order told, each once"
    learned.learn(["c:1"], 5.0)
    assert learned.addresses() == ["c:1"], "what was told before no longer counts"
    clock.now += 5.0
    assert learned.addresses() == []
    learned.learn([f"h:{port}" for port in range(1, 2 * ADDRESSES_MAX)], 5.0)
    assert len(learned.addresses()) == ADDRESSES_MAX


def test_sources_come_in_a_fixed_order() -> None:
    clock = Hand()
    combined = Combined(StaticSeeds(["s:2", "s:1"]), Learned(clock), StaticSeeds(["z:1", "s:1"]))
    assert isinstance(combined, LearningDiscovery)
    assert not isinstance(StaticSeeds([]), LearningDiscovery)
    assert combined.addresses() == ["s:2", "s:1", "z:1"]
    combined.learn(["l:1", "s:2"], 1.0)
    assert combined.addresses() == ["s:2", "s:1", "l:1", "z:1"]
    combined.learn([f"h:{port}" for port in range(1, ADDRESSES_MAX)], 1.0)
    assert len(combined.addresses()) == ADDRESSES_MAX
    assert combined.addresses()[:2] == ["s:2", "s:1"], "seeds are never crowded out"


async def test_zeroconf_finds_who_is_of_the_mesh_until_it_leaves() -> None:
    """Real multicast DNS on the loopback interface."""
    clock = asyncio.get_running_loop().time
    async with (
        ZeroconfDiscovery(MESH, "a", clock, LOOPBACK) as a,
        ZeroconfDiscovery(MESH, "b.with.dots", clock, LOOPBACK) as b,
        ZeroconfDiscovery(OTHER, "c", clock, LOOPBACK) as c,
    ):
        await asyncio.gather(
            a.announce("127.0.0.1:7001"), b.announce("127.0.0.1:7002"), c.announce("127.0.0.1:7003")
        )
        await eventually(lambda: a.addresses() == ["127.0.0.1:7002"], "a finds b, and b alone")
        await eventually(lambda: b.addresses() == ["127.0.0.1:7001"], "b finds a, and a alone")
        assert c.addresses() == []
        with pytest.raises(ServiceError, match="IPv4"):
            await c.announce("[::1]:7004")
        await b.close()
        await eventually(lambda: a.addresses() == [], "b left")

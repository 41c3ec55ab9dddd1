"""A link breaks in the middle of a snapshot: after it is linked again only the rest travels, if
both ends still have their side of it; what others offer instead is refused.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from mesh import Replica
from mesh.environment import Link
from mesh.transfers import KEPT_S
from mesh.transports.memory import MemoryLink
from mesh.wire import (
    WIRE_NEWEST,
    Frontier,
    Message,
    SnapshotPart,
    WantRest,
    WantSnapshot,
    decode,
    encode,
)
from tests.mesh.old_peer import OldPeer
from tests.mesh.world import PATIENCE_S, Note, World, converged, eventually, running, write

TEXTS = 40
TEXT_BYTES = 48_000
BREAKS_AFTER = 3


class Fault:
    """Looks at the parts of snapshots that reach b; cuts it off from a after so many of them, with
    what is on the way lost.
    """

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came: list[tuple[int, int]] = []
        """(transfer, index) of each part."""
        self.bytes = 0
        receive = MemoryLink.receive

        async def looking(link: MemoryLink) -> bytes:
            data = await receive(link)
            message = decode(data)
            if isinstance(message, SnapshotPart) and link._owner.name == "b":
                self.came.append((message.transfer, message.index))
                self.bytes += len(message.data)
                if len(self.came) == BREAKS_AFTER:
                    world.network.cut("a", "b")
            return data

        monkeypatch.setattr(MemoryLink, "receive", looking)

    async def broke(self) -> None:
        await eventually(lambda: len(self.came) >= BREAKS_AFTER, "the link broke")


@pytest.fixture
def world(memory_world: World) -> World:
    return memory_world


@pytest.fixture
def fault(world: World, monkeypatch: pytest.MonkeyPatch) -> Fault:
    return Fault(world, monkeypatch)


async def much(world: World, replica: Replica) -> int:
    """Write what makes a snapshot of several parts, and forget its frames; the shard of it all."""
    for number in range(TEXTS):
        with replica.edit(Note, f"{{one}}/{number}") as note:
            note.text = random.Random(number).randbytes(TEXT_BYTES).hex()
    await replica.flush()
    replica._check().committer.compact()
    await eventually(lambda: world.probes[replica.name].counts["journal.pruned"] > 0, "pruned")
    return replica._check().editor.host("Note/{one}/0").index


def events(
    world: World, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, object]]:
    """All events of that kind from now on."""
    probe, found = world.probes[name], list[dict[str, object]]()
    event = probe.event

    def noting(this: str, **fields: object) -> None:
        if this == kind:
            found.append(fields)
        event(this, **fields)

    monkeypatch.setattr(probe, "event", noting)
    return found


async def test_only_the_rest_travels_on_the_next_link(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = world.replica("a"), world.replica("b", "a")
    served = events(world, "a", "repair.served", monkeypatch)
    asked = events(world, "b", "repair.snapshot", monkeypatch)
    async with running(a):
        shard = await much(world, a)
        async with running(b):
            await fault.broke()
            assert b.frontier()[shard] == {}, "nothing is joined before all of it is here"
            world.network.heal()
            await converged(a, b)
            (sealed,) = [one.data for one in await world.journal("a").snapshots()]
    assert fault.came == [(1, index) for index in range(len(fault.came))], "each part once"
    assert len(fault.came) > BREAKS_AFTER + 3
    assert fault.bytes == len(sealed)
    assert [one["parts"] for one in asked] == [0, BREAKS_AFTER]
    rest = [(one["parts"], one["bytes"]) for one in served if "parts" in one]
    size = BREAKS_AFTER * 256 * 1024
    assert rest[-1] == (len(fault.came) - BREAKS_AFTER, len(sealed) - size)
    assert world.probes["b"].counts["snapshot.joined"] == 1


async def test_what_was_written_meanwhile_comes_by_itself(world: World, fault: Fault) -> None:
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a):
        shard = await much(world, a)
        async with running(b):
            await fault.broke()
            await write(a, "meanwhile", document="{one}/0")
            world.network.heal()
            await converged(a, b)
            assert (b.get(Note, "{one}/0") or pytest.fail("gone")).text == "meanwhile"
            assert a._check().core.hosts[shard].frames_since_snapshot == 1, "it was sealed before"
    assert fault.came == [(1, index) for index in range(len(fault.came))], "of the older state"
    assert world.probes["b"].counts["repair.snapshot"] == 2


async def test_a_giver_that_was_restarted_starts_anew(world: World, fault: Fault) -> None:
    b = world.replica("b", "a")
    async with running(b):
        a = world.replica("a")
        async with running(a):
            world.network.cut("a", "b")
            await much(world, a)
            world.network.heal()
            await fault.broke()
        again = world.replica("a")
        async with running(again):
            world.network.heal()
            await converged(again, b)
            assert world.probes["b"].latest["repair.snapshot"]["parts"] == 0
            broken = b._check().exchange._fetching._broken
            await eventually(lambda: not list(broken), "what came before is not wanted any more")
    rest = fault.came[BREAKS_AFTER:]
    assert rest == [(1, index) for index in range(len(rest))], "the number of another session"
    assert world.probes["b"].counts["snapshot.refused"] == 0


async def test_a_newer_snapshot_takes_the_place_of_the_one_that_was_kept(
    world: World, fault: Fault
) -> None:
    a, b, c = world.replica("a"), world.replica("b", "a"), world.replica("c", "a")
    async with running(a):
        shard = await much(world, a)
        async with running(b):
            await fault.broke()
            async with running(c):
                await converged(a, c)
            assert list(a._check().exchange._serving._kept) == [shard], "the last one only"
            world.network.heal()
            await converged(a, b)
    rest = fault.came[BREAKS_AFTER:]
    assert rest == [(3, index) for index in range(len(rest))], "asked for the rest, given another"
    assert world.probes["b"].counts["snapshot.refused"] == 0


@pytest.mark.parametrize(
    ("bound", "value", "who", "parts"),
    [
        ("mesh.serving.KEPT_S", 0.0, "a", BREAKS_AFTER),
        ("mesh.serving.KEPT_BYTES", 1_000_000, "a", BREAKS_AFTER),
        ("mesh.fetching.KEPT_S", 0.0, "b", 0),
        ("mesh.fetching.KEPT_BYTES", 500_000, "b", 0),
    ],
)
async def test_beyond_the_bounds_nothing_is_kept(
    world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch,
    bound: str, value: float, who: str, parts: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(bound, value)
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a):
        shard = await much(world, a)
        async with running(b):
            await fault.broke()
            await eventually(lambda: world.probes[who].counts["snapshot.dropped"] > 0, "given up")
            assert world.probes[who].latest["snapshot.dropped"]["shard"] == shard
            world.network.heal()
            await converged(a, b)
            assert world.probes["b"].latest["repair.snapshot"]["parts"] == parts
    rest = fault.came[BREAKS_AFTER:]
    assert rest == [(2, index) for index in range(len(rest))]


# ------------------------------------------------------------------ peers played by hand

NUMBER = 7


class Giver:
    """A member whose shard is asked for, and who sends what parts of it the test likes."""

    def __init__(self, world: World, name: str, shard: int, newest: int = WIRE_NEWEST) -> None:
        self._transport = world.network.transport(name)
        self._author = OldPeer(world, name, newest=newest)
        self._author.write("Task/1", f"by {name}", shard)
        self.session = self._author.session
        self.shard = shard
        data = self._author.writer.snapshot(shard, 0).data
        size = -(-len(data) // 3)
        self.parts = [
            SnapshotPart(shard, NUMBER, index, 3, data[index * size : (index + 1) * size])
            for index in range(3)
        ]

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[Link]:
        """A link to a; over it a is told that there is much to get."""
        link = await self._transport.dial("a")
        await self._author.greet(link)
        claimed = {self.session: 5_000}
        await tell(link, Frontier(self.shard, 0, 0, 1, False, b"d" * 16, claimed))
        try:
            yield link
        finally:
            await link.close()


async def tell(link: Link, *messages: Message) -> None:
    for message in messages:
        await link.send(encode(message))


async def question(link: Link) -> Message:
    """How a asks for the snapshot."""
    while True:
        message = decode(await link.receive())
        if isinstance(message, WantSnapshot | WantRest):
            return message


@asynccontextmanager
async def broken_off(
    world: World, newest: int = WIRE_NEWEST
) -> AsyncIterator[tuple[Replica, Giver]]:
    """A replica that got the first part of three from a giver whose link then broke."""
    a = world.replica("a")
    async with running(a):
        giver = Giver(world, "giver", a._check().editor.host("Task/1").index, newest)
        async with giver.linked() as link:
            assert await question(link) == WantSnapshot(giver.shard)
            await tell(link, giver.parts[0])
        await eventually(lambda: a._check().exchange.links == {}, "gone")
        yield a, giver


async def test_a_link_in_place_of_another_goes_on_with_it(world: World) -> None:
    """The older one need not have ended, as where only one end noticed that it broke."""
    async with broken_off(world) as (a, giver):
        async with giver.linked() as older:
            assert await question(older) == WantRest(giver.shard, NUMBER, 1)
            await tell(older, giver.parts[1])
            fetching = a._check().exchange.links["giver"].assembly
            await eventually(lambda: fetching.rest == (giver.shard, NUMBER, 2), "it came")
            async with giver.linked() as newer:
                assert await question(newer) == WantRest(giver.shard, NUMBER, 2)
                await tell(newer, giver.parts[2])
                await eventually(lambda: giver.session in a.frontier()[giver.shard], "joined")
        assert world.probes["a"].counts["snapshot.refused"] == 0


async def test_what_was_asked_for_is_kept_until_it_comes(world: World) -> None:
    """Else the honest rest of it would be garbage, and much of that ends a link."""
    async with broken_off(world) as (a, giver):
        now, broken = a._check().core.now, a._check().exchange._fetching._broken
        broken.touch((giver.session, giver.shard), now() - KEPT_S + PATIENCE_S)
        async with giver.linked() as link:
            assert await question(link) == WantRest(giver.shard, NUMBER, 1)
            assert broken.trim(now() + PATIENCE_S) == [], "its time began anew"
            await tell(link, *giver.parts[1:])
            await eventually(lambda: giver.session in a.frontier()[giver.shard], "joined")
        assert world.probes["a"].counts["snapshot.refused"] == 0


async def test_another_rest_than_what_was_sealed_is_refused(world: World) -> None:
    async with broken_off(world) as (a, giver):
        async with giver.linked() as link:
            assert await question(link) == WantRest(giver.shard, NUMBER, 1)
            last = giver.parts[2]
            forged = replace(last, data=last.data[:-1] + bytes([last.data[-1] ^ 1]))
            await tell(link, giver.parts[1], forged)
            probe = world.probes["a"]
            await eventually(lambda: probe.counts["snapshot.refused"] == 1, "refused")
            assert probe.latest["snapshot.refused"]["reason"] == "BadSignature"
            assert a.frontier()[giver.shard] == {}
        async with giver.linked() as link:
            assert await question(link) == WantSnapshot(giver.shard), "it starts anew"
            await tell(link, *giver.parts)
            await eventually(lambda: giver.session in a.frontier()[giver.shard], "joined")


@pytest.mark.parametrize("part", [(NUMBER, 2, 3), (NUMBER, 1, 2), (NUMBER + 1, 1, 3)])
async def test_a_part_that_does_not_continue_it_is_refused(
    world: World, part: tuple[int, int, int]
) -> None:
    async with broken_off(world) as (a, giver), giver.linked() as link:
        assert isinstance(await question(link), WantRest)
        await tell(link, SnapshotPart(giver.shard, *part, b"x"))
        probe = world.probes["a"]
        await eventually(lambda: probe.counts["snapshot.refused"] == 1, "refused")
        assert "out of order" in str(probe.latest["snapshot.refused"]["detail"])
        await tell(link, *giver.parts[1:])
        await eventually(lambda: giver.session in a.frontier()[giver.shard], "the true rest counts")


async def test_nobody_else_can_add_to_it(world: World) -> None:
    """A known number of another session's is worth nothing, asked or not."""
    async with broken_off(world) as (a, giver):
        probe = world.probes["a"]
        mallory = Giver(world, "mallory", giver.shard)
        async with mallory.linked() as link:
            assert await question(link) == WantSnapshot(giver.shard)
            await tell(link, *mallory.parts[1:])
            await eventually(lambda: probe.counts["snapshot.refused"] == 2, "refused")
            assert "out of order" in str(probe.latest["snapshot.refused"]["detail"])
            async with giver.linked() as honest:
                await tell(honest, *giver.parts[1:])
                await eventually(lambda: probe.counts["snapshot.refused"] == 4, "not asked")
        async with giver.linked() as honest:
            assert await question(honest) == WantRest(giver.shard, NUMBER, 1)
            await tell(honest, *giver.parts[1:])
            await eventually(lambda: giver.session in a.frontier()[giver.shard], "joined")
        assert a.frontier()[giver.shard] == {giver.session: 1}


async def test_another_session_of_the_same_peer_starts_anew(world: World) -> None:
    async with broken_off(world) as (a, giver):
        again = Giver(world, "giver", giver.shard)
        async with again.linked() as link:
            assert await question(link) == WantSnapshot(giver.shard)
            await tell(link, *again.parts)
            await eventually(lambda: again.session in a.frontier()[giver.shard], "joined")


@pytest.mark.parametrize("newest", [1, 2])
async def test_an_older_peer_is_asked_as_ever(world: World, newest: int) -> None:
    async with broken_off(world, newest) as (a, giver), giver.linked() as link:
        assert await question(link) == WantSnapshot(giver.shard)
        await tell(link, *giver.parts)
        await eventually(lambda: giver.session in a.frontier()[giver.shard], "joined")
        assert world.probes["a"].counts["link.error"] == 0

"""Who asks for too much, does not read or says nothing: read more slowly, let go, named in health,
and forgotten once it behaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from crdt.errors import MeshError
from mesh import Replica, budget, links, peers
from mesh.environment import Link
from mesh.links import LinkTimes, PeerLink
from mesh.manners import MAX_NAMED
from mesh.transports.tcp import TcpLink
from mesh.wire import (
    Bye,
    Frames,
    Journaled,
    Ping,
    Range,
    Served,
    SnapshotPart,
    Want,
    WantCertificates,
    WantSnapshot,
    decode,
    encode,
)
from tests.mesh.fuzz.worker import TcpNetwork, hello_of
from tests.mesh.world import World, converged, eventually, running, write

TIMES = LinkTimes(greet=5, beat=0.1, patience=0.3, barred=2.0, named=1.0)
HASTY = replace(TIMES, dead=1.5, trickle=2.0)


@pytest.fixture
def poor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts that even a slow machine overdraws, and no honest replica of these tests does."""
    monkeypatch.setattr(budget, "UNITS_PER_S", 1_000.0)
    monkeypatch.setattr(budget, "UNITS_MOST", 2_000.0)
    monkeypatch.setattr(budget, "DEBT_MOST", 200.0)


@asynccontextmanager
async def visited(
    world: World, times: LinkTimes = TIMES, **overrides: Any
) -> AsyncIterator[tuple[Replica, Link, PeerLink]]:
    """A replica, with a link of a member who has said hello and nothing else: both ends of it."""
    a = world.replica("a", times=times, **overrides)
    async with running(a):
        link = await greeted(world, a)
        try:
            yield a, link, a._check().exchange.links["greedy"]
        finally:
            await link.close()


async def greeted(world: World, a: Replica, name: str = "greedy") -> Link:
    link = await world.network.transport(name).dial(a.address)
    await link.send(encode(hello_of(world.identity(name), 7)))
    await eventually(lambda: name in a._check().exchange.links, "linked")
    return link


def remark(replica: Replica) -> str:
    """What health says of its peers."""
    return replica.health()["peers"].reason


async def doing(work: Awaitable[object], condition: Callable[[], bool], what: str) -> None:
    """Go on with it in the background until the condition holds."""
    task = asyncio.ensure_future(work)
    try:
        await eventually(condition, what)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def again_and_again(link: Link, message: object) -> None:
    with contextlib.suppress(MeshError):
        while True:
            await link.send(encode(message))


async def hear(link: Link, until: type[object], times: int = 1) -> list[Any]:
    """Read until so many of these came."""
    heard: list[Any] = []
    while sum(isinstance(one, until) for one in heard) < times:
        heard.append(decode(await asyncio.wait_for(link.receive(), 20)))
    return heard


# ------------------------------------------------------------------ too much


@pytest.mark.usefixtures("poor")
async def test_messages_without_a_frame_are_not_for_nothing(memory_world: World) -> None:
    async with visited(memory_world) as (a, link, _):
        flood = again_and_again(link, Frames(()))
        await doing(flood, lambda: "greedy asks for more" in remark(a), "it is named")
        assert memory_world.probes["a"].counts["link.error"] == 0


@pytest.mark.usefixtures("poor")
async def test_who_asks_for_too_much_is_slowed_down_and_named_for_a_while(
    memory_world: World,
) -> None:
    probe = memory_world.probes
    async with visited(memory_world) as (a, link, end):
        # Large ones: less of them is still on its way when it ends.
        flood = again_and_again(link, WantCertificates((1 << 50,) * 1_000))
        await doing(flood, lambda: "greedy asks for more" in remark(a), "it is named")
        part = a.health()["peers"]
        assert (part.state, part.cure[:4]) == ("degraded", "look")
        assert probe["a"].latest["link.limited"] == {"peer": "greedy", "count": 1}
        # It ends by itself, and nothing is held against it.
        pings = again_and_again_slowly(link)
        await doing(pings, lambda: not remark(a), "nobody is named any more")
        assert probe["a"].counts["link.barred"] == 0
        assert a._check().exchange.links["greedy"] is end
        assert a.health()["peers"].state == "ok"


async def again_and_again_slowly(link: Link) -> None:
    while True:
        await link.send(encode(Ping()))
        await asyncio.sleep(TIMES.beat)  # as an honest peer does


@pytest.mark.usefixtures("poor")
async def test_who_goes_on_gets_no_link_for_a_while(memory_world: World) -> None:
    async with visited(memory_world) as (a, link, _):
        probe, links = memory_world.probes["a"], a._check().exchange.links
        flood = again_and_again(link, Ping())
        await doing(flood, lambda: "greedy" not in links, "it loses its link")
        assert probe.latest["link.barred"] == {"peer": "greedy", "seconds": 2.0, "count": 1}
        assert "asked for more" in str(probe.latest["link.down"]["reason"])
        await eventually(lambda: "greedy asked for more" in remark(a), "it is named")
        barred = await memory_world.network.transport("greedy").dial(a.address)
        await barred.send(encode(hello_of(memory_world.identity("greedy"), 8)))
        (*_, bye) = await hear(barred, Bye)
        assert "may come back in" in bye.reason
        await eventually(lambda: not remark(a).startswith("greedy"), "nobody is named any more")
        await (await greeted(memory_world, a)).close()


@pytest.mark.usefixtures("poor")
async def test_a_new_link_is_no_new_account(memory_world: World) -> None:
    async with visited(memory_world) as (a, link, end):
        limited = lambda: memory_world.probes["a"].counts["link.limited"] > 0  # noqa: E731
        await doing(again_and_again(link, Ping()), limited, "limited")
        again = await greeted(memory_world, a)
        await eventually(lambda: a._check().exchange.links["greedy"] is not end, "replaced")
        assert a._check().exchange.links["greedy"].account is end.account
        await again.close()
        accounts = a._check().exchange.manners
        await eventually(lambda: not accounts._accounts, "forgotten once it is full again")


@pytest.mark.usefixtures("poor")
async def test_frames_that_are_here_are_read_more_slowly_and_end_no_link(
    memory_world: World,
) -> None:
    async with visited(memory_world) as (a, link, end):
        await write(a, "one")
        ((shard, _),) = a._check().core.written().items()
        (record,) = await memory_world.journal("a").frames(shard, a.session, 0, 1, 1)
        flood = again_and_again(link, Frames((record.data,) * 100))
        volume, now = end.account.volume, a._check().core.now
        over = lambda: volume.over_for(now()) > 2 * TIMES.patience  # noqa: E731
        await doing(flood, over, "over for long")
        assert "greedy asks for more" in remark(a)
        assert "greedy" in a._check().exchange.links


@pytest.mark.parametrize(
    ("request_", "answer"),
    [(Want(0, (Range(1, 0, 9),)), Served), (WantSnapshot(0), SnapshotPart)],
    ids=["frames", "snapshot"],
)
async def test_what_is_given_for_the_first_time_is_free_and_costs_from_then_on(
    memory_world: World, request_: Want | WantSnapshot, answer: type[object]
) -> None:
    async with visited(memory_world) as (a, link, end):
        for number in range(20):
            await write(a, number)
        (shard,) = a._check().core.written()
        if isinstance(request_, Want):
            request_ = Want(shard, (Range(a.session, 0, 20),))
        else:
            request_ = WantSnapshot(shard)
        account = end.account.volume
        await link.send(encode(request_))
        await hear(link, answer)
        await eventually(lambda: account._units == budget.UNITS_MOST, "nothing was charged")
        spent: list[float] = []
        account.spend = lambda units, now: spent.append(units)  # type: ignore[method-assign]
        await link.send(encode(request_))
        await hear(link, answer)
        await eventually(lambda: sum(spent) >= 20, "charged")


async def test_honest_replicas_are_never_limited(world: World) -> None:
    """Thousands of frames each way, and a start from nothing."""
    a, b, c = world.replica("a"), world.replica("b", "a"), world.replica("c", "a", "b")
    async with running(a, b):
        for number in range(300):
            for replica in (a, b):
                await write(replica, number, document=str(number % 7))
        await converged(a, b)
        async with running(c):
            await converged(a, b, c)
        for probe in world.probes.values():
            assert probe.counts["link.limited"] == 0
        assert not remark(a)


async def test_what_was_never_here_is_not_looked_for_and_not_remembered(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with visited(memory_world) as (a, link, end):
        await write(a, "one")
        (shard,) = a._check().core.written()
        asked: list[int] = []
        journal = memory_world.journal("a")
        frames = journal.frames

        async def counted(shard: int, session: int, *rest: int) -> Any:
            asked.append(session)
            return await frames(shard, session, *rest)

        monkeypatch.setattr(journal, "frames", counted)
        known = set(end.certified)
        nobody = [Range(1_000 + number, 0, 9) for number in range(2_000)]
        await link.send(encode(Want(shard, (*nobody, Range(a.session, 0, 1)))))
        await hear(link, Served)
        assert set(asked) == {a.session}
        assert end.certified == known
        assert len(end.given) == 1


async def test_what_a_peer_claims_to_know_is_bounded(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MAX_CERTIFIED", 10)
    monkeypatch.setattr(peers, "MAX_SNAPSHOT_SESSIONS", 10)
    async with visited(memory_world) as (a, link, end):
        for first in range(1, 100, 5):
            await link.send(encode(Journaled({0: dict.fromkeys(range(first, first + 5), 1)})))
            end.certify(range(first, first + 5))
        await link.send(encode(Want(0, (Range(1, 0, 9),))))
        await hear(link, Served)
        peer = a._check().core.book.get("greedy")
        assert peer is not None
        assert len(peer.known[0]) == 10
        assert len(end.certified) <= 10


# ------------------------------------------------------------------ nothing, or next to nothing


@pytest.fixture(params=["memory", "tcp"])
async def any_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Over the network in memory, and over real sockets."""
    made = World()
    if request.param == "tcp":
        vars(made)["network"] = TcpNetwork(made, tmp_path)
    yield made
    await made.close()


async def test_who_says_nothing_loses_its_link_and_is_named(any_world: World) -> None:
    async with visited(any_world, HASTY) as (a, _, _):
        await eventually(lambda: "greedy has been silent for 1.5 s" in remark(a), "it is named")
        assert not a._check().exchange.links
        await eventually(lambda: not remark(a).startswith("greedy"), "it has gone for a while")


async def test_one_byte_now_and_then_is_no_conversation(tmp_path: Path) -> None:
    world = World()
    vars(world)["network"] = TcpNetwork(world, tmp_path)
    async with visited(world, HASTY) as (a, link, end):
        writer = cast(TcpLink, link)._writer

        async def trickle() -> None:
            writer.write(b"\0\1\0\0")  # a message of 64 KiB follows
            while True:
                await handed_over(writer, b"\0", end)

        named = "greedy has sent no whole message for 2 s"
        await doing(trickle(), lambda: named in remark(a), "it is named")
        assert "no whole message" in str(world.probes["a"].latest["link.down"]["reason"])
        await eventually(lambda: not remark(a).startswith("greedy"), "it has gone for a while")
    await world.close()


async def handed_over(writer: asyncio.StreamWriter, data: bytes, end: PeerLink) -> None:
    """Send the next part of a message, and wait until some of it has come."""
    before = end._link.received_bytes
    writer.write(data)
    await eventually(lambda: end._link.received_bytes > before, "it came")


async def test_a_large_message_may_take_its_time(tmp_path: Path) -> None:
    """Longer than `trickle`, as long as it grows."""
    world = World()
    vars(world)["network"] = TcpNetwork(world, tmp_path)
    async with visited(world, HASTY) as (a, link, end):
        writer = cast(TcpLink, link)._writer
        begun = a._check().core.now()
        writer.write(b"\0\x40\0\0")  # 4 MiB
        while a._check().core.now() < begun + 1.5 * HASTY.trickle:
            await handed_over(writer, b"\0" * 1_024, end)
        assert "greedy" in a._check().exchange.links
        assert not remark(a)
    await world.close()


# ------------------------------------------------------------------ who does not read


async def test_who_does_not_read_is_named_until_it_does(any_world: World) -> None:
    async with visited(any_world, HASTY, peers__send_buffer_bytes=65_536) as (a, link, end):
        probe = any_world.probes["a"]
        pings = asyncio.ensure_future(again_and_again_slowly(link))
        await _write_until(a, lambda: end.queue.behind)
        await eventually(lambda: "greedy" in remark(a), "it is named")
        await eventually(lambda: "greedy has not taken a message" in remark(a), "for longer")
        assert probe.counts["link.overflow"] > 0
        assert "greedy" in a._check().exchange.links
        await doing(_read(link), lambda: not remark(a), "it reads, so that nobody is named")
        assert not end.queue.behind
        pings.cancel()


async def test_who_does_not_read_and_goes_is_named_for_a_while(memory_world: World) -> None:
    async with visited(memory_world, HASTY, peers__send_buffer_bytes=65_536) as (a, link, end):
        pings = asyncio.ensure_future(again_and_again_slowly(link))
        await _write_until(a, lambda: end.queue.behind)
        await eventually(lambda: "has not taken a message" in remark(a), "it is named")
        pings.cancel()
        await link.close()
        await eventually(lambda: "greedy took nothing for" in remark(a), "it is remembered")
        await eventually(lambda: "greedy" not in remark(a), "it has gone for a while")


async def test_only_so_many_are_named_at_once(memory_world: World) -> None:
    a = memory_world.replica("a", times=HASTY)
    async with running(a):
        names = [f"silent-{number:02}" for number in range(MAX_NAMED + 4)]
        links = [await greeted(memory_world, a, name) for name in names]
        await eventually(lambda: "and 4 more" in remark(a), "not all are named")
        assert remark(a).count("silent-") == MAX_NAMED
        assert len(a.health()["peers"].reason) < 1_000
        for link in links:
            await link.close()


async def _write_until(replica: Replica, condition: Callable[[], bool]) -> None:
    text = random.Random(1)
    for _ in range(1_000):
        if condition():
            return
        await write(replica, text.randbytes(50_000).hex())
    raise AssertionError("a peer that does not read takes any amount")


async def _read(link: Link) -> None:
    with contextlib.suppress(MeshError):
        while True:
            await link.receive()

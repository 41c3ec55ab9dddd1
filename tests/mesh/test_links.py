"""One link: peers that ask and never read, and peers whose messages take their time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

import pytest

from mesh import Replica, repair
from mesh.environment import Link, LinkClosed
from mesh.links import LinkTimes
from mesh.transports.memory import MemoryLink
from mesh.wire import (
    WIRE_NEWEST,
    WIRE_OLDEST,
    Frames,
    Hello,
    Range,
    Want,
    WantCertificates,
    decode,
    encode,
)
from tests.mesh.world import World, eventually, running, write


async def greeted(world: World, replica: Replica, name: str) -> Link:
    """The end of a link of a peer that has said hello to the replica, and nothing since."""
    identity = world.identity(name)
    key = identity.new_session(world.clock, world.entropy)
    link = await world.network.transport(name).dial(replica.name)
    hello = Hello(
        WIRE_OLDEST, WIRE_NEWEST, identity.mesh.id, name, key.session, key.certificate, ()
    )  # fmt: skip
    await link.send(encode(hello))
    assert isinstance(decode(await link.receive()), Hello)
    await eventually(lambda: name in replica._check().exchange.links, "linked")
    return link


async def test_a_peer_that_asks_and_never_reads_loses_its_link(memory_world: World) -> None:
    world = memory_world
    replica = world.replica("a")
    async with running(replica):
        link = await greeted(world, replica, "deaf")
        queue = replica._check().exchange.links["deaf"].queue
        question = encode(WantCertificates((replica.session,) * 1_024))
        most = 0
        with contextlib.suppress(LinkClosed):
            for _ in range(200):
                await link.send(question)
                await asyncio.sleep(0)
                most = max(most, queue.bytes)
        await eventually(lambda: world.probes["a"].counts["link.down"] == 1, "closed")
        assert world.probes["a"].counts["link.deaf"] == 1
        assert "does not read" in str(world.probes["a"].latest["link.down"]["reason"])
        assert most <= 40 << 20


async def test_requests_that_come_faster_than_they_are_served_are_all_served(
    memory_world: World,
) -> None:
    world = memory_world
    replica = world.replica("a")
    async with running(replica):
        for number in range(3):
            await write(replica, number)
        (shard,) = replica._check().core.written()
        link = await greeted(world, replica, "asker")
        end = replica._check().exchange.links["asker"]
        for number in range(3):
            end.ask(Want(shard, (Range(replica.session, number, number + 1),)))
        got: list[bytes] = []
        while len(got) < 3:
            message = decode(await asyncio.wait_for(link.receive(), 5))
            if isinstance(message, Frames):
                got += message.frames
        opener = replica._check().core.opener
        assert [opener.header(frame).first for frame in got] == [1, 2, 3], "each once, in order"


async def test_who_asks_for_more_sessions_than_there_can_be_sends_garbage(
    memory_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "MAX_SESSIONS", 2)
    world = memory_world
    replica = world.replica("a")
    async with running(replica):
        await greeted(world, replica, "greedy")
        end = replica._check().exchange.links["greedy"]
        for session in range(1, 1_000):
            end.ask(Want(0, (Range(session, 0, 1),)))
        await eventually(lambda: world.probes["a"].counts["link.flood"] == 1, "closed")


async def test_silence_is_when_no_bytes_come(memory_world: World) -> None:
    """A large message on a slow link is no silence: what arrives of it counts."""
    world = memory_world
    replica = world.replica("a", times=LinkTimes(beat=0.1, dead=0.3))
    async with running(replica):
        await greeted(world, replica, "slow")
        probe = world.probes["a"]
        end = cast(MemoryLink, replica._check().exchange.links["slow"]._link)
        for _ in range(20):
            end.received_bytes += 1
            await asyncio.sleep(0.05)
        assert probe.counts["link.down"] == 0
        await eventually(lambda: probe.counts["link.down"] == 1, "given up")
        assert "silent" in str(probe.latest["link.down"]["reason"])

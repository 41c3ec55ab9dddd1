"""Peers that are silent, or want too much: they lose their links, and honest traffic goes on."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crdt.errors import MeshError
from mesh import Replica
from mesh.environment import Link
from mesh.links import LinkTimes
from mesh.presence import Said, encode_said
from mesh.wire import (
    Certificates,
    Frames,
    Frontier,
    Graft,
    Holds,
    Journaled,
    Message,
    Ping,
    Prune,
    Range,
    RosterVersion,
    Served,
    Summary,
    SummaryRow,
    Want,
    WantCertificates,
    WantKeys,
    WantRest,
    WantSnapshot,
    decode,
    encode,
)
from mesh.wire.presence import Presence, PresenceRow
from tests.mesh.fuzz.worker import hello_of
from tests.mesh.world import World, converged, eventually, running, write

TIMES = LinkTimes(greet=0.2, beat=0.1, dead=0.3, patience=0.5, barred=0.2, named=0.2)
FLOOD = 20_000
USUAL_S = 2.0
"""Within which a write gets to the other replica: 10 ms, and a hundred times that where others use
the machine.
"""
MEMORY_BYTES = 64 << 20


@asynccontextmanager
async def pair(world: World) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two honest replicas, linked."""
    a = world.replica("a", times=TIMES)
    b = world.replica("b", "a", times=TIMES)
    async with running(a, b):
        await write(a, "first")
        await converged(a, b)
        yield a, b


async def greeted(world: World, address: str) -> Link:
    """A link of another member, who has said hello and nothing else."""
    link = await world.network.transport("greedy").dial(address)
    await link.send(encode(hello_of(world.identity("greedy"), 7)))
    return link


async def test_who_never_greets_is_given_up(memory_world: World) -> None:
    async with pair(memory_world) as (a, b):
        link = await memory_world.network.transport("greedy").dial(a.address)
        probe = memory_world.probes["a"]
        await eventually(lambda: probe.counts["link.refused"] > 0, "refused")
        assert "did not greet in time" in str(probe.latest["link.refused"]["reason"])
        await link.close()
        await write(b, "goes on")
        await converged(a, b)


async def test_who_is_silent_after_greeting_is_given_up(memory_world: World) -> None:
    async with pair(memory_world) as (a, b):
        link = await greeted(memory_world, a.address)
        probe = memory_world.probes["a"]
        await eventually(lambda: probe.counts["link.down"] > 0, "given up")
        assert "silent" in str(probe.latest["link.down"]["reason"])
        await link.close()
        await write(b, "goes on")
        await converged(a, b)


def valid_messages(world: World, a: Replica, frame: bytes) -> dict[str, Message]:
    """One of each kind that anybody may send at any time."""
    mine = world.identity("greedy").new_session(world.clock, world.entropy)
    rows = tuple(SummaryRow(shard, 0, b"f", b"d", 0) for shard in range(4))
    said = tuple(
        PresenceRow(f"ghost-{number}", 1, number + 1, 1, 1_000, encode_said(Said(1_000, "")))
        for number in range(64)
    )
    messages: tuple[Message, ...] = (
        Ping(), Summary(()), Summary(rows), WantCertificates((a.session, 2)), WantSnapshot(0),
        Want(0, (Range(a.session, 0, 1 << 40),)), Want(1, (Range(5, 0, 1 << 40),)),
        Frontier(0, 0, 0, 0, True, b"d", {}), Journaled({0: {7: 7}}), Served(0, pruned=True),
        Frames((frame,)), Frames(()), Certificates((mine.certificate,)), Prune((a.session,)),
        Graft((a.session,)), Presence(said), RosterVersion(0, ()), WantKeys((1,)), Holds((0, 1)),
        WantRest(0, 1, 1),
    )  # fmt: skip
    return {f"{number} {type(one).__name__}": one for number, one in enumerate(messages)}


@pytest.mark.parametrize("number", range(20))
async def test_a_flood_of_valid_messages_does_not_stop_others(
    memory_world: World, number: int
) -> None:
    world = memory_world
    async with pair(world) as (a, b):
        (shard,) = a._check().core.written()
        records = await world.journal("a").frames(shard, a.session, 0, 1, 1)
        probe = world.probes["a"]
        name, message = list(valid_messages(world, a, records[0].data).items())[number]
        link = await greeted(world, a.address)
        heard = asyncio.ensure_future(_listen(link))
        await eventually(lambda: "greedy" in a._check().exchange.links, "linked")
        end = a._check().exchange.links["greedy"]
        flood = asyncio.ensure_future(_flood(link, encode(message)))
        before, slowest, writes = _resident(), 0.0, 0
        while writes < 10 or not (end._messages >= FLOOD or probe.counts["link.limited"]):
            begun, writes = time.perf_counter(), writes + 1
            await write(b, writes)
            await converged(a, b)
            slowest = max(slowest, time.perf_counter() - begun)
        assert slowest < USUAL_S, name
        assert _resident() - before < MEMORY_BYTES, name
        for task in (flood, heard):
            task.cancel()
        await link.close()
        health = a.health
        await eventually(lambda: "greedy" not in health()["peers"].reason, "nobody is named")
        assert probe.counts["link.error"] == 0
        assert b.name in a._check().exchange.links


async def test_who_asks_and_never_reads_loses_its_link(memory_world: World) -> None:
    async with pair(memory_world) as (a, b):
        link = await greeted(memory_world, a.address)
        await _flood(link, encode(WantCertificates((a.session,) * 1000)))
        probe = memory_world.probes["a"]
        await eventually(lambda: probe.counts["link.deaf"] > 0, "it is deaf")
        await link.close()
        await write(b, "goes on")
        await converged(a, b)


async def _flood(link: Link, message: bytes) -> None:
    with contextlib.suppress(MeshError):
        for _ in range(FLOOD + 1):
            await link.send(message)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


async def _listen(link: Link) -> None:
    with contextlib.suppress(MeshError):
        while True:
            decode(await link.receive())

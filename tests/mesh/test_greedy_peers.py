"""Peers that are silent, or want too much: they lose their links, and honest traffic goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from crdt.errors import MeshError
from mesh import Replica
from mesh.environment import Link
from mesh.links import LinkTimes
from mesh.wire import (
    Message,
    Ping,
    Range,
    Summary,
    Want,
    WantCertificates,
    WantRest,
    WantSnapshot,
    decode,
    encode,
)
from tests.mesh.fuzz.worker import hello_of
from tests.mesh.world import World, converged, eventually, running, write

TIMES = LinkTimes(greet=0.2, beat=0.1, dead=0.3)
FLOOD = 20_000


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


@pytest.mark.parametrize(
    "request_",
    [
        Ping(), Summary(()), WantCertificates((1, 2)), WantSnapshot(0),
        WantRest(0, 1, 1), Want(0, (Range(5, 0, 1 << 40),)),
    ],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
async def test_a_flood_of_requests_does_not_stop_others(
    memory_world: World, request_: Message
) -> None:
    async with pair(memory_world) as (a, b):
        link = await greeted(memory_world, a.address)
        heard = asyncio.ensure_future(_listen(link))
        flood = asyncio.ensure_future(_flood(link, encode(request_)))
        for number in range(10):
            await write(b, number)
            await converged(a, b)
        await flood
        heard.cancel()
        await link.close()
        assert memory_world.probes["a"].counts["link.error"] == 0


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
        for _ in range(FLOOD):
            await link.send(message)


async def _listen(link: Link) -> None:
    with contextlib.suppress(MeshError):
        while True:
            decode(await link.receive())

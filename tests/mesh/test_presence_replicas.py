"""Presence between replicas: said once, known to all, gone with whoever said it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crdt.errors import CallerError, InvalidValue
from mesh import Replica, ReplicaClosed
from mesh.links import LinkTimes
from tests.mesh.world import World, crash, eventually, running

FAST: dict[str, Any] = {"replica__presence_interval_s": 0.05}


def names(replica: Replica) -> list[str]:
    return [present.name for present in replica.presence.all()]


def said(replica: Replica, name: str) -> dict[str, Any] | None:
    present = replica.presence.get(name)
    return None if present is None else dict(present.data)


async def test_everybody_knows_what_everybody_says(memory_world: World) -> None:
    """Also where there is no link: b and c hear of each other through a."""
    world = memory_world
    a, b, c = world.replica("a"), world.replica("b", "a"), world.replica("c", "a")
    async with running(a, b, c):
        b.presence.set(status="busy", capacity=3, at={"line": [1, 2]})
        c.presence.set(status="idle")
        await eventually(lambda: (said(c, "b") or {}).get("status") == "busy", "c hears b")
        await eventually(lambda: (said(b, "c") or {}).get("status") == "idle", "b hears c")
        await eventually(lambda: names(a) == names(b) == names(c) == ["a", "b", "c"], "names")
        present = c.presence.get("b")
        assert present is not None
        assert (present.session, present.address) == (b.session, b.address)
        assert 0 < present.expires_in_s <= 8.0
        assert present.data["at"]["line"] == (1, 2), "frozen, lists as tuples"
        with pytest.raises(TypeError):
            present.data["status"] = "free"  # type: ignore[index]
        b.presence.clear()
        await eventually(lambda: said(c, "b") == {}, "cleared")
        assert c.presence.get("nobody") is None
    journals = [await world.journal(name).replay(0, 100) for name in "abc"]
    assert journals == [[], [], []], "presence is never journaled"


async def test_who_closes_is_gone_at_once_and_who_vanishes_soon(memory_world: World) -> None:
    world = memory_world
    a = world.replica("a", **FAST)
    b, c = world.replica("b", "a"), world.replica("c", "a", **FAST)
    async with running(a):
        await b.start()
        await c.start()
        await eventually(lambda: names(a) == ["a", "b", "c"], "all there")
        began = asyncio.get_running_loop().time()
        await b.close()
        await eventually(lambda: names(a) == ["a", "c"], "b said that it leaves")
        assert asyncio.get_running_loop().time() - began < 4, "not only when it expired"
        assert world.probes["a"].counts["presence.expired"] == 0
        await crash(c)
        await eventually(lambda: names(a) == ["a"], "c expired")
        await eventually(lambda: world.probes["a"].counts["presence.expired"] == 1, "once")


async def test_a_new_session_replaces_the_old(memory_world: World) -> None:
    world = memory_world
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a):
        await b.start()
        b.presence.set(run=1)
        await eventually(lambda: said(a, "b") == {"run": 1}, "the first")
        await crash(b)
        again = world.replica("b", "a")
        async with running(again):
            again.presence.set(run=2)
            await eventually(lambda: said(a, "b") == {"run": 2}, "the second")
            present = a.presence.get("b")
            assert present is not None
            assert present.session == again.session


async def test_watch_tells_changes_and_merges_for_who_lags(memory_world: World) -> None:
    world = memory_world
    a, b = world.replica("a", **FAST), world.replica("b", "a", **FAST)
    async with running(a):
        watch = a.presence.watch()
        async with running(b):
            for count in range(20):
                b.presence.set(count=count)
                await asyncio.sleep(0)
            await eventually(lambda: said(a, "b") == {"count": 19}, "the last")
            beats = a._started().heartbeats
            version = beats.table.version("b")
            await eventually(lambda: beats.table.version("b") > (version[0], version[1] + 3), "")
            change = await asyncio.wait_for(anext(watch), 5)
            assert change.name == "b"
            assert change.present is not None
            assert change.present.data == {"count": 19}, "only the newest, and no heartbeats"
        change = await asyncio.wait_for(anext(watch), 5)
        assert (change.name, change.present) == ("b", None)
        a.presence.set(mine=True)
        change = await asyncio.wait_for(anext(watch), 5)
        assert change.name == "a", "of itself too"
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(watch), 5)


async def test_bad_presence_is_refused_and_changes_nothing(memory_world: World) -> None:
    a = memory_world.replica("a")
    with pytest.raises(ReplicaClosed):
        a.presence.all()
    async with running(a):
        a.presence.set(status="fine")
        for wrong in ({"x": object()}, {"x": {1: 2}}):
            with pytest.raises(InvalidValue):
                a.presence.set(**wrong)
        with pytest.raises(CallerError, match="4096"):
            a.presence.set(text="x" * 5000)
        with pytest.raises(CallerError, match="32"):
            a.presence.set(**{f"f{number}": 1 for number in range(33)})
        assert said(a, "a") == {"status": "fine"}


async def test_presence_goes_on_where_a_link_is_lost(memory_world: World) -> None:
    """b and c lose each other, and still hear of each other through a."""
    world = memory_world
    times = LinkTimes(beat=0.05, dead=0.3)
    a = world.replica("a", times=times, **FAST)
    b = world.replica("b", "a", "c", times=times, **FAST)
    c = world.replica("c", "a", "b", times=times, **FAST)
    async with running(a, b, c):
        await eventually(lambda: names(b) == names(c) == ["a", "b", "c"], "all there")
        world.network.cut("b", "c")
        await eventually(lambda: not {peer.name for peer in b.peers() if peer.connected} & {"c"})
        b.presence.set(after="cut")
        await eventually(lambda: said(c, "b") == {"after": "cut"}, "by way of a")
        world.isolate("c")
        await eventually(lambda: names(c) == ["c"], "alone")
        await eventually(lambda: names(a) == ["a", "b"], "without c")
        world.network.heal()
        await eventually(lambda: names(a) == names(b) == names(c) == ["a", "b", "c"], "healed")

"""Callbacks of durability: once, on the loop, cancellable, never silent."""

from __future__ import annotations

import asyncio

import pytest

from mesh import Backpressure, CallerError, Durability, FlushResult
from tests.mesh.world import Note, World, eventually, running


def put(replica: object, text: str) -> None:
    with replica.edit(Note, "1") as note:  # type: ignore[attr-defined]
        note.text = text


async def test_a_callback_gets_the_result_of_everything_written_until_then() -> None:
    world = World()
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(a, b):
        heard: list[FlushResult] = []
        put(a, "one")
        handle = a.on_durable(Durability.PEERS(1), heard.append)
        written = dict(a.frontier())
        await eventually(lambda: bool(heard))
        result = heard[0]
        assert result.level == Durability.PEERS(1)
        assert result.session == a.session
        assert result.replicas == ("b",)
        assert result.of == 1
        assert {shard: {a.session: seq} for shard, seq in result.written.items()} == {
            shard: frontier for shard, frontier in written.items() if frontier
        }
        assert handle.done
        put(a, "two")
        await a.flush(Durability.PEERS(1), timeout=5)
        assert len(heard) == 1, "it is called once"
    await world.close()


async def test_what_is_durable_already_is_told_at_once_but_not_inside_the_call() -> None:
    world = World()
    a = world.replica("a")
    async with running(a):
        heard: list[FlushResult] = []
        a.on_durable(Durability.JOURNAL, heard.append)
        assert not heard
        await eventually(lambda: bool(heard))
        assert heard[0].written == {}
        assert heard[0].of is None
    await world.close()


async def test_cancelled_callbacks_are_not_called_and_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mesh.flushing.MAX_CALLBACKS", 2)
    world = World()
    a = world.replica("a")
    async with running(a):
        heard: list[FlushResult] = []
        put(a, "one")
        first = a.on_durable(Durability.PEERS(1), heard.append)
        a.on_durable(Durability.PEERS(1), heard.append)
        with pytest.raises(Backpressure, match="at most 2"):
            a.on_durable(Durability.PEERS(1), heard.append)
        first.cancel()
        first.cancel()
        await asyncio.sleep(0)
        second = a.on_durable(Durability.PEERS(1), heard.append)
        second.cancel()
        await asyncio.sleep(0)
        with pytest.raises(CallerError, match=r"redis\.url"):
            a.on_durable(Durability.BUS, heard.append)
    assert not heard
    assert world.probes["a"].counts["durability.abandoned"] == 1, "the replica ended before"
    await world.close()


async def test_a_callback_that_raises_is_told_and_hurts_nobody() -> None:
    world = World()
    a = world.replica("a")
    async with running(a):

        def broken(result: FlushResult) -> None:
            raise ZeroDivisionError("mine")

        put(a, "one")
        a.on_durable(Durability.JOURNAL, broken)
        probe = world.probes["a"]
        await eventually(lambda: probe.counts["durability.failed"] == 1)
        assert "mine" in str(probe.latest["durability.failed"]["reason"])
        put(a, "two")
        await a.flush(timeout=5)
    await world.close()

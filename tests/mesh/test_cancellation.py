"""Cancelled at every await of opening, editing, flushing and closing: nothing half done, nothing
left behind.
"""

from __future__ import annotations

import asyncio
import itertools
import types
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest

from mesh import Durability, Replica
from tests.mesh.world import Note, World, eventually, running

STEPS_MAX = 400


@types.coroutine
def cancelled_at(step: int, coroutine: Coroutine[Any, Any, None]) -> Generator[Any, None, bool]:
    """Run it, and cancel the task when the coroutine waits for the `step`-th time; whether it
    ended before. What `Task.cancel` does is done: the future waited for is cancelled.
    """
    resume: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731
    for at in itertools.count():
        try:
            waited_for = resume()
        except StopIteration:
            return True
        if at == step:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            yield waited_for
        except BaseException as error:  # noqa: BLE001 - thrown into the coroutine
            resume = lambda error=error: coroutine.throw(error)  # type: ignore[misc]  # noqa: E731
        else:
            resume = lambda: coroutine.send(None)  # noqa: E731
    raise AssertionError("unreachable")


async def attempt(step: int, coroutine: Coroutine[Any, Any, None]) -> bool:
    """Whether it ended without being cancelled. No task of it is left either way."""

    async def whole() -> bool:
        return await cancelled_at(step, coroutine)

    before = asyncio.all_tasks()
    task = asyncio.create_task(whole())
    await asyncio.wait([task])
    left = asyncio.all_tasks() - before
    assert not left, f"step {step}: {left}"
    return not task.cancelled() and task.result()


def write_pair(replica: Replica, text: str) -> None:
    with replica.transaction(type="note.pair") as tx:
        tx.edit(Note, "{1}/a").text = text
        tx.edit(Note, "{1}/b").text = text


def pair(replica: Replica) -> tuple[object, object]:
    a, b = replica.get(Note, "{1}/a"), replica.get(Note, "{1}/b")
    return (a and a.text, b and b.text)


async def session(path: Path, text: str, done: list[str]) -> None:
    async with Replica.open(path, peers__listen="") as replica:
        write_pair(replica, text)
        await replica.flush(timeout=10)
        done.append(text)
        write_pair(replica, f"{text} later")
        await replica.close(Durability.JOURNAL, timeout=10)
        done.append(f"{text} later")


async def test_at_every_await_of_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATEMESH_HOME", str(tmp_path / "home"))
    path = tmp_path / "a"
    done: list[str] = []
    for step in range(STEPS_MAX):
        ended = await attempt(step, session(path, str(step), done))
        async with Replica.open(path, peers__listen="") as replica:  # it can be opened again
            one, other = pair(replica)
            assert one == other, "a transaction is there or not"
            core = replica._started().core
            assert all(host.inbox.frames == 0 for host in core.hosts)
            if done:
                # What a flush promised is there; what came after it may be.
                last = done[-1]
                assert one in (last, f"{last} later", str(step), f"{step} later")
        if ended:
            break
    assert ended
    assert step > 5, "it was cancelled somewhere"
    assert done[-1] == f"{step} later"


async def test_closing_that_is_cancelled_still_brings_all_to_disk_and_waits_for_nobody() -> None:
    for step in range(STEPS_MAX):
        world = World()
        a = world.replica("a", replica__close_timeout_s=60)
        b = world.replica("b", "a")
        async with running(b):
            await a.start()
            write_pair(a, "1")
            await a.flush(Durability.PEERS(1), timeout=10)
            world.isolate("b")
            write_pair(a, "2")
            ended = await attempt(step, a.close()) if step else False
            if not step:
                closing = asyncio.create_task(a.close())
                await asyncio.sleep(0)
                closing.cancel()
                await asyncio.wait([closing], timeout=20)
                assert closing.cancelled()
            assert a._runner is not None
            assert a._runner.done()
        again = world.replica("a")
        async with running(again):
            assert pair(again) == ("2", "2")
        await world.close()
        if ended or step > 3:
            break


async def test_a_flush_that_is_cancelled_leaves_no_waiter() -> None:
    world = World()
    a = world.replica("a")
    async with running(a):
        waiters = a._started().core.waiters
        write_pair(a, "1")
        await a.flush(timeout=10)
        before = len(waiters)
        waiting = asyncio.create_task(a.flush(Durability.PEERS(1)))
        await eventually(lambda: len(waiters) == before + 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert len(waiters) == before
    await world.close()

"""The end of a session: signed, kept, known to others, and over in bounded time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mesh import Durability, FlushTimeout, ReplicaClosed
from tests.mesh.world import Note, World, crash, eventually, running, write


async def test_others_learn_that_a_session_ended_and_with_which_last_operation() -> None:
    world = World()
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(b):
        await a.start()
        await write(a, "one", "two")
        await a.flush(Durability.PEERS(1), timeout=5)
        session = a.session
        last = {shard: seqs[session] for shard, seqs in a.frontier().items() if seqs}
        await a.close()
        core = b._started().core
        await eventually(lambda: session in core.closed)
        assert core.closed[session] == {shard: seq + 1 for shard, seq in last.items()}
        assert world.probes["b"].counts["session.closed"] == len(last)
        note = b.get(Note, "1")
        assert note is not None
        assert note.text == "two"
    await world.close()


async def test_a_session_that_wrote_nothing_or_crashed_signs_no_end() -> None:
    world = World()
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(b):
        await a.start()
        await a.close()
        again = world.replica("a")
        await again.start()
        await write(again, "one")
        await again.flush(Durability.PEERS(1), timeout=5)
        await crash(again)
        assert b._started().core.closed == {}
        assert b.frontier() == again.frontier()
    await world.close()


async def test_closed_sessions_are_known_after_a_start_and_after_their_frames_are_gone(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    a = world.replica("a")
    async with running(a):
        await write(a, "one")
        session = a.session
    await world.reopen("a")
    second = world.replica("a")
    async with running(second):
        assert session in second._started().core.closed, "from the frame"
        await write(second, "two")
        later = second.session
    await world.reopen("a")
    third = world.replica("a")
    async with running(third):
        core = third._started().core
        assert {session, later} <= core.closed.keys()
        third._started().committer.compact()
        await write(third, "three")
        await eventually(lambda: world.probes["a"].counts["journal.pruned"] > 0)
        meta = await core.environment.journal.meta()
        assert meta["sessions.closed"] == core.closed_meta()
    await world.reopen("a")
    fourth = world.replica("a")
    async with running(fourth):
        assert {session, later} <= fourth._started().core.closed.keys()
    await world.close()


async def test_close_reaches_the_level_or_says_that_it_did_not_after_all_is_released() -> None:
    world = World()
    a, b = world.replica("a"), world.replica("b", "a")
    async with running(b):
        await a.start()
        with a.edit(Note, "1") as note:
            note.text = "handed over"
        await a.close(Durability.PEERS(1), timeout=5)
        assert b.exists(Note, "1")
    alone = world.replica("a")
    await alone.start()
    with alone.edit(Note, "2") as note:
        note.text = "alone"
    with pytest.raises(FlushTimeout, match=r"PEERS\(1\)"):
        await alone.close(Durability.PEERS(1), timeout=0.05)
    assert alone._runner is not None
    assert alone._runner.done()
    await alone.close(Durability.PEERS(1), timeout=0.05)
    after = world.replica("a")
    async with running(after):
        assert after.exists(Note, "2"), "what was owed is kept"
    await world.close()


async def test_while_it_closes_edits_are_refused_and_waiters_are_answered() -> None:
    world = World()
    a = world.replica("a")
    await a.start()
    with a.edit(Note, "1") as note:
        note.text = "one"
    waiting = asyncio.ensure_future(a.flush(Durability.PEERS(1)))
    changes = a.watch()
    closing = asyncio.ensure_future(a.close())
    await asyncio.sleep(0)
    await eventually(lambda: a._started().editor.unusable != "")
    with pytest.raises(ReplicaClosed), a.edit(Note, "2"):
        pytest.fail("no edit after the end")
    await closing
    with pytest.raises(ReplicaClosed):
        await waiting
    assert [change async for change in changes] == []
    await world.close()

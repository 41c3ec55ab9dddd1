"""When what was written leaves, with no spacing between flushes, which is the default: at once from
an idle replica, together from a busy one, and the event loop always goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from mesh import Settings
from persistence.base import FrameRecord
from persistence.memory import MemoryJournal
from tests.mesh.world import Note, World, eventually, running

AS_IT_COMES: dict[str, Any] = {"replica__flush_interval_ms": Settings().replica.flush_interval_ms}
FEW_TURNS = 4
"""Of the loop: the committer wakes, and a call to a journal in memory takes one."""


class CountingJournal(MemoryJournal):
    """Remembers how many own frames each commit had; holds commits back on request."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[int] = []
        self.open = asyncio.Event()
        self.open.set()

    async def append(self, frames: Sequence[FrameRecord]) -> int:
        await self.open.wait()
        self.commits.append(len(frames))
        return await super().append(frames)


class PromptJournal(MemoryJournal):
    """Never suspends its callers."""

    async def _turn(self) -> None:
        return


def test_there_is_no_spacing_by_default() -> None:
    assert AS_IT_COMES == {"replica__flush_interval_ms": 0}


async def test_an_edit_on_an_idle_replica_is_written_and_sent_at_once(memory_world: World) -> None:
    world = memory_world
    journal = world.journals["a"] = CountingJournal()
    a, b = world.replica("a", **AS_IT_COMES), world.replica("b", "a", **AS_IT_COMES)
    async with running(a, b):
        await eventually(lambda: len(a.peers()) == 1, "linked")
        # Right after another one, which with any interval is what has to wait.
        for number in range(1, 4):
            with a.edit(Note, "n") as note:
                note.text = str(number)
            for _ in range(FEW_TURNS):
                await asyncio.sleep(0)
            assert journal.commits == [1] * number
            assert sum(a.journaled()[a._check().editor.host("Note/n").index].values()) == number
            await eventually(lambda: b.frontier() == a.frontier(), f"{number} sent")


async def test_what_is_written_during_a_commit_shares_the_next_frame(memory_world: World) -> None:
    journal = memory_world.journals["a"] = CountingJournal()
    a = memory_world.replica("a", **AS_IT_COMES)
    async with running(a):
        journal.open.clear()
        for number in range(100):
            with a.edit(Note, "n") as note:
                note.text = str(number)
            await asyncio.sleep(0)
        assert journal.commits == []
        journal.open.set()
        await a.flush(timeout=5)
        assert journal.commits == [1, 1], "the first one alone, the others in one frame"
        shard = a._check().editor.host("Note/n").index
        first, second = await journal.frames(shard, a.session, 0, 1_000, 10)
        assert (first.first, first.last, second.first, second.last) == (1, 1, 2, 100)


async def test_a_journal_that_never_suspends_does_not_starve_the_loop(memory_world: World) -> None:
    memory_world.journals["a"] = PromptJournal()
    a = memory_world.replica("a", **AS_IT_COMES)
    async with running(a):
        committer = a._check().committer
        published, rounds = committer._outlet.published, 0

        def busy() -> None:
            # As with a peer whose words always ask for one more look.
            nonlocal rounds
            rounds += 1
            published()
            if rounds < 1_000:
                committer.want_capture()

        committer._outlet.published = busy  # type: ignore[method-assign]
        committer.want_capture()
        for _ in range(50):
            await asyncio.sleep(0)
        assert 10 < rounds < 100, "a round for each turn of the loop, more or less"
        committer._outlet.published = published  # type: ignore[method-assign]

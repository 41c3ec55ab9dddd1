"""Opening a large journal: others who share the event loop hardly notice."""

from __future__ import annotations

import asyncio
import gc
import time

from persistence.journal import recover_journal
from persistence.memory import MemoryJournal
from tests.persistence.world import make_mesh, make_opener, make_writer

MOST_S = 0.1


async def test_the_event_loop_goes_on_while_a_journal_is_read() -> None:
    authority = make_mesh()
    writer = make_writer(authority, "agent-a")
    journal = MemoryJournal()
    for start in range(0, 12_000, 2_000):
        records = [
            record
            for at in range(start, start + 2_000)
            for record in writer.write((at % 4, f"Task/{at}", at))
        ]
        position = await journal.append(records)
    for shard in (0, 1, 2):
        await journal.save_snapshot(writer.snapshot(shard, position))
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - before)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    before = time.perf_counter()
    found = await recover_journal(journal, make_opener(authority))
    took = time.perf_counter() - before
    beating.cancel()
    assert {n: shard.digest() for n, shard in found.shards.items()} == {
        n: shard.digest() for n, shard in writer.shards.items()
    }
    assert worst < max(MOST_S, took / 3), f"blocked for {worst:.3f} of {took:.3f} s"
    assert gc.isenabled(), "the collector is back"

"""A replica that lost everything: how soon it has it again, from the log or from checkpoints."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import Mapping
from typing import Final

from benchmarks.harness import BenchmarkError, Figure, Run
from benchmarks.material import TURN, Fleet, Reading, alone
from mesh import Durability, Replica, Settings

OVERWRITES: Final = 10
TAIL_SHARE: Final = 20
FLUSH_S: Final = 100.0
POLL_S: Final = 0.005
NEVER_S: Final = 86_400.0

Frontier = Mapping[int, Mapping[int, int]]


async def measure(run: Run, servers: str, dsn: str) -> None:
    """From `Replica.open` on an empty folder until every event is applied and on its disk."""
    events = run.size(100_000, 2_000)
    tail = events // TAIL_SHARE
    fleet = Fleet.found(run.folder / "rebuild")
    log = alone(kafka__servers=(servers,))
    both = log.override(postgres__dsn=dsn)
    await _write(fleet, both, events - tail, Durability.CHECKPOINT)
    wanted = await _write(fleet, log, tail, Durability.LOG)
    if (written := sum(sum(sessions.values()) for sessions in wanted.values())) < events:
        raise BenchmarkError(f"{written:,} operations are on disk, of {events:,} events")
    run.say(f"{events:,} events are in the log, all but {tail:,} of them in checkpoints too")
    # Whoever reads must not write a newer one: every round is to find the same.
    both = both.override(postgres__checkpoint_interval_s=NEVER_S)
    numbers = itertools.count(1)
    from_log = f"rebuild of {events:,} events, log"
    from_both = f"rebuild of {events:,} events, checkpoints and {tail:,} in the log"

    async def ours() -> dict[str, float]:
        return {
            from_log: await _rebuild(fleet, f"reader-{next(numbers)}", log, wanted, "log"),
            from_both: await _rebuild(
                fleet, f"reader-{next(numbers)}", both, wanted, "checkpoints"
            ),
        }

    await run.compare([Figure(from_log, "s"), Figure(from_both, "s")], ours=ours)


async def _write(fleet: Fleet, settings: Settings, events: int, level: Durability) -> Frontier:
    """Overwrite a tenth as many documents as there are events; what all of that is."""
    async with Replica.open(fleet.replica("writer"), settings=settings) as replica:
        for number in range(events):
            if number % TURN == 0:
                await replica.ready()
                await asyncio.sleep(0)
            with replica.edit(Reading, str(number // OVERWRITES)) as reading:
                reading.text = f"event {number} of {events}"
        await replica.flush(level, timeout=FLUSH_S)
        return replica.journaled()


async def _rebuild(
    fleet: Fleet, name: str, settings: Settings, wanted: Frontier, source: str
) -> float:
    folder = await asyncio.to_thread(fleet.replica, name)
    begun = time.perf_counter()
    async with Replica.open(folder, settings=settings) as replica:
        while not _covers(replica.journaled(), wanted):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(POLL_S)
        seconds = time.perf_counter() - begun
        if not replica.sources().get(source):
            raise BenchmarkError(f"nothing came from the {source}, but {replica.sources()}")
    await asyncio.to_thread(shutil.rmtree, folder)
    return seconds


def _covers(here: Frontier, wanted: Frontier) -> bool:
    return all(
        here[shard].get(session, 0) >= seq
        for shard, sessions in wanted.items()
        for session, seq in sessions.items()
    )

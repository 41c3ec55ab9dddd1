"""One replica at its limits: writing, taking in what others wrote, opening, catching up.

- *edits*: one single-field transaction after the other, journaled and signed, while a peer in
  another process takes them over a TLS link; beside SQLite alone appending as many bytes.
- *operations received*: sealed frames handed over as a link does, until they are on disk; beside
  SQLite alone appending the same frames.
- *opened*: a folder with many documents, until all of them can be read, and until the first can;
  beside SQLite alone reading as many rows into a dict.
- *caught up*: an empty replica takes a large state from a peer in another process; and the longest
  time in which its event loop got no turn meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

from benchmarks import far_end
from benchmarks.harness import Aim, BenchmarkError, Figure, Measured, Run
from benchmarks.material import Fleet, LoneShard, Reading, alone, write_documents
from benchmarks.pace import UPDATE_BYTES
from benchmarks.peers import linked, until
from mesh import Durability, Replica
from mesh.environment import Environment
from mesh.instrumentation import CountingProbe
from mesh.lifecycle import Lifecycle
from mesh.links import LinkTimes
from mesh.recovery import open_core
from mesh.transports.discovery import StaticSeeds
from mesh.transports.memory import MemoryNetwork
from persistence.sqlite import open_journal
from persistence.system import SystemClock, SystemEntropy

EDITED: Final = Aim("ours", ">=", 50_000)
RECEIVED: Final = Aim("ours", ">=", 150_000)
OPENED: Final = Aim("ours", "<", 2.0)
READABLE: Final = Aim("ours", "<", 300.0)
CAUGHT_UP: Final = Aim("ours", ">=", 100_000)
BLOCKED: Final = Aim("ours", "<", 50.0)

ENTRIES: Final = 1_000_000
DOCUMENTS: Final = 1_000
"""Written again and again where many edits are made."""
BARE_BATCH: Final = 250
"""Rows in one of SQLite's transactions: what 5 ms bring at 50,000 edits/s."""
OPERATIONS: Final = 100
"""In a received frame, each a transaction of its own."""
BARE_FRAMES: Final = 16
FLUSH_S: Final = 100.0
LOOK_S: Final = 0.001


async def measure(run: Run) -> None:
    """All four."""
    await _edits(run)
    await _received(run)
    await _opened(run)
    await _caught_up(run)


# ---------------------------------------------------------------------------- writing


async def _edits(run: Run) -> None:
    fleet = Fleet.found(run.folder / "edits")
    count = run.size(200_000, 2_000)
    journaled = Figure("edits, until journaled", "edits/s", EDITED)
    held = Figure("edits, until a peer has them on its disk", "edits/s")
    async with linked(fleet) as (replica, _):

        async def ours() -> Measured:
            begun = time.perf_counter()
            await write_documents(replica, "document", count, among=DOCUMENTS)
            await replica.flush(Durability.JOURNAL, timeout=FLUSH_S)
            own = time.perf_counter() - begun
            await replica.flush(Durability.PEERS(1), timeout=FLUSH_S)
            return {journaled.name: count / own, held.name: count / (time.perf_counter() - begun)}

        async def bare() -> Measured:
            rows = [f"{number}".encode().ljust(UPDATE_BYTES, b".") for number in range(count)]
            begun = time.perf_counter()
            await asyncio.to_thread(_append, fleet.folder / "bare.sqlite", rows, BARE_BATCH)
            return {journaled.name: count / (time.perf_counter() - begun)}

        await run.compare([journaled, held], ours=ours, bare=bare)


def _append(path: Path, rows: Sequence[bytes], together: int) -> None:
    """SQLite alone: so many rows in one transaction after the other, each synced as ours are."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, data BLOB NOT NULL)")
        for start in range(0, len(rows), together):
            database.execute("BEGIN")
            batch = rows[start : start + together]
            database.executemany("INSERT INTO bare (data) VALUES (?)", ((row,) for row in batch))
            database.execute("COMMIT")


# ---------------------------------------------------------------------------- receiving


async def _received(run: Run) -> None:
    shard = LoneShard()
    count = run.size(200_000, 2_000)
    with shard.edit("first") as reading:
        reading.text = "the frame with the session's certificate"
    frames = [*shard.cut(), *(shard.frame(OPERATIONS) for _ in range(count // OPERATIONS))]
    figure = Figure(f"operations received, {OPERATIONS} a frame", "operations/s", RECEIVED)
    numbers = itertools.count(1)

    async def ours() -> Measured:
        folder = run.folder / f"received-{next(numbers)}"
        async with _receiver(shard, folder) as life:
            begun = time.perf_counter()
            for frame in frames:
                life.ingest.frame(frame, "writer")
                await asyncio.sleep(0)  # as after every message of a link
            last, journaled = shard.host.outbox.framed, life.core.hosts[0].journaled
            await life.core.waiters.until(lambda: journaled.get(shard.host.session, 0) >= last)
            seconds = time.perf_counter() - begun
            if life.core.hosts[0].lattice.digest() != shard.host.lattice.digest():
                raise BenchmarkError("what was received is not what was written")
        await asyncio.to_thread(shutil.rmtree, folder)
        return {figure.name: count / seconds}

    async def bare() -> Measured:
        begun = time.perf_counter()
        await asyncio.to_thread(_append, run.folder / "bare.sqlite", frames, BARE_FRAMES)
        return {figure.name: count / (time.perf_counter() - begun)}

    await run.compare([figure], ours=ours, bare=bare)


@asynccontextmanager
async def _receiver(shard: LoneShard, folder: Path) -> AsyncIterator[Lifecycle]:
    """A replica of the shard's mesh without links, with its journal in a new folder."""
    clock, entropy = SystemClock(), SystemEntropy()
    identity = shard.authority.issue("reader", clock, entropy)
    journal = open_journal(folder, identity.mesh)
    try:
        environment = Environment(
            clock, entropy, CountingProbe(), journal, MemoryNetwork().transport("reader"),
            StaticSeeds(()),
        )  # fmt: skip
        core, position = await open_core(alone(), environment, identity)
        life = Lifecycle(core, position, LinkTimes())
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        runner = asyncio.create_task(life.run(started))
        await started
        try:
            yield life
        finally:
            life.stop.set()
            await runner
    finally:
        await journal.close()


# ---------------------------------------------------------------------------- opening


async def _opened(run: Run) -> None:
    fleet = Fleet.found(run.folder / "opened")
    count = run.size(100_000, 1_000)
    folder, settings = fleet.replica("writer"), alone()
    async with Replica.open(folder, settings=settings) as replica:
        await write_documents(replica, "document", count)
    rows = fleet.folder / "bare.sqlite"
    texts = [f"{number} of {count}".encode().ljust(UPDATE_BYTES, b".") for number in range(count)]
    await asyncio.to_thread(_append, rows, texts, BARE_BATCH)
    opened = Figure(f"opened with {count:,} documents", "s", OPENED)
    readable = Figure(f"a hot shard readable, of {count:,} documents", "ms", READABLE)

    async def ours() -> Measured:
        probe = CountingProbe()
        begun = time.perf_counter()
        async with Replica.open(folder, settings=settings, probe=probe) as replica:
            # Loads one shard, beside the thread that loads the others.
            reading = replica.get(Reading, "document-0")
            first = time.perf_counter() - begun
            await until("all is loaded", FLUSH_S, lambda: probe.counts["replica.loaded"] > 0)
            seconds = time.perf_counter() - begun
            if reading is None or len(reading.text or "") != UPDATE_BYTES:
                raise BenchmarkError("a document is not there after opening")
            if (found := sum(1 for _ in replica.documents(Reading))) != count:
                raise BenchmarkError(f"{found:,} documents are there, of {count:,}")
            return {opened.name: seconds, readable.name: 1_000 * first}

    async def bare() -> Measured:
        begun = time.perf_counter()
        found = await asyncio.to_thread(_read, rows)
        seconds = time.perf_counter() - begun
        if len(found) != count:
            raise BenchmarkError(f"{len(found):,} rows are there, of {count:,}")
        return {opened.name: seconds}

    await run.compare([opened, readable], ours=ours, bare=bare)


def _read(path: Path) -> dict[int, bytes]:
    with closing(sqlite3.connect(path)) as database:
        return dict(database.execute("SELECT id, data FROM bare"))


# ---------------------------------------------------------------------------- catching up


async def _caught_up(run: Run) -> None:
    fleet = Fleet.found(run.folder / "caught-up")
    count = run.entries or run.size(ENTRIES, 5_000)
    rate = Figure(f"caught up with {count:,} entries", "entries/s", CAUGHT_UP)
    blocked = Figure(f"longest the loop was blocked, {count:,} entries", "ms", BLOCKED)
    numbers = itertools.count(1)
    async with far_end.started("peer", fleet.folder, folder=str(fleet.replica("giver"))) as giver:
        said = await giver.ask("fill", entries=count)
        settings = alone(peers__seeds=(giver.said["address"],))

        async def ours() -> Measured:
            folder = fleet.replica(f"reader-{next(numbers)}")
            begun = time.perf_counter()
            async with _gaps() as gaps, Replica.open(folder, settings=settings) as replica:
                await until(
                    "all of it is here", FLUSH_S,
                    lambda: _operations(replica) >= said["operations"],
                )  # fmt: skip
                seconds = time.perf_counter() - begun
                longest = max(gaps)
                if list(replica.digest().values()) != said["digests"]:
                    raise BenchmarkError("what was caught up with is not what there is")
            await asyncio.to_thread(shutil.rmtree, folder)
            return {rate.name: count / seconds, blocked.name: 1_000 * longest}

        await run.compare([rate, blocked], ours=ours)


def _operations(replica: Replica) -> int:
    return sum(sum(sessions.values()) for sessions in replica.frontier().values())


@asynccontextmanager
async def _gaps() -> AsyncIterator[Sequence[float]]:
    """Seconds that the loop was late with a turn, each time it was; grows during the block."""
    late = [0.0]

    async def look() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(LOOK_S)
            late.append(time.perf_counter() - begun - LOOK_S)

    task = asyncio.create_task(look())
    try:
        yield late
    finally:
        task.cancel()
        await asyncio.wait([task])

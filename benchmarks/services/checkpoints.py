"""A checkpoint in PostgreSQL, written and loaded; beside the same number of bytes with asyncpg."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import asyncpg

from benchmarks.harness import BenchmarkError, Figure, Run
from benchmarks.material import PER_DOCUMENT, LoneShard
from crdt.lattice import Shard
from crdt.snapshot import decode_snapshot
from mesh.instrumentation import CountingProbe
from persistence.certificates import Trust
from persistence.checkpointer import Capture, Checkpointer
from persistence.postgres import PostgresCheckpoints
from persistence.sealing import Opener

T = TypeVar("T")

LEASE_S: Final = 600.0
TIMEOUT_S: Final = 30.0
SCHEMA: Final = "benchmark"
INDEX: Final = 0

# As our own table keeps them: sealed bytes don't compress.
BARE_TABLE: Final = """
    CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data bytea NOT NULL);
    ALTER TABLE bare ALTER COLUMN data SET STORAGE EXTERNAL"""


@dataclass(slots=True)
class Stopwatch:
    """Milliseconds by figure."""

    taken: dict[str, float] = field(default_factory=dict)

    async def time(self, figure: str, work: Awaitable[T]) -> T:
        """Await the work and note how long that took."""
        begun = time.perf_counter()
        result = await work
        self.taken[figure] = 1_000 * (time.perf_counter() - begun)
        return result


async def measure(run: Run, dsn: str) -> None:
    """One shard: made a checkpoint and proven, loaded and joined; and what of it is the store."""
    shard = LoneShard()
    entries = run.size(100_000, 2_000)
    _fill(shard, entries)
    size = len(shard.snapshot())
    run.say(f"a shard of {entries:,} entries is sealed in {size:,} bytes")
    what = f"checkpoint of {entries:,} entries"
    written, joined = f"{what}, written", f"{what}, joined"
    stored, loaded = f"{what}, bytes stored", f"{what}, bytes loaded"
    async with _store(dsn, shard) as store, _bare(dsn) as connection:
        checkpointer = _checkpointer(store, shard)

        async def ours() -> dict[str, float]:
            watch = Stopwatch()
            with shard.edit("news") as reading:
                reading.text = str(time.monotonic_ns())
            shard.cut()
            await watch.time(written, checkpointer.round())
            data = await watch.time(joined, _join(checkpointer, shard))
            lease = checkpointer.leases[INDEX]
            frontier, digest = shard.host.journaled, shard.host.lattice.digest()
            made = await watch.time(
                stored,
                store.write(lease, frontier=frontier, log_offset=0, digest=digest, data=data),
            )
            if await watch.time(loaded, store.load(made)) != data:
                raise BenchmarkError("the store gave back other bytes than it was given")
            await store.discard(lease, made)
            return watch.taken

        async def bare() -> dict[str, float]:
            watch, data = Stopwatch(), os.urandom(size)
            insert = connection.fetchval("INSERT INTO bare (data) VALUES ($1) RETURNING id", data)
            made = await watch.time(stored, insert)
            select = connection.fetchval("SELECT data FROM bare WHERE id = $1", made)
            await watch.time(loaded, select)
            await connection.execute("DELETE FROM bare")
            there_and_back = watch.taken[stored] + watch.taken[loaded]
            return watch.taken | {written: there_and_back, joined: watch.taken[loaded]}

        figures = [Figure(name, "ms") for name in (written, joined, stored, loaded)]
        await run.compare(figures, ours=ours, bare=bare)
        await checkpointer.close()


def _fill(shard: LoneShard, entries: int) -> None:
    for number in range(entries // PER_DOCUMENT):
        with shard.edit(str(number)) as reading:
            for key in range(PER_DOCUMENT):
                reading.values[f"value-{key}"] = number * key
    shard.cut()


def _checkpointer(store: PostgresCheckpoints, shard: LoneShard) -> Checkpointer:
    async def capture(_index: int) -> Capture:
        return Capture(shard.snapshot(), 0)

    return Checkpointer(
        store, shard.identity.mesh, "benchmark", lease_s=LEASE_S, probe=CountingProbe(),
        capture=capture, frontier=lambda _index: shard.host.journaled,
    )  # fmt: skip


async def _join(checkpointer: Checkpointer, shard: LoneShard) -> bytes:
    """The newest checkpoint, taken in by a shard that is empty, in the steps of a replica."""
    mesh = shard.identity.mesh
    found = await checkpointer.load(INDEX)
    if found is None:
        raise BenchmarkError("the checkpoint that was written is not there")
    opened = Opener(mesh, Trust(mesh)).open_snapshot(found.data)
    empty = Shard(mesh.digest_key)
    empty.join(decode_snapshot(opened.body))
    if empty.frontier != shard.host.lattice.frontier:
        raise BenchmarkError("the checkpoint that was loaded is not the newest")
    return found.data


@asynccontextmanager
async def _store(dsn: str, shard: LoneShard) -> AsyncIterator[PostgresCheckpoints]:
    store = PostgresCheckpoints(
        dsn, mesh=shard.identity.mesh.id, schema=SCHEMA, timeout_s=TIMEOUT_S, connections_max=2
    )
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _bare(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(BARE_TABLE)
        yield connection
    finally:
        await connection.close()

"""Kafka: a frame acknowledged, a replica's flush, and many frames in a row; beside aiokafka."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]

from benchmarks.harness import BenchmarkError, Figure, Run, latencies, latency_figures
from benchmarks.material import Fleet, LoneShard, Reading, alone
from benchmarks.pace import paced, stamped
from mesh import Durability, Replica
from mesh.settings import KafkaSettings
from persistence.base import LogFrame, ServiceUnavailable
from persistence.kafka import KafkaLog

SHARDS = 16
BARE_TOPIC = "bare"
PER_SECOND = 100
OPERATIONS = 50
BATCH_BYTES = 1 << 20
"""What a replica hands over at once; the bare producer's batches may be as large."""
BARE_LINGER_MS = 5
FLUSH_S = 30.0
ATTEMPTS = 40
PAUSE_S = 0.25


async def measure(run: Run, servers: str) -> None:
    """Acknowledgement by all in-sync copies: of one frame, and operations a second in batches."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(BARE_TOPIC, SHARDS, 1)])
    finally:
        await admin.close()
    shard = LoneShard()
    log = _log(servers, shard)
    try:
        await _made(log, shard.frame(1))
        await _one_at_a_time(run, servers, log, shard.frame(1))
        await _in_batches(run, servers, log, shard.frame(OPERATIONS))
    finally:
        await log.close()


async def _made(log: KafkaLog, frame: bytes) -> None:
    """The topic is there and every partition led; a log leaves it to its caller to try again."""
    frames = [LogFrame(shard, 1, 1, 1, frame) for shard in range(SHARDS)]
    for attempt in range(ATTEMPTS):
        try:
            await log.append(frames)
        except ServiceUnavailable:
            if attempt == ATTEMPTS - 1:
                raise
            await asyncio.sleep(PAUSE_S)
        else:
            return


def _log(servers: str, shard: LoneShard) -> KafkaLog:
    settings = KafkaSettings()
    return KafkaLog(
        servers=(servers,), topic="ours", mesh=shard.identity.mesh.id.hex(), shards=SHARDS,
        replication=settings.replication, linger_ms=settings.linger_ms,
        timeout_s=settings.timeout_s,
    )  # fmt: skip


async def _one_at_a_time(run: Run, servers: str, log: KafkaLog, frame: bytes) -> None:
    """At a rate that leaves the broker idle in between: what a quiet writer waits for."""
    count = run.size(500, 50)
    appended, flushed = "frame acknowledged", "edit and flush(LOG)"
    run.say(f"frames of one operation have {len(frame):,} bytes")
    fleet = Fleet.found(run.folder / "log")
    settings = alone(kafka__servers=(servers,))
    async with (
        _producer(servers, 0) as producer,
        Replica.open(fleet.replica("writer"), settings=settings) as replica,
    ):

        async def append() -> dict[str, float]:
            seconds: list[float] = []

            async def one(number: int) -> None:
                begun = time.perf_counter()
                await log.append([LogFrame(number % SHARDS, 1, number + 1, 1, frame)])
                seconds.append(time.perf_counter() - begun)

            await paced(count, PER_SECOND, one)
            return latencies(appended, seconds)

        async def flush() -> dict[str, float]:
            seconds: list[float] = []

            async def one(number: int) -> None:
                begun = time.perf_counter()
                with replica.edit(Reading, str(number)) as reading:
                    reading.text = stamped()
                await replica.flush(Durability.LOG, timeout=FLUSH_S)
                seconds.append(time.perf_counter() - begun)

            await paced(count, PER_SECOND, one)
            return latencies(flushed, seconds)

        async def ours() -> dict[str, float]:
            return await append() | await flush()

        async def bare() -> dict[str, float]:
            seconds: list[float] = []

            async def one(number: int) -> None:
                begun = time.perf_counter()
                await producer.send_and_wait(BARE_TOPIC, frame, key=b"1", partition=number % SHARDS)
                seconds.append(time.perf_counter() - begun)

            await paced(count, PER_SECOND, one)
            return latencies(appended, seconds) | latencies(flushed, seconds)

        figures = latency_figures(appended) + latency_figures(flushed)
        await run.compare(figures, ours=ours, bare=bare)


async def _in_batches(run: Run, servers: str, log: KafkaLog, frame: bytes) -> None:
    """As a replica that is behind: one append of a megabyte after the other, over all shards."""
    name = f"acknowledged in frames of {OPERATIONS}"
    run.say(f"frames of {OPERATIONS} operations have {len(frame):,} bytes")
    count = run.size(4_000, 400)
    together = max(1, BATCH_BYTES // len(frame))
    frames = [
        LogFrame(number % SHARDS, 1, number * OPERATIONS + 1, OPERATIONS, frame)
        for number in range(count)
    ]
    async with _producer(servers, BARE_LINGER_MS) as producer:

        async def ours() -> dict[str, float]:
            before = await _stored(log)
            begun = time.perf_counter()
            for start in range(0, count, together):
                await log.append(frames[start : start + together])
            seconds = time.perf_counter() - begun
            if (stored := await _stored(log) - before) != count:
                raise BenchmarkError(f"{count} frames were acknowledged and {stored} are there")
            return {name: count * OPERATIONS / seconds}

        async def bare() -> dict[str, float]:
            begun = time.perf_counter()
            sent = [
                await producer.send(BARE_TOPIC, frame, key=b"1", partition=number % SHARDS)
                for number in range(count)
            ]
            await asyncio.gather(*sent)
            return {name: count * OPERATIONS / (time.perf_counter() - begun)}

        await run.compare([Figure(name, "operations/s")], ours=ours, bare=bare)


async def _stored(log: KafkaLog) -> int:
    return sum(end for _, end in (await log.bounds()).values())


@asynccontextmanager
async def _producer(servers: str, linger_ms: int) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", enable_idempotence=True, linger_ms=linger_ms,
        max_batch_size=BATCH_BYTES, max_request_size=8 * BATCH_BYTES,
    )  # fmt: skip
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()

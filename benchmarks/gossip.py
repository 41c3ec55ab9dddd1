"""Replicas without links, which share one Redis as a bus; beside XADD and XREAD.

- *update over Redis*: one process to another, at a rate that keeps the writer busy;
- *to 50 replicas*: one writer, and five processes with ten replicas each, every one of which has
  every update before a round ends;
- *idle replica*: CPU time of each of 50 replicas in one process, linked in memory (no TLS) to about
  six others and reading the bus, that write nothing and say nothing new of themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from redis.asyncio import Redis

from benchmarks import far_end
from benchmarks.far_end import FarEnd
from benchmarks.harness import Aim, Figure, Run, Side, latencies, latency_figures
from benchmarks.material import Fleet, Reading, alone, running
from benchmarks.pace import paced, stamped
from benchmarks.presence import cpu_share
from mesh import Replica

PER_SECOND: Final = 1_000
STREAM: Final = "bare"
P50: Final = Aim("ours", "<", 1.2)
P99: Final = Aim("ours", "<", 5.0)

FAN_PER_SECOND: Final = 200
FAN_INTERVAL_MS: Final = 25
PROCESSES: Final = 5
FAN_P99: Final = Aim("ours", "<", 150.0)

MESH: Final = 50
IDLE: Final = Aim("ours", "<", 1.0)


async def measure(run: Run) -> None:
    """All of it, over one server."""
    async with running(run, "redis") as at:
        await _one_to_one(run, at["redis"])
        await _one_to_many(run, at["redis"])
        await _idle(run, at["redis"])


async def _one_to_one(run: Run, url: str) -> None:
    fleet = Fleet.found(run.folder / "bus")
    name = "update over Redis"
    settings = alone(redis__url=url)
    async with (
        far_end.started(
            "replicas", fleet.folder,
            folders=[str(fleet.replica("reader"))], url=url, flush_interval_ms=0,
        ) as reader,
        far_end.started("redis", fleet.folder, url=url, stream=STREAM) as bare_reader,
        Replica.open(fleet.replica("writer"), settings=settings) as replica,
        Redis.from_url(url, protocol=2) as redis,
    ):  # fmt: skip
        count = run.size(3_000, 300)
        await run.compare(
            latency_figures(name, P50, P99),
            ours=_sending(name, _editor(replica), count, PER_SECOND, [reader]),
            bare=_sending(name, _adder(redis), count, PER_SECOND, [bare_reader]),
        )


async def _one_to_many(run: Run, url: str) -> None:
    fleet = Fleet.found(run.folder / "fan-out")
    each = run.size(10, 2)
    name = f"{FAN_PER_SECOND} updates/s to {PROCESSES * each} replicas in {PROCESSES} processes"
    settings = alone(redis__url=url, replica__flush_interval_ms=FAN_INTERVAL_MS)
    async with AsyncExitStack() as stack:
        readers: list[FarEnd] = []
        bare_readers: list[FarEnd] = []
        for number in range(PROCESSES):
            folders = [str(fleet.replica(f"reader-{number}-{one}")) for one in range(each)]
            reader = far_end.started(
                "replicas", fleet.folder, name=f"replicas-{number}", size=each, folders=folders,
                url=url, flush_interval_ms=FAN_INTERVAL_MS,
            )  # fmt: skip
            bare_reader = far_end.started(
                "redis", fleet.folder, name=f"redis-{number}", size=each, url=url, stream=STREAM
            )
            readers.append(await stack.enter_async_context(reader))
            bare_readers.append(await stack.enter_async_context(bare_reader))
        replica = await stack.enter_async_context(
            Replica.open(fleet.replica("writer"), settings=settings)
        )
        redis = await stack.enter_async_context(Redis.from_url(url, protocol=2))
        count = run.size(2_000, 100)
        await run.compare(
            latency_figures(name, None, FAN_P99),
            ours=_sending(name, _editor(replica), count, FAN_PER_SECOND, readers),
            bare=_sending(name, _adder(redis), count, FAN_PER_SECOND, bare_readers),
        )


async def _idle(run: Run, url: str) -> None:
    size = run.size(MESH, 10)
    figure = Figure(f"idle replica in a mesh of {size}", "% of a core", IDLE)

    async def ours() -> dict[str, float]:
        share = await cpu_share(size, run.size(10, 1), saying=False, url=url)
        return {figure.name: 100 * share}

    await run.compare([figure], ours=ours)


def _sending(
    name: str,
    send: Callable[[int], Awaitable[None]],
    count: int,
    per_second: float,
    readers: list[FarEnd],
) -> Side:
    """Sends, until every reader has all of it; their ages on arrival, all together."""

    async def one_round() -> dict[str, float]:
        await paced(count, per_second, send)
        taken = await asyncio.gather(*(reader.collect(count) for reader in readers))
        return latencies(name, [age for ages in taken for age in ages])

    return one_round


def _editor(replica: Replica) -> Callable[[int], Awaitable[None]]:
    async def edit(number: int) -> None:
        # Once a round each: so `watch` has nothing to merge, and no update goes uncounted.
        update = stamped()
        with replica.edit(Reading, str(number)) as reading:
            reading.text = update

    return edit


def _adder(redis: Any) -> Callable[[int], Awaitable[None]]:
    async def add(number: int) -> None:
        del number
        await redis.xadd(STREAM, {"f": stamped()})

    return add

"""One process to another over Redis: two replicas without peers, beside XADD and XREAD."""

from __future__ import annotations

from redis.asyncio import Redis

from benchmarks import far_end
from benchmarks.harness import Run, latencies, latency_figures
from benchmarks.material import Fleet, Reading, alone
from benchmarks.pace import paced, stamped
from mesh import Replica

PER_SECOND = 1_000
STREAM = "bare"
INTERVALS_MS = (5, 0)
"""`replica.flush_interval_ms`: as it comes, and for those who want updates soon."""


async def measure(run: Run, url: str) -> None:
    """Age of an update when the other process sees it: `edit()` to `watch`, XADD to XREAD."""
    for interval in INTERVALS_MS:
        await _compare(run, url, interval)


async def _compare(run: Run, url: str, interval: int) -> None:
    fleet = Fleet.found(run.folder / f"bus-{interval}")
    name = f"update over Redis, {interval} ms flushes"
    count = run.size(3_000, 300)
    settings = alone(redis__url=url, replica__flush_interval_ms=interval)
    async with (
        far_end.started(
            "replica", fleet.folder,
            folder=str(fleet.replica("reader")), url=url, flush_interval_ms=interval,
        ) as reader,
        far_end.started("redis", fleet.folder, url=url, stream=STREAM) as bare_reader,
        Replica.open(fleet.replica("writer"), settings=settings) as replica,
        Redis.from_url(url, protocol=2) as redis,
    ):  # fmt: skip

        async def edit(number: int) -> None:
            # Once a round each: so `watch` has nothing to merge, and no update goes uncounted.
            update = stamped()
            with replica.edit(Reading, str(number)) as reading:
                reading.text = update

        async def add(number: int) -> None:
            del number
            await redis.xadd(STREAM, {"f": stamped()})

        async def ours() -> dict[str, float]:
            await paced(count, PER_SECOND, edit)
            return latencies(name, await reader.collect(count))

        async def bare() -> dict[str, float]:
            await paced(count, PER_SECOND, add)
            return latencies(name, await bare_reader.collect(count))

        await run.compare(latency_figures(name), ours=ours, bare=bare)

"""What presence costs: replicas that all say something new of themselves once a second.

Real replicas in one process over the transport in memory (no TLS), each linked to about six others.
Measured is the process's CPU time a replica, less that of the same mesh with presence all but
turned off: what the rest of an idle replica does is not counted. 500 replicas are extrapolated from
a straight line through the others (least squares), which is how it grows while the number of links
of a replica stays the same: every row crosses every link once a second.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from typing import Final

from benchmarks.harness import Aim, BenchmarkError, Figure, Measured, Run
from mesh import Replica, Settings
from mesh.environment import Bus, Environment
from mesh.instrumentation import CountingProbe
from mesh.transports.discovery import StaticSeeds
from mesh.transports.memory import MemoryNetwork
from mesh.transports.redis import RedisBus
from persistence.identity import Authority, found_mesh
from persistence.memory import MemoryJournal
from persistence.system import SystemClock, SystemEntropy

SIZES: Final = (10, 25, 50)
LARGE: Final = 500
DIALLED: Final = 3
OFF_S: Final = 60.0
PATIENCE_S: Final = 60.0


async def measure(run: Run) -> None:
    """The curve, and where it leads."""
    sizes = SIZES[:2] if run.quick else SIZES
    figures = [
        Figure(_name(size), "% of a core", Aim("ours", "<", 1.0) if size == SIZES[-1] else None)
        for size in sizes
    ]
    figures.append(Figure(f"{LARGE} replicas (extrapolated), each", "% of a core"))

    async def ours() -> Measured:
        seconds = run.size(5, 1)
        shares: dict[int, float] = {}
        for size in sizes:
            saying = await cpu_share(size, seconds)
            silent = await cpu_share(size, seconds, OFF_S)
            shares[size] = 100 * (saying - silent)
        found = {_name(size): share for size, share in shares.items()}
        return found | {figures[-1].name: _straight(shares, LARGE)}

    await run.compare(figures, ours=ours)


def _name(size: int) -> str:
    return f"{size} replicas at 1 Hz, each"


def _straight(points: dict[int, float], at: int) -> float:
    """The value at `at` of the line through the points, by least squares."""
    count = len(points)
    middle_x, middle_y = sum(points) / count, sum(points.values()) / count
    spread = sum((x - middle_x) ** 2 for x in points)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in points.items()) / spread
    return middle_y + slope * (at - middle_x)


async def cpu_share(
    size: int, seconds: float, interval_s: float = 1.0, *, saying: bool = True, url: str = ""
) -> float:
    """CPU seconds a second that each of so many replicas takes, which write nothing.

    `saying`: each says something new of itself once a second, unless presence is turned off.
    `url`: of the Redis that they share as a bus; none: they have no bus.
    """
    clock, entropy = SystemClock(), SystemEntropy()
    authority = found_mesh("benchmark", 16, clock, entropy)
    network = MemoryNetwork()
    rng = random.Random(size)
    names = [f"r{number:03}" for number in range(size)]
    async with AsyncExitStack() as stack:
        replicas = []
        for number, name in enumerate(names):
            others = rng.sample(names[:number], min(number, DIALLED))
            bus = _bus(authority, url)
            if bus is not None:
                stack.push_async_callback(bus.close)
            replica = _replica(authority, network, name, others, interval_s, bus)
            replicas.append(await stack.enter_async_context(replica))
        if interval_s < OFF_S:
            await _until_all_met(replicas)
        else:
            await asyncio.sleep(1.0)
        began, used = time.monotonic(), time.process_time()
        beat = 0
        while (passed := time.monotonic() - began) < seconds:
            if saying and interval_s < OFF_S:
                replicas[beat % size].presence.set(status="busy", beat=beat)
            beat += 1
            await asyncio.sleep(max(0.0, began + beat / size - time.monotonic()))
        return (time.process_time() - used) / passed / size


def _bus(authority: Authority, url: str) -> Bus | None:
    if not url:
        return None
    mesh = authority.mesh
    return RedisBus(url, mesh=mesh.id, shards=mesh.shards, entropy=SystemEntropy())


def _replica(
    authority: Authority,
    network: MemoryNetwork,
    name: str,
    seeds: list[str],
    interval_s: float,
    bus: Bus | None,
) -> Replica:
    clock, entropy = SystemClock(), SystemEntropy()
    settings = Settings().override(replica__presence_interval_s=interval_s)
    environment = Environment(
        clock, entropy, CountingProbe(), MemoryJournal(), network.transport(name),
        StaticSeeds(seeds), bus=bus,
    )  # fmt: skip
    return Replica(settings, environment, authority.issue(name, clock, entropy))


async def _until_all_met(replicas: list[Replica]) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            for replica in replicas:
                changes = replica.presence.watch()
                while len(replica.presence.all()) < len(replicas):
                    await anext(changes)
    except TimeoutError:
        raise BenchmarkError("not all replicas heard of each other") from None

"""What the services cost: a replica's use of Redis, Kafka and PostgreSQL, beside the bare drivers.

The servers are real, started for this alone through `mesh.stack`, each with the stack's settings,
and only those that a part is about: an idle broker takes its share of two cores, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from benchmarks.harness import Run
from benchmarks.services import bus, checkpoints, log, rebuild
from mesh.stack import Stack


async def measure(run: Run) -> None:
    """All of it, one part after the other."""
    async with _running(run, "redis") as at:
        await bus.measure(run, at["redis"])
    async with _running(run, "kafka") as at:
        await log.measure(run, at["kafka"])
    async with _running(run, "postgres") as at:
        await checkpoints.measure(run, at["postgres"])
    async with _running(run, "kafka", "postgres") as at:
        await rebuild.measure(run, at["kafka"], at["postgres"])


@asynccontextmanager
async def _running(run: Run, *names: str) -> AsyncIterator[Mapping[str, str]]:
    """{name: address} of these servers, while the block lasts."""
    async with Stack.running(run.folder / "stack", only=names, progress=run.say) as stack:
        yield {name: server.address for name, server in stack.services.items()}

"""What the services cost: a replica's use of Redis, Kafka and PostgreSQL, beside the bare drivers.

The servers are real, started for this alone through `mesh.stack`, each with the stack's settings.
"""

from __future__ import annotations

from benchmarks.harness import Run
from benchmarks.services import bus, checkpoints, log, rebuild
from mesh.stack import Stack


async def measure(run: Run) -> None:
    """All of it, one part after the other."""
    async with Stack.running(
        run.folder / "stack", only=("redis", "kafka", "postgres"), progress=run.say
    ) as stack:
        addresses = {name: server.address for name, server in stack.services.items()}
        await bus.measure(run, addresses["redis"])
        await log.measure(run, addresses["kafka"])
        await checkpoints.measure(run, addresses["postgres"])
        await rebuild.measure(run, addresses["kafka"], addresses["postgres"])

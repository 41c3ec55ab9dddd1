"""What the services cost: a replica's use of Kafka and PostgreSQL, beside the bare drivers. Redis:
see `benchmarks.gossip`.

The servers are real, started for this alone through `mesh.stack`, each with the stack's settings,
and only those that a part is about: an idle broker takes its share of two cores, too.
"""

from __future__ import annotations

from benchmarks.harness import Run
from benchmarks.material import running
from benchmarks.services import checkpoints, log, rebuild


async def measure(run: Run) -> None:
    """All of it, one part after the other."""
    async with running(run, "kafka") as at:
        await log.measure(run, at["kafka"])
    async with running(run, "postgres") as at:
        await checkpoints.measure(run, at["postgres"])
    async with running(run, "kafka", "postgres") as at:
        await rebuild.measure(run, at["kafka"], at["postgres"])

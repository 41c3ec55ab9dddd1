"""The process that decides for the fleet: `workflows.worker`, bound to the life of the demo."""

from __future__ import annotations

import asyncio
import sys

from mesh.settings import Settings, TemporalSettings
from simulations.rehearsal import audit, wire
from workflows.worker import run_worker


def main() -> None:
    """Arguments: the parent's process id, Temporal's address, the task queue."""
    parent, address, queue = sys.argv[1:]
    wire.die_with(int(parent))
    settings = Settings(temporal=TemporalSettings(address=address, task_queue=queue))
    asyncio.run(run_worker(settings, [audit.MODULE_AUDIT]))


if __name__ == "__main__":
    main()

"""The process that decides: `python -m workflows.worker [MODULE …]`.

Workflows run outside the SDK's sandbox, which imports the workflow's module anew for every machine:
186 events a second became 150 with it, and the worker's CPU time per event 1.6 times as much. What
it protects against is kept out otherwise: the workflow module does no I/O and reads no clock,
guards are pure by contract, and a test replays real histories.

Modules named on the command line are imported first: they register the guards and actions of their
machines.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import GrpcCompression
from temporalio.worker import PollerBehaviorSimpleMaximum, UnsandboxedWorkflowRunner, Worker

from mesh.environment import CoordinatorUnavailable
from mesh.settings import Settings, load_settings
from workflows import registry
from workflows.activities import activities
from workflows.machine import Machine
from workflows.runtime import sdk_runtime
from workflows.workflow import MachineWorkflow

__all__ = ("make_worker", "run_worker")

CACHED_MACHINES = 2_000
"""Machines kept in memory between events, about 60 kB each; the others are replayed when asked."""

WORKFLOW_POLLS = 8
"""Long polls for work held open at once: what keeps two cores busy on one worker."""

STICKY_TIMEOUT = timedelta(seconds=3)
"""After which a machine's next event goes to any worker if the one that has it in memory is gone.
"""

GRACE = timedelta(seconds=5)


async def run_worker(
    settings: Settings,
    machines: Iterable[Machine] = registry.machines.values(),
    stop: asyncio.Event | None = None,
) -> None:
    """Work until `stop` is set, or SIGTERM or SIGINT arrive if none is given; then finish what was
    begun.

    `machines` are checked for guards and actions that this process lacks (DefinitionError); a
    worker decides for machines it does not know too, as their definition travels with them. Raises
    CoordinatorUnavailable if the server can't be reached at the start; later outages are waited
    out.
    """
    for machine in machines:
        registry.check_complete(machine)
    if stop is None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    async with make_worker(await connected(settings), settings.temporal.task_queue):
        await stop.wait()


async def connected(settings: Settings) -> Client:
    """A client of the configured server. Raises CoordinatorUnavailable."""
    where = settings.temporal.address
    try:
        async with asyncio.timeout(settings.temporal.timeout_s):
            return await Client.connect(
                where,
                namespace=settings.temporal.namespace,
                grpc_compression=GrpcCompression.NONE,
                runtime=sdk_runtime(),
            )
    except (RuntimeError, TimeoutError) as error:
        raise CoordinatorUnavailable(f"no Temporal server at {where!r}: {error}") from error


def make_worker(client: Client, queue: str) -> AbstractAsyncContextManager[Worker]:
    """A worker for machines, tuned for two cores; it works while its context is open."""
    return Worker(
        client,
        task_queue=queue,
        workflows=[MachineWorkflow],
        activities=activities(registry.actions),
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=CACHED_MACHINES,
        max_concurrent_workflow_tasks=64,
        workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(WORKFLOW_POLLS),
        activity_task_poller_behavior=PollerBehaviorSimpleMaximum(2),
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        graceful_shutdown_timeout=GRACE,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `python -m workflows.worker`; settings come from the environment or mesh.toml."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.worker", description="Decide events."
    )
    parser.add_argument("module", nargs="*", help="registers machines, guards and actions")
    for name in parser.parse_args(arguments).module:
        importlib.import_module(name)
    asyncio.run(run_worker(load_settings()))


if __name__ == "__main__":
    main()

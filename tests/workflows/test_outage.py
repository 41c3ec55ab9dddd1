"""Losing the server and the worker, and having them back. Real processes, really killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.environment import CoordinatorUnavailable
from mesh.settings import Settings
from mesh.stack.temporal import TemporalServer
from workflows.coordinator import TemporalCoordinator, connect
from workflows.worker import run_worker

from .world import AUDIT, Recorder, TickingClock


@contextlib.asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    stop = asyncio.Event()
    worker = asyncio.create_task(run_worker(settings, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await worker


async def test_the_server_dies_and_comes_back(folder: Path, probe: Recorder) -> None:
    async with TemporalServer.start(folder) as server:
        settings = Settings(temporal={"address": server.address, "timeout_s": 40.0})
        port = int(server.address.rpartition(":")[2])
        coordinator = await connect(settings, TickingClock(), probe)
        async with working(settings):
            first = await coordinator.fire(AUDIT.name, "1", "claim", actor="ada", request="1")
            assert coordinator.health().state == "ok"
            await server.kill()
            with pytest.raises(CoordinatorUnavailable, match="can't be reached"):
                await coordinator.fire(AUDIT.name, "1", "submit", actor="ada", request="2")
            down = coordinator.health()
            assert down.state == "down"
            assert down.reason
            async with TemporalServer.start(folder, port):
                await probe.until("coordinator.health", state="ok")
                assert coordinator.health().since > down.since
                again = await coordinator.fire(AUDIT.name, "1", "claim", actor="ada", request="1")
                assert again == first, "an answered request was forgotten"
                last = await coordinator.fire(AUDIT.name, "1", "submit", actor="ada", request="2")
                assert (last.target, last.epoch) == ("submitted", 2)
        await coordinator.close()


async def test_a_worker_ends_on_sigterm_and_another_goes_on(
    settings: Settings, coordinator: TemporalCoordinator
) -> None:
    environment = {
        **os.environ,
        "STATEMESH_TEMPORAL__ADDRESS": settings.temporal.address,
        "STATEMESH_TEMPORAL__TASK_QUEUE": settings.temporal.task_queue,
    }
    for epoch, event in enumerate(("claim", "submit", "accept"), start=1):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "workflows.worker", "workflows.claims", env=environment
        )
        decided = await coordinator.fire(AUDIT.name, "1", event, actor="ada", request=event)
        assert decided.epoch == epoch
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_a_worker_without_a_server_says_so() -> None:
    settings = Settings(temporal={"address": "127.0.0.1:1", "timeout_s": 5.0})
    with pytest.raises(CoordinatorUnavailable, match=r"no Temporal server at '127\.0\.0\.1:1'"):
        await run_worker(settings, stop=asyncio.Event())

"""One Temporal server for all tests here; every test has a queue, and so machines, of its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mesh.settings import Settings
from mesh.stack.temporal import TemporalServer
from workflows.coordinator import TemporalCoordinator, connect
from workflows.worker import connected, make_worker

from .world import Recorder, TickingClock

QUEUES = itertools.count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TemporalServer]:
    async with TemporalServer.start(tmp_path_factory.mktemp("temporal"), in_memory=True) as server:
        yield server


@pytest.fixture
def settings(server: TemporalServer) -> Settings:
    queue = f"test-{next(QUEUES)}"
    return Settings(temporal={"address": server.address, "task_queue": queue, "timeout_s": 40.0})


@pytest.fixture
def probe() -> Recorder:
    return Recorder()


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[None]:
    async with make_worker(await connected(settings), settings.temporal.task_queue):
        yield


@pytest.fixture
async def coordinator(settings: Settings, probe: Recorder) -> AsyncIterator[TemporalCoordinator]:
    coordinator = await connect(settings, TickingClock(), probe)
    yield coordinator
    await coordinator.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "temporal"

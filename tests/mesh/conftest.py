"""Worlds for tests: one whose journals are in memory, one whose journals are SQLite files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.stack.redis import redis_programs
from tests.mesh.world import World


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path if request.param == "sqlite" else None)
    yield made
    await made.close()


@pytest.fixture
async def memory_world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which servers of Redis's kind the bus was tested against, and that there may be more."""
    reports = [one for many in terminalreporter.stats.values() for one in many]
    if any("test_redis_bus[" in getattr(one, "nodeid", "") for one in reports):
        programs = ", ".join(str(program) for program in redis_programs()) or "none"
        terminalreporter.write_line(f"the bus was tested against: {programs}")

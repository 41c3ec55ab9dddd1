"""Worlds for tests: one whose journals are in memory, one whose journals are SQLite files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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

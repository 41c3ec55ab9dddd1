"""What a start does with the process's garbage collector is the embedder's to decide."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from persistence import journal as recovery
from persistence.base import FrameRecord
from persistence.memory import MemoryJournal
from tests.mesh.world import World, eventually, running, write


class Watching(MemoryJournal):
    """Notes whether the collector is on when it is read."""

    collecting: bool | None = None

    async def replay(self, after: int, limit: int) -> list[tuple[int, FrameRecord]]:
        self.collecting = gc.isenabled()
        return await super().replay(after, limit)


@pytest.fixture
def thawed() -> Iterator[None]:
    assert gc.isenabled()
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
@pytest.mark.parametrize(("freeze", "large"), [(True, True), (True, False), (False, True)])
async def test_the_collector_is_left_alone_on_request(
    memory_world: World, monkeypatch: pytest.MonkeyPatch, freeze: bool, large: bool
) -> None:
    journal = memory_world.journals["a"] = Watching()
    a = memory_world.replica("a")
    async with running(a):
        await write(a, *range(5))
    monkeypatch.setattr(recovery, "_LARGE", 1 if large else 1_000)
    again = memory_world.replica("a", replica__gc_freeze=freeze)
    async with running(again):
        assert journal.collecting is not freeze
        await eventually(lambda: memory_world.probes["a"].counts["replica.loaded"] > 0)
        assert (gc.get_freeze_count() > 0) is (freeze and large)
        assert gc.isenabled()


def test_it_is_frozen_by_default(memory_world: World) -> None:
    assert memory_world.replica("a")._settings.replica.gc_freeze

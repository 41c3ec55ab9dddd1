"""What stays is taken out of the garbage collector's sight as it grows, unless that is unwanted."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from mesh import Durability, heap
from mesh.heap import LOOK_EVERY, Heap
from tests.mesh.world import World, converged, eventually, running, write


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_it_is_frozen_again_and_again_as_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "GROWTH", 100)
    entries = 99
    one = Heap(lambda: entries, freeze=True)
    one.took(LOOK_EVERY)
    assert gc.get_freeze_count() == 0
    entries = 100
    one.took(LOOK_EVERY - 1)
    assert gc.get_freeze_count() == 0
    one.took(1)
    frozen = gc.get_freeze_count()
    assert frozen > 0
    kept = [[number] for number in range(1_000)]
    entries = 199
    one.took(LOOK_EVERY)
    assert gc.get_freeze_count() <= frozen
    entries = 200
    one.took(LOOK_EVERY)
    assert gc.get_freeze_count() >= frozen + len(kept) // 2


def test_it_is_left_alone_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "GROWTH", 1)
    Heap(lambda: 1_000_000, freeze=False).took(LOOK_EVERY)
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("freeze", [True, False])
async def test_a_replica_that_catches_up_freezes_what_it_got(
    memory_world: World, monkeypatch: pytest.MonkeyPatch, freeze: bool
) -> None:
    monkeypatch.setattr(heap, "GROWTH", 1)
    monkeypatch.setattr(heap, "LOOK_EVERY", 1)
    a = memory_world.replica("a", replica__gc_freeze=False)
    b = memory_world.replica("b", "a", replica__gc_freeze=freeze)
    async with running(a, b):
        await write(a, "one")
        await converged(a, b)
        await b.flush(Durability.JOURNAL)
        if freeze:
            await eventually(lambda: gc.get_freeze_count() > 0, "frozen")
    assert (gc.get_freeze_count() > 0) is freeze

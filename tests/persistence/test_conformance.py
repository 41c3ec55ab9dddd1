"""Every journal passes the one suite."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from persistence.base import FrameRecord, Journal, SnapshotRecord, StorageError
from persistence.conformance import check_journal
from persistence.memory import MemoryJournal
from persistence.sqlite import open_journal
from tests.persistence.world import make_mesh


async def test_the_journal_in_memory() -> None:
    async def make() -> Journal:
        return MemoryJournal()

    await check_journal(make)


async def test_the_journal_on_disk(tmp_path: Path) -> None:
    numbers = itertools.count()
    mesh = make_mesh().mesh

    async def make() -> Journal:
        return open_journal(tmp_path / str(next(numbers)), mesh)

    await check_journal(make)


async def test_a_full_memory_refuses_and_keeps_what_it_has() -> None:
    journal = MemoryJournal(capacity=10)
    await journal.append([FrameRecord(0, 1, 1, 1, True, b"12345678")])
    with pytest.raises(StorageError, match="full"):
        await journal.append([FrameRecord(0, 1, 2, 2, True, b"123")])
    with pytest.raises(StorageError, match="full"):
        await journal.save_snapshot(SnapshotRecord(0, 1, b"123"))
    assert await journal.size() == 8


class Forgetful(MemoryJournal):
    """Loses the frames of others: the suite must notice."""

    async def append(self, frames: Sequence[FrameRecord]) -> int:
        return await super().append([each for each in frames if each.own])


async def test_the_suite_notices_a_journal_that_loses_frames() -> None:
    async def make() -> Journal:
        return Forgetful()

    with pytest.raises(AssertionError, match="not exact"):
        await check_journal(make)

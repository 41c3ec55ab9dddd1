"""Snapshots in parts: put together again, kept while a link is broken, within bounds."""

from __future__ import annotations

import random

import pytest

from crdt.errors import CodecError
from mesh.transfers import Assembly, Shelf, Transfer, split_snapshot
from mesh.wire import SNAPSHOT_PART_BYTES, SnapshotPart


@pytest.mark.parametrize("size", [0, 1, SNAPSHOT_PART_BYTES, 3 * SNAPSHOT_PART_BYTES + 7])
def test_snapshots_survive_being_cut_up(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assembly = Assembly()
    parts = list(split_snapshot(3, Transfer(1, data)))
    whole = [assembly.add(part) for part in parts]
    assert whole[-1] == data
    assert whole[:-1] == [None] * (len(parts) - 1)
    assert assembly.rest is None
    for first in range(len(parts) + 2):
        assert list(split_snapshot(3, Transfer(1, data), first)) == parts[first:]


def test_parts_out_of_order_and_too_many_are_refused() -> None:
    assembly = Assembly(100)
    with pytest.raises(CodecError, match="order"):
        assembly.add(SnapshotPart(0, 1, 1, 3, b"x"))
    assert assembly.add(SnapshotPart(0, 1, 0, 3, b"x")) is None
    with pytest.raises(CodecError, match="order"):
        assembly.add(SnapshotPart(0, 2, 1, 3, b"x"))
    assert assembly.add(SnapshotPart(0, 3, 0, 2, b"x" * 60)) is None
    with pytest.raises(CodecError, match="more than"):
        assembly.add(SnapshotPart(0, 3, 1, 2, b"x" * 60))
    assert (assembly.rest, assembly.bytes) == (None, 0)


def test_what_has_begun_says_how_it_goes_on() -> None:
    assert Assembly().rest is None
    assembly = Assembly()
    assert not assembly.continued_by(SnapshotPart(4, 9, 0, 3, b"x")), "that is a beginning"
    assembly.add(SnapshotPart(4, 9, 0, 3, b"x"))
    assert assembly.rest == (4, 9, 1)
    assert assembly.continued_by(SnapshotPart(4, 9, 1, 3, b"y"))
    others = [(5, 9, 1, 3), (4, 8, 1, 3), (4, 9, 0, 3), (4, 9, 2, 3), (4, 9, 1, 2)]
    assert not any(assembly.continued_by(SnapshotPart(*other, b"y")) for other in others)
    assembly.add(SnapshotPart(4, 9, 1, 3, b"y"))
    assert assembly.add(SnapshotPart(4, 9, 2, 3, b"z")) == b"xyz"


def test_a_shelf_keeps_no_more_than_its_bytes_and_lets_the_oldest_go() -> None:
    shelf: Shelf[str, int] = Shelf(max_bytes=100, max_s=60)
    for number, name in enumerate("abc"):
        shelf.put(name, number, 40, now=number)
    assert shelf.bytes == 120
    assert shelf.trim(now=3) == [("a", 40)]
    assert (shelf.get("a"), shelf.get("b"), shelf.get("c")) == (None, 1, 2)
    shelf.touch("b", now=4)
    shelf.put("d", 3, 40, now=5)
    assert shelf.trim(now=5) == [("c", 40)], "b was used meanwhile"
    shelf.put("b", 9, 10, now=6)
    assert (shelf.get("b"), shelf.bytes, list(shelf)) == (9, 50, ["d", "b"])
    shelf.put("e", 4, 101, now=7)
    assert shelf.trim(now=7) == [("d", 40), ("b", 10), ("e", 101)], "what can't fit is not kept"
    assert (shelf.bytes, list(shelf)) == (0, [])


def test_a_shelf_keeps_nothing_longer_than_its_seconds() -> None:
    shelf: Shelf[int, str] = Shelf(max_bytes=100, max_s=60)
    shelf.put(1, "first", 10, now=0)
    shelf.put(2, "second", 10, now=30)
    assert shelf.trim(now=59) == []
    shelf.touch(1, now=59)
    shelf.touch(7, now=59)
    assert shelf.trim(now=89) == []
    assert shelf.trim(now=90) == [(2, 10)]
    assert shelf.trim(now=119) == [(1, 10)]
    assert shelf.take(1) is None


def test_what_is_taken_from_a_shelf_is_gone() -> None:
    shelf: Shelf[int, str] = Shelf(max_bytes=100, max_s=60)
    shelf.put(1, "first", 10, now=0)
    assert (shelf.take(1), shelf.take(1), shelf.bytes) == ("first", None, 0)

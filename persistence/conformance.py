"""What every journal must do, as one function that any test runner (or none) can call.

    await check_journal(make)       # `make` gives a new, empty journal each time it is called

Raises AssertionError naming the guarantee that does not hold. Durability across processes is the
adapter's own test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from persistence.base import FrameRecord, Journal, SnapshotRecord, StorageError

Make = Callable[[], Awaitable[Journal]]


async def check_journal(make: Make) -> None:
    """Run all checks, each on a journal of its own."""
    for check in (
        _check_order,
        _check_ranges,
        _check_concurrent_appends,
        _check_snapshots,
        _check_pruning,
        _check_size,
        _check_positions_after_pruning,
        _check_meta,
        _check_exact_bytes,
        _check_cancelling,
        _check_closing,
    ):
        journal = await make()
        try:
            await check(journal)
        finally:
            await journal.close()


def _frame(shard: int, session: int, first: int, last: int, own: bool = False) -> FrameRecord:
    data = f"{shard}/{session}/{first}-{last}".encode()
    return FrameRecord(shard, session, first, last, own, data)


async def _check_order(journal: Journal) -> None:
    assert await journal.replay(0, 10) == [], "a new journal is not empty"
    assert await journal.append([]) == 0, "appending nothing moved the position of an empty journal"
    frames = [_frame(at % 3, 7, at, at, own=at % 2 == 0) for at in range(1, 8)]
    first = await journal.append(frames[:4])
    last = await journal.append(frames[4:])
    assert last > first, "positions do not grow"
    assert await journal.append([]) == last, "appending nothing moved the position"
    rows = await journal.replay(0, 100)
    assert [frame for _, frame in rows] == frames, "replay is not in apply order, or not exact"
    positions = [position for position, _ in rows]
    assert positions == sorted(set(positions)), "positions are not strictly growing"
    assert positions[3] == first, "append did not return the position of its last frame"
    assert positions[-1] == last, "append did not return the position of its last frame"
    part = await journal.replay(positions[1], 2)
    assert part == rows[2:4], "`after` or `limit` of replay is off"
    assert await journal.replay(last, 5) == [], "replay after the last position gave something"


async def _check_ranges(journal: Journal) -> None:
    frames = [_frame(1, 5, 1, 3), _frame(1, 5, 4, 4), _frame(1, 5, 5, 9)]
    await journal.append([*frames, _frame(2, 5, 1, 9), _frame(1, 6, 1, 9)])
    assert await journal.frames(1, 5, 0, 9, 10) == frames, "a session's frames are not all there"
    assert await journal.frames(1, 5, 0, 9, 2) == frames[:2], "the limit was not kept"
    assert await journal.frames(1, 5, 3, 4, 10) == frames[1:2], "a range (after, upto] is off"
    assert await journal.frames(1, 5, 1, 2, 10) == frames[:1], "a frame across the range is missing"
    assert await journal.frames(1, 5, 6, 7, 10) == frames[2:], "a frame across the range is missing"
    assert await journal.frames(1, 5, 9, 99, 10) == [], "frames beyond the last seq"
    assert await journal.frames(3, 5, 0, 9, 10) == [], "frames of a shard that has none"


async def _check_concurrent_appends(journal: Journal) -> None:
    frames = [_frame(0, 3, at, at) for at in range(1, 101)]
    positions = await asyncio.gather(*(journal.append([frame]) for frame in frames))
    assert positions == sorted(set(positions)), "concurrent appends were not kept in call order"
    rows = await journal.replay(0, 1000)
    assert [frame for _, frame in rows] == frames, "concurrent appends were mixed up"


async def _check_snapshots(journal: Journal) -> None:
    assert await journal.snapshots() == [], "a new journal has snapshots"
    old, new = SnapshotRecord(4, 1, b"old"), SnapshotRecord(4, 2, b"new")
    other = SnapshotRecord(2, 1, b"other")
    for record in (old, other, new):
        await journal.save_snapshot(record)
    assert await journal.snapshots() == [other, new], "not the newest snapshot of every shard"
    await journal.save_snapshot(old)
    assert await journal.snapshots() == [other, new], "an older snapshot replaced a newer one"
    assert await journal.size() == len(b"other") + len(b"new"), "size is not the bytes held"


async def _check_pruning(journal: Journal) -> None:
    await journal.append([_frame(1, 5, 1, 3), _frame(1, 5, 4, 6), _frame(2, 5, 1, 3)])
    covered = await journal.append([_frame(1, 6, 1, 1)])
    assert await journal.prune(1, {5: 99}) == 0, "pruned frames that no snapshot contains"
    await journal.save_snapshot(SnapshotRecord(1, covered, b"state"))
    await journal.append([_frame(1, 5, 7, 7)])
    assert await journal.prune(1, {5: 5}) == 1, "pruned a frame that is only partly below the limit"
    assert await journal.prune(1, {5: 99}) == 1, "pruned beyond the snapshot, or not up to it"
    left = [(frame.shard, frame.session, frame.last) for _, frame in await journal.replay(0, 10)]
    assert left == [(2, 5, 3), (1, 6, 1), (1, 5, 7)], f"pruning left {left}"
    assert await journal.prune(1, {}) == 0, "pruned without a limit"


async def _check_size(journal: Journal) -> None:
    """Bytes held, after everything that changes them."""

    async def held(expected: int, after: str) -> None:
        size = await journal.size()
        assert size == expected, f"size is {size} after {after}, and {expected} bytes are held"

    await held(0, "nothing")
    frames = [_frame(1, 5, at, at) for at in range(1, 5)]
    one = len(frames[0].data)
    await asyncio.gather(*(journal.append([frame]) for frame in frames[:3]))
    last = await journal.append(frames[3:])
    await held(4 * one, "appending")
    await journal.save_snapshot(SnapshotRecord(1, last, b"state"))
    await held(4 * one + 5, "a snapshot")
    await journal.save_snapshot(SnapshotRecord(1, last - 1, b"an older state"))
    await held(4 * one + 5, "a snapshot that came too late")
    await journal.save_snapshot(SnapshotRecord(1, last, b"new"))
    await held(4 * one + 3, "a snapshot instead of another")
    assert await journal.prune(1, {5: 3, 6: 9}) == 3, "pruned too many or too few"
    await held(one + 3, "pruning")
    assert await journal.prune(1, {5: 3}) == 0, "pruned twice"
    await held(one + 3, "pruning nothing")


async def _check_positions_after_pruning(journal: Journal) -> None:
    last = await journal.append([_frame(0, 9, 1, 1), _frame(0, 9, 2, 2)])
    await journal.save_snapshot(SnapshotRecord(0, last, b"state"))
    assert await journal.prune(0, {9: 2}) == 2, "not everything was pruned"
    assert await journal.append([_frame(0, 9, 3, 3)]) > last, "a position was given twice"


async def _check_meta(journal: Journal) -> None:
    assert await journal.meta() == {}, "a new journal has meta values"
    await journal.set_meta({"cursor": b"1", "other": b"\x00\xff"})
    await journal.set_meta({"cursor": b"2", "empty": b""})
    expected = {"cursor": b"2", "other": b"\x00\xff", "empty": b""}
    assert await journal.meta() == expected, "meta values are not what was set"


async def _check_exact_bytes(journal: Journal) -> None:
    every_byte = bytes(range(256)) * 4096
    greatest = 2**53 - 1
    frames = [
        FrameRecord(4095, greatest, greatest, greatest, True, every_byte),
        FrameRecord(0, 1, 1, 1, False, b""),
    ]
    await journal.append(frames)
    assert [frame for _, frame in await journal.replay(0, 2)] == frames, "bytes were altered"
    assert await journal.size() == len(every_byte), "size is not the bytes held"


async def _check_cancelling(journal: Journal) -> None:
    """A caller that gives up must not disturb the others, nor the order of what was handed over."""
    given_up = asyncio.ensure_future(journal.append([_frame(0, 1, 1, 1)]))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    await journal.append([_frame(0, 2, 1, 1)])
    sessions = [frame.session for _, frame in await journal.replay(0, 10)]
    assert sessions in ([1, 2], [2]), f"a cancelled append left sessions {sessions}"


async def _check_closing(journal: Journal) -> None:
    await journal.append([_frame(0, 1, 1, 1)])
    await journal.close()
    await journal.close()
    try:
        await journal.append([_frame(0, 1, 2, 2)])
    except StorageError:
        return
    raise AssertionError("a closed journal took a frame")

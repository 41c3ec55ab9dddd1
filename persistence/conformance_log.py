"""What every `EventLog` must do, as checks any test runner can run.

    @asynccontextmanager
    async def make() -> AsyncIterator[Open]: ...    # a new, empty log of SHARDS shards

    for check in LOG_CHECKS:
        await check(make)

`make` gives a function that opens one more client of that log, and closes all of them afterwards.
A check returns, or raises AssertionError with what was wrong. That records outlive their server,
and what happens while it is away, are each adapter's own tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from persistence.base import EventLog, LogFrame, LogRecord, ServiceUnavailable

__all__ = ("LOG_CHECKS", "SHARDS", "Check", "MakeLog", "Open", "check_log")

SHARDS = 4
"""How many shards the log of a check has."""
PATIENCE_S = 20.0
"""How long an awaited condition may take before the check fails."""
WAIT_S = 0.2
"""How long one read waits for news."""
STALL_S = 0.05
"""How long something that must go on waiting is watched."""

Open: TypeAlias = Callable[[], EventLog]
MakeLog: TypeAlias = Callable[[], AbstractAsyncContextManager[Open]]
Check: TypeAlias = Callable[[MakeLog], Awaitable[None]]
START: Mapping[int, int] = dict.fromkeys(range(SHARDS), 0)


async def check_log(make: MakeLog) -> None:
    """Run all checks, each on a log of its own."""
    for check in LOG_CHECKS:
        await check(make)


def _frame(shard: int, first: int, data: bytes | None = None, session: int = 7) -> LogFrame:
    named = f"{shard}/{session}/{first}".encode()
    return LogFrame(shard, session, first, 1, named if data is None else data)


async def _read(
    log: EventLog, count: int, after: Mapping[int, int] = START, limit: int = 1000
) -> dict[int, list[LogRecord]]:
    """The next `count` records, by shard; fails where more come, or too few."""
    offsets = dict(after)
    found: dict[int, list[LogRecord]] = {shard: [] for shard in offsets}
    async with asyncio.timeout(PATIENCE_S):
        while (held := sum(map(len, found.values()))) < count:
            for record in await log.read(offsets, limit=limit, wait_s=WAIT_S):
                assert record.shard in offsets, f"a record of shard {record.shard}, not asked for"
                offset = offsets[record.shard]
                assert record.offset >= offset, f"offset {record.offset}, asked for from {offset}"
                offsets[record.shard] = record.offset + 1
                found[record.shard].append(record)
    assert held == count, f"{held} records where {count} were stored"
    return found


def _data(records: list[LogRecord]) -> list[bytes]:
    return [record.data for record in records]


async def check_a_new_log_is_empty(make: MakeLog) -> None:
    """Nothing to read, and bounds that say so; reading it waits, but not for ever."""
    async with make() as open_log:
        log = open_log()
        bounds = await log.bounds()
        assert sorted(bounds) == list(range(SHARDS)), f"bounds of shards {sorted(bounds)}"
        assert all(first == end for first, end in bounds.values()), f"not empty: {bounds}"
        async with asyncio.timeout(PATIENCE_S):
            assert await log.read(START, limit=10, wait_s=0) == []
            assert await log.read(START, limit=10, wait_s=WAIT_S) == []
            assert await log.read({}, limit=10, wait_s=0) == []
        await log.append([])
        assert await log.bounds() == bounds, "appending nothing moved the bounds"


async def check_order_within_a_shard(make: MakeLog) -> None:
    """Frames of one append are in the order given, those of a later one behind them."""
    async with make() as open_log:
        log = open_log()
        frames = [_frame(at % SHARDS, at, session=at % 3 + 1) for at in range(1, 101)]
        for start in (0, 10, 11, 60):
            end = {0: 10, 10: 11, 11: 60, 60: 100}[start]
            await log.append(frames[start:end])
        found = await _read(log, 100)
        for shard, records in found.items():
            expected = [frame.data for frame in frames if frame.shard == shard]
            assert _data(records) == expected, f"shard {shard} is not in order, or not exact"


async def check_concurrent_appends(make: MakeLog) -> None:
    """All of them arrive, none twice, and frames of each stay in order."""
    async with make() as open_log:
        log, other = open_log(), open_log()
        offers = [
            [_frame(0, at, session=session) for at in range(1, 6)] for session in range(1, 21)
        ]
        await asyncio.gather(
            *((log, other)[at % 2].append(offer) for at, offer in enumerate(offers))
        )
        stored = _data((await _read(log, 100))[0])
        for offer in offers:
            own = [frame.data for frame in offer]
            assert [data for data in stored if data in own] == own, "an append was torn apart"


async def check_exact_bytes(make: MakeLog) -> None:
    """Empty, every byte there is, and large ones, bit for bit."""
    async with make() as open_log:
        log = open_log()
        data = [b"", bytes(range(256)), b"\xff" * 65_536, bytes(range(256)) * 4096, b"\0"]
        await log.append([_frame(1, at, each) for at, each in enumerate(data, 1)])
        assert _data((await _read(log, len(data)))[1]) == data, "bytes were altered"


async def check_everybody_reads_the_same(make: MakeLog) -> None:
    """Another client sees the same records at the same offsets, as often as he likes."""
    async with make() as open_log:
        writer, reader = open_log(), open_log()
        await writer.append([_frame(at % SHARDS, at) for at in range(1, 31)])
        first = await _read(reader, 30)
        assert await _read(reader, 30) == first, "reading again gave something else"
        assert await _read(writer, 30, limit=7) == first, "another client reads something else"


async def check_reading_from_an_offset(make: MakeLog) -> None:
    """Only the shards named, each from its own offset; also back again."""
    async with make() as open_log:
        log = open_log()
        await log.append([_frame(at % SHARDS, at) for at in range(40)])
        whole = await _read(log, 40)
        offsets = {1: whole[1][4].offset, 3: whole[3][9].offset}
        part = await _read(log, 7, offsets)
        assert part == {1: whole[1][4:], 3: whole[3][9:]}, "offsets were not kept to"
        assert (await _read(log, 10, {1: 0}))[1] == whole[1], "going back lost something"


async def check_paging(make: MakeLog) -> None:
    """Small pages lose nothing, and a long shard doesn't keep a short one waiting."""
    async with make() as open_log:
        log = open_log()
        await log.append([_frame(0, at) for at in range(300)])
        await log.append([_frame(3, 1)])
        offsets, pages, found = dict(START), [], 0
        async with asyncio.timeout(PATIENCE_S):
            while found < 301:
                page = await log.read(offsets, limit=10, wait_s=WAIT_S)
                offsets |= {record.shard: record.offset + 1 for record in page}
                found += len(page)
                pages.append([record.shard for record in page])
        assert found == 301, f"{found} records where 301 were stored"
        assert max(map(len, pages)) <= 10 + SHARDS, "pages are far above the limit"
        assert any(3 in page for page in pages[:5]), "a long shard kept a short one waiting"


async def check_waiting_for_news(make: MakeLog) -> None:
    """A read that waits gets what is appended meanwhile, without waiting to the end."""
    async with make() as open_log:
        log, writer = open_log(), open_log()
        await writer.append([_frame(2, 1)])
        end = {shard: end for shard, (_, end) in (await log.bounds()).items()}
        reading = asyncio.ensure_future(log.read(end, limit=10, wait_s=3 * PATIENCE_S))
        done, _ = await asyncio.wait([reading], timeout=STALL_S)
        assert not done, "a read found something where nothing is"
        await writer.append([_frame(2, 2)])
        async with asyncio.timeout(PATIENCE_S):
            (record,) = await reading
        assert record.data == _frame(2, 2).data, "a waiting read got something else"


async def check_bounds(make: MakeLog) -> None:
    """They grow with the shard, and no record is outside them."""
    async with make() as open_log:
        log = open_log()
        before = await log.bounds()
        await log.append([_frame(1, at) for at in range(5)])
        after = await log.bounds()
        assert after[0] == before[0], "another shard's bounds moved"
        first, end = after[1]
        assert (first, end >= first + 5) == (before[1][0], True), f"{before[1]} became {after[1]}"
        offsets = [record.offset for record in (await _read(log, 5))[1]]
        assert offsets == sorted(set(offsets)), "offsets do not grow strictly"
        assert first <= offsets[0], "a record before the bounds"
        assert offsets[-1] < end, "a record behind the bounds"
        assert await log.read({1: end}, limit=10, wait_s=0) == [], "a record behind the bounds"


async def check_a_position_beyond_the_end(make: MakeLog) -> None:
    """The log was made anew since: it is read from its beginning, not waited for."""
    async with make() as open_log:
        log = open_log()
        await log.append([_frame(0, 1)])
        async with asyncio.timeout(PATIENCE_S):
            while not (records := await log.read({0: 1000}, limit=10, wait_s=WAIT_S)):
                pass
        assert _data(records) == [_frame(0, 1).data], "the new log was not read from its start"


async def check_large_appends(make: MakeLog) -> None:
    """Many frames, and more bytes than one request carries, in one call."""
    async with make() as open_log:
        log = open_log()
        many = [_frame(at % SHARDS, at) for at in range(4000)]
        big = [_frame(at % SHARDS, at, bytes([at]) * 3_000_000) for at in range(8)]
        await log.append([*many, *big])
        found = await _read(log, 4008)
        for shard, records in found.items():
            expected = [frame.data for frame in [*many, *big] if frame.shard == shard]
            assert _data(records) == expected, f"shard {shard} is not in order, or not exact"


async def check_giving_up(make: MakeLog) -> None:
    """Whoever cancels a call disturbs neither the others nor the order."""
    async with make() as open_log:
        log = open_log()
        reading = asyncio.ensure_future(log.read(START, limit=10, wait_s=3 * PATIENCE_S))
        await asyncio.wait([reading], timeout=STALL_S)
        first = asyncio.ensure_future(log.append([_frame(0, 1)]))
        await asyncio.sleep(0)
        for given_up in (reading, first):
            given_up.cancel()
        await asyncio.gather(reading, first, return_exceptions=True)
        await log.append([_frame(0, 2), _frame(0, 3)])
        async with asyncio.timeout(PATIENCE_S):
            stored: list[bytes] = []
            offset = 0
            while _frame(0, 3).data not in stored:
                for record in await log.read({0: offset}, limit=10, wait_s=WAIT_S):
                    stored.append(record.data)
                    offset = record.offset + 1
        names = [_frame(0, at).data for at in (1, 2, 3)]
        assert stored in (names, names[1:]), f"{stored} are stored"


async def check_wrong_arguments(make: MakeLog) -> None:
    """What only a programmer can do wrong is a ValueError, and stores nothing."""
    async with make() as open_log:
        log = open_log()
        wrong: list[Callable[[], Awaitable[object]]] = [
            lambda: log.append([_frame(0, 1), _frame(SHARDS, 1)]),
            lambda: log.read({-1: 0}, limit=1, wait_s=0),
            lambda: log.read(START, limit=0, wait_s=0),
        ]
        for at, call in enumerate(wrong):
            try:
                await call()
            except ValueError:
                continue
            raise AssertionError(f"wrong argument {at} was taken")
        assert await log.read(START, limit=1, wait_s=0) == [], "a refused append stored something"


async def check_closing(make: MakeLog) -> None:
    """Idempotent; a read under way ends; a closed log says so, another client goes on."""
    async with make() as open_log:
        log, other = open_log(), open_log()
        assert "\n" not in await log.version(), "the version is not one line"
        reading = asyncio.ensure_future(log.read(START, limit=10, wait_s=3 * PATIENCE_S))
        await asyncio.wait([reading], timeout=STALL_S)
        await log.close()
        await log.close()
        async with asyncio.timeout(PATIENCE_S):
            (ended,) = await asyncio.gather(reading, return_exceptions=True)
        assert isinstance(ended, ServiceUnavailable), f"a read under way ended with {ended!r}"
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: log.append([_frame(0, 1)]),
            lambda: log.read(START, limit=1, wait_s=0),
            log.bounds,
            log.version,
        ]
        for call in calls:
            refusal: ServiceUnavailable | None = None
            try:
                await call()
            except ServiceUnavailable as unavailable:
                refusal = unavailable
            assert refusal is not None, "a closed log answered"
            assert refusal.lasting, "a closed log is said to come back"
        await other.append([_frame(0, 2)])
        assert _data((await _read(other, 1))[0]) == [_frame(0, 2).data]


LOG_CHECKS: tuple[Check, ...] = (
    check_a_new_log_is_empty,
    check_order_within_a_shard,
    check_concurrent_appends,
    check_exact_bytes,
    check_everybody_reads_the_same,
    check_reading_from_an_offset,
    check_paging,
    check_waiting_for_news,
    check_bounds,
    check_a_position_beyond_the_end,
    check_large_appends,
    check_giving_up,
    check_wrong_arguments,
    check_closing,
)

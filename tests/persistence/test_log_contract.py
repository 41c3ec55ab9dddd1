"""Every event log passes the one suite; the one in memory misbehaves as it is told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from mesh.stack import Stack
from persistence.base import EventLog, LogFrame, LogRecord, ServiceUnavailable
from persistence.conformance_log import LOG_CHECKS, SHARDS, Check, MakeLog, Open, check_log
from persistence.memory_log import MemoryLog, MemoryLogServer
from tests.persistence.kafka_world import frame, make_log

topics = (f"contract-{number}" for number in itertools.count())


def sharing(client: Callable[[], EventLog]) -> MakeLog:
    """`make` of the suite, for clients of one new log."""

    @asynccontextmanager
    async def make() -> AsyncIterator[Open]:
        logs: list[EventLog] = []

        def open_log() -> EventLog:
            logs.append(client())
            return logs[-1]

        try:
            yield open_log
        finally:
            for log in logs:
                await log.close()

    return make


@pytest.mark.parametrize("check", LOG_CHECKS, ids=lambda check: check.__name__)
async def test_the_log_in_memory(check: Check) -> None:
    await check(sharing(MemoryLogServer(SHARDS).log))


@pytest.mark.parametrize("check", LOG_CHECKS, ids=lambda check: check.__name__)
async def test_the_log_on_kafka(check: Check, stack: Stack) -> None:
    servers, topic = stack.services["kafka"].address, next(topics)
    await check(sharing(lambda: make_log(servers, topic)))


class Forgetful(MemoryLog):
    """Loses the last frame of long appends."""

    async def append(self, frames: Sequence[LogFrame]) -> None:
        await super().append(frames[:50])


class Backward(MemoryLog):
    """Hands out the latest first."""

    async def read(
        self, offsets: Mapping[int, int], *, limit: int, wait_s: float
    ) -> list[LogRecord]:
        return (await super().read(offsets, limit=limit, wait_s=wait_s))[::-1]


class Stubborn(MemoryLog):
    """Reads from the beginning, wherever one wants to go on."""

    async def read(
        self, offsets: Mapping[int, int], *, limit: int, wait_s: float
    ) -> list[LogRecord]:
        start = dict.fromkeys(offsets, 0)
        return await super().read(start, limit=limit, wait_s=wait_s)


@pytest.mark.parametrize("broken", [Forgetful, Backward, Stubborn])
async def test_the_suite_notices_a_broken_log(broken: type[MemoryLog]) -> None:
    with pytest.raises((AssertionError, TimeoutError)):
        async with asyncio.timeout(1):
            await check_log(sharing_anew(broken))


def sharing_anew(broken: type[MemoryLog]) -> MakeLog:
    @asynccontextmanager
    async def make() -> AsyncIterator[Open]:
        server = MemoryLogServer(SHARDS)
        async with sharing(lambda: broken(server))() as open_log:
            yield open_log

    return make


# -------------------------------------------------------------------- the nasty side of memory


async def whole(log: EventLog, shard: int = 0) -> list[bytes]:
    return [each.data for each in await log.read({shard: 0}, limit=10_000, wait_s=0)]


async def test_a_stopped_server_fails_every_call_and_forgets_nothing() -> None:
    server = MemoryLogServer(SHARDS)
    log = server.log()
    await log.append([frame(1)])
    waiting = asyncio.ensure_future(log.read({0: 1}, limit=1, wait_s=60))
    await asyncio.sleep(0)
    server.stop("the plug was pulled")
    for call in (
        waiting, log.append([frame(2)]), log.read({0: 0}, limit=1, wait_s=60),
        log.bounds(), log.version(),
    ):  # fmt: skip
        with pytest.raises(ServiceUnavailable, match="the plug was pulled"):
            await call
    server.start()
    assert await whole(log) == [b"1"]
    assert (await log.bounds())[0] == (0, 1)


async def test_an_append_that_fails_in_the_middle_has_stored_a_part() -> None:
    server = MemoryLogServer(SHARDS)
    log = server.log()
    server.fail_next_append(stored=2)
    frames = [frame(at) for at in (1, 2, 3)]
    with pytest.raises(ServiceUnavailable):
        await log.append(frames)
    assert await whole(log) == [b"1", b"2"]
    await log.append(frames)
    assert await whole(log) == [b"1", b"2", b"1", b"2", b"3"]


async def test_duplicates_holes_and_strangers() -> None:
    server = MemoryLogServer(SHARDS)
    log = server.log()
    server.duplicate(2)
    await log.append([frame(1)])
    server.duplicate(1)
    server.skip(0, 5)
    assert server.put(0, b"strange") == 7
    assert await whole(log) == [b"1", b"1", b"strange"]
    server.skip(0, 3)
    assert (await log.bounds())[0] == (0, 11)
    assert await log.read({0: 8}, limit=9, wait_s=0) == [LogRecord(0, 10, b"")]
    assert await log.read({0: 11}, limit=9, wait_s=0) == []


async def test_retention_tells_that_it_removed_something() -> None:
    server = MemoryLogServer(SHARDS)
    log = server.log()
    await log.append([frame(at) for at in range(5)])
    server.retain(0, 3)
    assert (await log.bounds())[0] == (3, 5)
    assert await log.read({0: 1}, limit=9, wait_s=0) == [LogRecord(0, 2, b"")]
    assert [each.data for each in await log.read({0: 3}, limit=9, wait_s=0)] == [b"3", b"4"]
    server.retain(0, 99)
    assert (await log.bounds())[0] == (5, 5)
    assert await log.read({0: 3}, limit=9, wait_s=0) == [LogRecord(0, 4, b"")]


async def test_the_newest_records_can_be_lost_and_the_log_made_anew() -> None:
    server = MemoryLogServer(SHARDS, capacity=5)
    log = server.log()
    await log.append([frame(at) for at in range(5)])
    server.truncate(0, 3)
    assert (await log.bounds())[0] == (0, 3)
    # Who had read more is told by offsets that are lower than he asked for.
    assert [each.offset for each in await log.read({0: 5}, limit=9, wait_s=0)] == [0, 1, 2]
    await log.append([frame(7)])
    assert await whole(log) == [b"0", b"1", b"2", b"7"]
    server.retain(0, 4)
    server.recreate()
    assert (await log.bounds())[0] == (0, 0)
    assert await log.read({0: 5}, limit=9, wait_s=0) == []
    await log.append([frame(at) for at in range(5)])
    assert await whole(log) == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_slow_append_that_is_given_up_is_stored_all_the_same() -> None:
    server = MemoryLogServer(SHARDS)
    log = server.log()
    server.slow(60)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await log.append([frame(1)])
    server.slow(0)
    assert await whole(log) == [b"1"]


async def test_a_full_server_refuses_and_keeps_what_it_has() -> None:
    server = MemoryLogServer(SHARDS, capacity=10)
    log = server.log()
    await log.append([frame(1, data=b"12345678")])
    with pytest.raises(ServiceUnavailable, match="full"):
        await log.append([frame(2, data=b"123")])
    server.retain(0, 1)
    await log.append([frame(2, data=b"123")])
    assert await log.read({0: 1}, limit=9, wait_s=0) == [LogRecord(0, 1, b"123")]

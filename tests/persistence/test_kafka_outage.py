"""The log while its Kafka dies, hangs and comes back: nothing lost, nothing out of order."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from mesh.stack import Stack
from persistence.base import LogRecord, ServiceUnavailable
from persistence.kafka import KafkaLog
from tests.mesh.world import eventually
from tests.persistence.kafka_world import first_times, frame, insist, opened, read_until

TIMEOUT_S = 1.0
# What a call may take beyond its timeout on a machine that is busy with other things.
SLACK_S = 2.0
topics = (f"outage-{number}" for number in itertools.count())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A Kafka of these tests' own: each leaves it running."""
    async with Stack.running(tmp_path_factory.mktemp("outage"), only=("kafka",)) as stack:
        yield stack


@asynccontextmanager
async def silenced(own: Stack) -> AsyncIterator[None]:
    """The server hangs while the block lasts."""
    pid = own.services["kafka"].pid
    assert pid is not None
    threads = Path(f"/proc/{pid}/task")

    def stopped() -> bool:
        # Where there is no /proc one has to believe it.
        stats = [each.read_text() for each in threads.glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    os.killpg(pid, signal.SIGSTOP)
    try:
        await eventually(stopped, "all threads stop")
        yield
    finally:
        os.killpg(pid, signal.SIGCONT)


async def calls_fail_in_time(log: KafkaLog) -> list[ServiceUnavailable]:
    loop = asyncio.get_running_loop()
    reasons = []
    for call in (
        log.append([frame(0, shard=1)]), log.read({1: 0}, limit=1, wait_s=0.2), log.bounds(),
        log.version(),
    ):  # fmt: skip
        start = loop.time()
        with pytest.raises(ServiceUnavailable) as caught:
            await call
        assert loop.time() - start < TIMEOUT_S + 0.2 + SLACK_S
        reasons.append(caught.value)
    return reasons


async def test_kafka_is_killed_and_comes_back(
    own: Stack, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.WARNING)
    servers = own.services["kafka"].address
    async with opened(servers, next(topics), timeout_s=TIMEOUT_S) as log:
        await log.append([frame(1)])
        reading = asyncio.ensure_future(log.read({0: 1}, limit=1, wait_s=60))
        await asyncio.wait([reading], timeout=0.2)
        await own.kill("kafka")
        try:
            with pytest.raises(ServiceUnavailable):
                async with asyncio.timeout(TIMEOUT_S + SLACK_S):
                    await reading
            for error in await calls_fail_in_time(log):
                assert f"no connection to Kafka at {servers}: Connection refused" in error.reason
                assert not error.lasting
        finally:
            await own.start("kafka")
        await insist(lambda: log.append([frame(2)]))
        records = await read_until(log, lambda records: len(first_times(records)) == 2)
        assert first_times(records) == [b"1", b"2"]
        assert (await log.bounds())[0][0] == 0
        assert "Kafka" in await log.version()
    assert [each for each in caplog.records if each.name.startswith("aiokafka")] == []
    assert capfd.readouterr().err == ""


class Traffic:
    """A writer that offers frame after frame until it is stored, and a reader that follows."""

    def __init__(self, writer: KafkaLog, reader: KafkaLog) -> None:
        self._writer = writer
        self._reader = reader
        self.written = 0
        self.failures = 0
        self.seen: list[bytes] = []
        self.stopped = False
        self._all_written = False

    async def write(self) -> None:
        while not self.stopped:
            new = frame(self.written + 1)
            self.failures += await insist(lambda new=new: self._writer.append([new]))  # type: ignore[misc]
            self.written += 1
        self._all_written = True

    async def read(self) -> None:
        offset = 0
        records: list[LogRecord] = []

        async def more() -> None:
            nonlocal records
            records = await self._reader.read({0: offset}, limit=500, wait_s=0.2)

        while not self._all_written or len(set(self.seen)) < self.written:
            await insist(more)
            self.seen += [record.data for record in records]
            offset = records[-1].offset + 1 if records else offset

    async def goes_on(self) -> None:
        before = self.written
        await eventually(lambda: self.written > before + 100, "writing goes on", within=60)


async def test_a_writer_and_a_reader_go_on_through_two_kills(own: Stack) -> None:
    """Whatever is offered again until it is taken is there, and in order."""
    servers, topic = own.services["kafka"].address, next(topics)
    async with (
        opened(servers, topic, timeout_s=TIMEOUT_S) as writer,
        opened(servers, topic, timeout_s=TIMEOUT_S) as reader,
        asyncio.TaskGroup() as tasks,
    ):
        traffic = Traffic(writer, reader)
        tasks.create_task(traffic.write())
        tasks.create_task(traffic.read())
        for _ in range(2):
            await traffic.goes_on()
            await own.kill("kafka")
            await own.start("kafka")
        await traffic.goes_on()
        traffic.stopped = True
    assert traffic.failures, "no append met the outage"
    expected = [b"%d" % at for at in range(1, traffic.written + 1)]
    assert list(dict.fromkeys(traffic.seen)) == expected


async def test_kafka_hangs(own: Stack) -> None:
    """Silence ends in time; what is offered again meets nothing stale that changes the order."""
    servers = own.services["kafka"].address
    async with opened(servers, next(topics), timeout_s=TIMEOUT_S) as log:
        await log.append([frame(1)])
        async with silenced(own):
            for error in await calls_fail_in_time(log):
                assert f"{servers} gave no answer as Kafka within 1 s" in error.reason
            with pytest.raises(ServiceUnavailable):
                await log.append([frame(2), frame(3)])
            with pytest.raises(ServiceUnavailable):
                await log.append([frame(2), frame(3)])
        await insist(lambda: log.append([frame(2), frame(3)]))
        await insist(lambda: log.append([frame(4)]))
        records = await read_until(log, lambda records: bool(records) and records[-1].data == b"4")
        assert first_times(records) == [b"1", b"2", b"3", b"4"]


async def test_appends_offered_at_once_all_fail_at_once(own: Stack) -> None:
    """None of them waits behind the silence that another one has met."""
    servers = own.services["kafka"].address
    loop = asyncio.get_running_loop()
    async with opened(servers, next(topics), timeout_s=TIMEOUT_S) as log:
        await log.append([frame(1)])
        async with silenced(own):
            start = loop.time()
            first = asyncio.ensure_future(log.append([frame(2)]))
            await asyncio.wait([first], timeout=TIMEOUT_S / 2)
            later = [log.append([frame(at)]) for at in range(3, 20)]
            results = await asyncio.gather(first, *later, return_exceptions=True)
            assert loop.time() - start < TIMEOUT_S + SLACK_S
            assert all(isinstance(result, ServiceUnavailable) for result in results), results
        await insist(lambda: log.append([frame(2)]))


async def test_closing_while_kafka_is_silent_or_gone(own: Stack) -> None:
    servers = own.services["kafka"].address
    loop = asyncio.get_running_loop()
    async with opened(servers, next(topics), timeout_s=30) as log:
        await log.append([frame(1)])
        async with silenced(own):
            waiting = [
                asyncio.ensure_future(log.append([frame(2)])),
                asyncio.ensure_future(log.read({0: 1}, limit=1, wait_s=30)),
            ]
            await asyncio.wait(waiting, timeout=0.1)
            start = loop.time()
            await log.close()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert loop.time() - start < SLACK_S
            assert all(isinstance(result, ServiceUnavailable) for result in results), results

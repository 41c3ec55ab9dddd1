"""The log over several brokers that misbehave in ways a real one is hard to bring to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from aiokafka.protocol.fetch import FetchRequest  # type: ignore[import-untyped]
from aiokafka.protocol.produce import ProduceRequest  # type: ignore[import-untyped]

import persistence.kafka_topic as topics
from persistence.base import ServiceUnavailable
from persistence.kafka import KafkaLog
from persistence.kafka_topic import Layout
from persistence.kafka_wire import Access, no_answer
from tests.persistence.kafka_world import frame, make_log

TIMEOUT_S = 5.0
SILENT, GOOD = "silent:1", "good:1"
# Shard 0 is led by the one broker, shard 1 by the other.
LEADERS = {0: 0, 1: 1, 2: 1, 3: 1}


class Brokers:
    """Both of them: one never lets anybody connect, the other answers as the test wants."""

    def __init__(self) -> None:
        self.deadlines: list[float] = []
        self.connecting = asyncio.Event()
        self.stored: list[int] = []
        self.told: Callable[[int], list[tuple[int, int]]] = lambda shard: [(shard, 0)]
        self.limit: int | None = 1 << 20

    async def connect(self, access: Access, address: str, deadline: float) -> Any:
        """Stands for `kafka_wire.connect`."""
        self.deadlines.append(deadline)
        if address == SILENT:
            self.connecting.set()
            try:
                async with asyncio.timeout_at(deadline):
                    await asyncio.Event().wait()
            except TimeoutError:
                raise no_answer(address, access) from None
        return SimpleNamespace(usable=True, ask=self.ask, hang_up=_closed, versions={})

    async def ask(self, request: Any, deadline: float) -> Any:
        """Stands for `Broker.ask`."""
        self.deadlines.append(deadline)
        if isinstance(request, ProduceRequest):
            ((topic, batches),) = request._topics
            answers = [answer for shard, _ in batches for answer in self.told(shard)]
            self.stored += [shard for shard, code in answers if code == 0]
            return SimpleNamespace(topics=[(topic, answers)])
        if isinstance(request, FetchRequest):
            return SimpleNamespace(topics=[])
        return SimpleNamespace(error_code=0, producer_id=1, producer_epoch=0)


def _closed() -> asyncio.Future[None]:
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    closed.set_result(None)
    return closed


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    brokers = Brokers()

    async def look(*_: object) -> Layout:
        await asyncio.sleep(0.02)
        return Layout("t", LEADERS, {0: SILENT, 1: GOOD}, brokers.limit)

    monkeypatch.setattr(topics, "connect", brokers.connect)
    monkeypatch.setattr(topics.Cluster, "_look", look)
    return brokers


@pytest_asyncio.fixture
async def log(brokers: Brokers) -> AsyncIterator[KafkaLog]:
    log = make_log(f"{GOOD},{SILENT}", timeout_s=TIMEOUT_S)
    yield log
    await log.close()


async def test_what_the_broker_does_not_confirm_is_not_acknowledged(
    brokers: Brokers, log: KafkaLog
) -> None:
    brokers.told = lambda shard: [(shard, 0)] if shard == 1 else []
    with pytest.raises(ServiceUnavailable, match=r"partition 2 .* not confirmed"):
        await log.append([frame(1, shard=1), frame(2, shard=2)])
    assert brokers.stored == [1]


async def test_an_append_has_its_time_once(brokers: Brokers, log: KafkaLog) -> None:
    """However many steps it takes to get at the brokers."""
    start = asyncio.get_running_loop().time()
    await log.append([frame(1, shard=1)])
    assert max(brokers.deadlines) < start + TIMEOUT_S + 0.01


async def test_a_broker_out_of_reach_does_not_hold_up_the_others(
    brokers: Brokers, log: KafkaLog
) -> None:
    """Neither while a read waits for it, nor beyond the time that silence takes to be noticed."""
    start = asyncio.get_running_loop().time()
    reading = asyncio.ensure_future(log.read({0: 0}, limit=1, wait_s=60))
    await brokers.connecting.wait()
    async with asyncio.timeout(TIMEOUT_S / 2):
        await log.append([frame(1, shard=1)])
    assert brokers.deadlines[0] < start + TIMEOUT_S + 1
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_a_limit_that_was_lowered_does_not_slow_the_log_down_for_ever(
    brokers: Brokers, log: KafkaLog
) -> None:
    """The new limit is asked for, and batches are as large as it allows."""
    brokers.told = lambda shard: [(shard, 10)]
    with pytest.raises(ServiceUnavailable, match="batch is too large"):
        await log.append([frame(at, shard=1) for at in range(9)])
    brokers.told = lambda shard: [(shard, 0)]
    brokers.limit = 1 << 19
    await log.append([frame(at, shard=1) for at in range(9)])
    assert brokers.stored == [1]

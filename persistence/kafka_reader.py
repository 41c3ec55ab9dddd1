"""Reading the topic: one long poll over all shards asked for, at the caller's positions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from aiokafka.protocol.fetch import FetchRequest  # type: ignore[import-untyped]
from aiokafka.protocol.offset import OffsetRequest  # type: ignore[import-untyped]
from aiokafka.record.memory_records import MemoryRecords  # type: ignore[import-untyped]

from persistence.base import LogRecord, ServiceUnavailable
from persistence.kafka_topic import Cluster
from persistence.kafka_wire import refusal

PURPOSE = "read"
ASKING = "ask"
NONE, OUT_OF_RANGE = 0, 1
# Committed or not: an open transaction of a stranger must not hold up everybody's reading.
UNCOMMITTED = 0
EARLIEST, LATEST = -2, -1
CONSUMER = -1
SOME_BYTES = 1
# Of one answer. A record that is larger comes alone.
SHARD_BYTES = 1 << 20
ANSWER_BYTES = 8 << 20
# With several brokers, how long one of them may keep the news of the others waiting.
TURN_S = 0.1


@dataclass(slots=True)
class _Ahead:
    """What is known about a shard from offset `start` on: these records, and then from `next`."""

    shard: int
    start: int
    records: list[LogRecord]
    next: int

    def news(self) -> bool:
        """Whether there are records. An empty one stands for offsets that hold none any more."""
        if not self.records and self.next > self.start:
            self.records = [LogRecord(self.shard, self.next - 1, b"")]
        return bool(self.records)


class Reader:
    """Reads of one log, one at a time.

    Keeps what one answer brought beyond the caller's limit, at most `ANSWER_BYTES` of it and a
    record, and forgets it when he goes on elsewhere.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ahead: dict[int, _Ahead] = {}
        self._turn = 0
        self._lock = asyncio.Lock()

    async def read(self, offsets: Mapping[int, int], limit: int, wait_s: float) -> list[LogRecord]:
        """See `EventLog.read`."""
        async with self._lock:
            until = asyncio.get_running_loop().time() + wait_s
            deadline = self._cluster.deadline(wait_s)
            return await self._cluster.trying(
                lambda: self._read(dict(offsets), limit, until, deadline), deadline
            )

    async def bounds(self) -> dict[int, tuple[int, int]]:
        """See `EventLog.bounds`."""
        deadline = self._cluster.deadline()
        shards = list(range(self._cluster.spec.partitions))

        async def both() -> dict[int, tuple[int, int]]:
            first = await self._offsets(shards, EARLIEST, deadline)
            end = await self._offsets(shards, LATEST, deadline)
            return {shard: (first[shard], end[shard]) for shard in shards}

        return await self._cluster.trying(both, deadline)

    async def _read(
        self, offsets: dict[int, int], limit: int, until: float, deadline: float
    ) -> list[LogRecord]:
        loop = asyncio.get_running_loop()
        self._keep(offsets)
        while not (records := self._hand_out(offsets, limit)):
            await self._fetch(offsets, max(0.0, until - loop.time()), deadline)
            if loop.time() >= until:
                return self._hand_out(offsets, limit)
        return records

    def _keep(self, offsets: dict[int, int]) -> None:
        """Forget what does not begin where the caller goes on."""
        for shard, ahead in list(self._ahead.items()):
            if offsets.get(shard) != ahead.start:
                del self._ahead[shard]

    def _hand_out(self, offsets: dict[int, int], limit: int) -> list[LogRecord]:
        """Up to `limit` records, an equal share of every shard that has some.

        What stays begins where the caller will go on: behind the last record he got.
        """
        full = [ahead for shard in offsets if (ahead := self._ahead.get(shard)) and ahead.news()]
        share = max(1, limit // max(1, len(full)))
        found: list[LogRecord] = []
        for ahead in full:
            given, ahead.records = ahead.records[:share], ahead.records[share:]
            ahead.start = given[-1].offset + 1
            found.extend(given)
        return found

    async def _fetch(self, offsets: dict[int, int], wait_s: float, deadline: float) -> None:
        """Ask the leaders for what comes next; waits until one of them has something."""
        layout = await self._cluster.layout(deadline)
        nodes = layout.by_leader(self._rotated(list(offsets)))
        if len(nodes) > 1:
            wait_s = min(wait_s, TURN_S)
        answers = await asyncio.gather(
            *(
                self._ask(node, {shard: offsets[shard] for shard in shards}, wait_s, deadline)
                for node, shards in nodes.items()
            ),
            return_exceptions=True,
        )
        gone: list[int] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            gone += answer
        if gone:
            # Removed by retention, or beyond the end of a topic that was made anew.
            first = await self._offsets(gone, EARLIEST, deadline)
            for shard in gone:
                self._ahead[shard] = _Ahead(shard, offsets[shard], [], first[shard])

    async def _ask(
        self, node: int, offsets: dict[int, int], wait_s: float, deadline: float
    ) -> list[int]:
        """Keep what this broker has; returns the shards that have nothing at their offset."""
        topic = self._cluster.spec.name
        at = {shard: self._next(shard, offset) for shard, offset in offsets.items()}
        wanted = [(shard, offset, SHARD_BYTES) for shard, offset in at.items()]
        request = FetchRequest(
            int(wait_s * 1000), SOME_BYTES, ANSWER_BYTES, UNCOMMITTED, [(topic, wanted)]
        )
        broker = await self._cluster.broker(node, PURPOSE, deadline)
        answer = await broker.ask(request, deadline)
        gone: list[int] = []
        for _, partitions in answer.topics:
            for shard, code, _, *rest in partitions:
                if code == OUT_OF_RANGE:
                    gone.append(shard)
                elif code != NONE:
                    raise refusal(code, f"reading partition {shard} of Kafka's topic {topic!r}")
                elif rest[-1]:
                    records, following = self._decode(shard, at[shard], rest[-1])
                    self._ahead[shard] = _Ahead(shard, offsets[shard], records, following)
        return gone

    def _next(self, shard: int, offset: int) -> int:
        """Where to ask for what follows `offset`: beyond what is known to hold nothing."""
        ahead = self._ahead.get(shard)
        return ahead.next if ahead is not None else offset

    def _decode(self, shard: int, offset: int, data: bytes) -> tuple[list[LogRecord], int]:
        """The records from `offset` on, and the offset after them and after what is no record."""
        records: list[LogRecord] = []
        following = offset
        try:
            batches = MemoryRecords(data)
            while batches.has_next():
                batch = batches.next_batch()
                if not batch.validate_crc():
                    raise refusal(2, self._reading(shard, following))
                if not batch.is_control_batch:
                    records.extend(
                        LogRecord(shard, record.offset, bytes(record.value or b""))
                        for record in batch
                        if record.offset >= offset
                    )
                # The last offset counts, whatever compaction has left of the batch.
                following = max(following, batch.next_offset)
        except (KafkaError, ValueError, RuntimeError) as error:
            raise ServiceUnavailable(
                f"{self._reading(shard, following)} failed: {error}",
                "set the topic's compression.type to producer or gzip, or check the broker's disk",
                lasting=True,
            ) from None
        return records, following

    def _reading(self, shard: int, offset: int) -> str:
        topic = self._cluster.spec.name
        return f"reading partition {shard} of Kafka's topic {topic!r} at offset {offset}"

    async def _offsets(self, shards: list[int], which: int, deadline: float) -> dict[int, int]:
        """The first offset kept, or the next one to be given, of these shards."""
        topic = self._cluster.spec.name
        layout = await self._cluster.layout(deadline)

        async def ask(node: int, own: list[int]) -> dict[int, int]:
            request = OffsetRequest(CONSUMER, UNCOMMITTED, [(topic, [(at, which) for at in own])])
            broker = await self._cluster.broker(node, ASKING, deadline)
            found: dict[int, int] = {}
            for _, partitions in (await broker.ask(request, deadline)).topics:
                for shard, code, _, offset, *_ in partitions:
                    if code != NONE:
                        doing = f"asking for offsets of partition {shard} of Kafka's topic"
                        raise refusal(code, f"{doing} {topic!r}")
                    found[shard] = offset
            return found

        answers = await asyncio.gather(
            *(ask(node, own) for node, own in layout.by_leader(shards).items())
        )
        return {shard: offset for answer in answers for shard, offset in answer.items()}

    def _rotated(self, shards: list[int]) -> list[int]:
        """Another shard first each time: brokers fill their answer in the order asked."""
        self._turn = (self._turn + 1) % max(1, len(shards))
        return shards[self._turn :] + shards[: self._turn]

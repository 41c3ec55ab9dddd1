"""The event log on Apache Kafka: a topic for each mesh, a partition for each shard.

What a frame looks like in the topic: the value is the author's bytes, the key his session in
decimal, and the headers are CloudEvents 1.0 in binary mode, so that any tool may route and count
without opening it. Appends are acknowledged by all in-sync copies and numbered for the brokers, so
that one repeated after a lost answer is stored once.

Reading uses no consumer group: positions are the caller's. Transactions of strangers don't hold it
up, and their records are handed out whether they were committed or not.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Final

from aiokafka.protocol.admin import ApiVersionRequest  # type: ignore[import-untyped]

from persistence.base import LogFrame, LogRecord
from persistence.kafka_reader import Reader
from persistence.kafka_topic import Cluster, TopicSpec
from persistence.kafka_wire import Access
from persistence.kafka_writer import Writer
from persistence.limits import MAX_FRAME_BYTES
from persistence.memory_log import check_limit, check_shards, closed_log

# What a record takes beside the largest frame, generously: key, headers, framing.
MAX_RECORD_BYTES: Final = MAX_FRAME_BYTES + 64 * 1024

# The newest version of the Fetch request tells the release. (4.0 has the same one as 3.9, but
# dropped the oldest.)
FETCH: Final = 1
RELEASES: Final = ((18, "4.1"), (17, "3.9"), (16, "3.7"), (15, "3.5"), (13, "3.1"), (12, "2.7"))


class KafkaLog:
    """`persistence.base.EventLog` on Kafka.

    `servers`: `host:port` of brokers to start from. `topic` is created where it is missing, with
    `shards` partitions, `replication` copies (-1: as the brokers are set up) and unlimited
    retention; one that is there is used as it is, or refused with the reason. `linger_ms`: how
    long appends gather for one request while several are made at once; a lone one does not wait.
    `timeout_s`: silence after which the brokers count as unreachable; an append too large for one
    request may take as long for every part. `tls`: with the system's authorities. `username`,
    `password`: for SCRAM-SHA-512, which should not go without TLS. `max_record_bytes`: the largest
    record a topic that is created takes.

    Connects at the first call, and anew at a later one after a failure. Everything that servers
    and network do wrong is a ServiceUnavailable. Nothing of an append that failed is sent later.

    Beyond `EventLog`: a position beyond the log's end (the topic was made anew) reads from the
    first record kept. Whatever somebody else puts into the topic is a record too. An empty record
    stands for what has no bytes to hand out, so that a reader always gets to the end: a message
    without value, the marker of a stranger's transaction, and, once, all that retention removed.
    One `read` at a time; another waits for its turn. Appends are stored in call order.
    """

    def __init__(
        self,
        *,
        servers: tuple[str, ...],
        topic: str,
        mesh: str,
        shards: int,
        replication: int,
        linger_ms: int,
        timeout_s: float,
        tls: bool = False,
        username: str = "",
        password: str = "",
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        if not servers:
            raise ValueError("no servers: name at least one broker")
        context = ssl.create_default_context() if tls else None
        access = Access(servers, timeout_s, context, username, password)
        self._topic = topic
        self._shards = shards
        self._cluster = Cluster(access, TopicSpec(topic, shards, replication, max_record_bytes))
        self._writer = Writer(self._cluster, mesh, linger_ms)
        self._reader = Reader(self._cluster)
        self._closed = False

    async def append(self, frames: Sequence[LogFrame]) -> None:
        """See `EventLog.append`. Raises ValueError for a shard that the log does not have.

        Where a frame is larger than the topic allows nothing of this append is stored.
        """
        self._check()
        check_shards((frame.shard for frame in frames), self._shards)
        if frames:
            await self._writer.append(frames)

    async def read(
        self, offsets: Mapping[int, int], *, limit: int, wait_s: float
    ) -> list[LogRecord]:
        """See `EventLog.read`. Raises ValueError for a shard that the log does not have."""
        self._check()
        check_shards(offsets, self._shards)
        check_limit(limit)
        return await self._reader.read(offsets, limit, wait_s) if offsets else []

    async def bounds(self) -> dict[int, tuple[int, int]]:
        """See `EventLog.bounds`. Offsets of strangers' transactions are counted in."""
        self._check()
        return await self._reader.bounds()

    async def version(self) -> str:
        """The release whose protocol the broker speaks; Kafka's protocol does not tell its own."""
        self._check()
        deadline = self._cluster.deadline()

        async def greet() -> str:
            door = await self._cluster.door(deadline)
            await door.ask(ApiVersionRequest(), deadline)
            return f"Kafka, speaking the protocol of Apache Kafka {_release(door.versions)}"

        return await self._cluster.trying(greet, deadline)

    async def close(self) -> None:
        """See `EventLog.close`. Appends and reads that are under way fail."""
        if self._closed:
            return
        self._closed = True
        await self._writer.close(closed_log())
        await self._cluster.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"KafkaLog({self._topic!r}, shards={self._shards}, {state})"

    def _check(self) -> None:
        if self._closed:
            raise closed_log()


def _release(versions: Mapping[int, tuple[int, int]]) -> str:
    least, greatest = versions.get(FETCH, (0, 0))
    if greatest == 17 and least >= 4:
        return "4.0"
    for fetch, release in RELEASES:
        if greatest >= fetch:
            return release
    return "2.6 or older"

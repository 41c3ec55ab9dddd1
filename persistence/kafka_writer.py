"""Appending to the topic: offers are gathered, cut into batches and numbered for the brokers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.protocol.produce import ProduceRequest  # type: ignore[import-untyped]
from aiokafka.protocol.transaction import InitProducerIdRequest  # type: ignore[import-untyped]
from aiokafka.record.default_records import (  # type: ignore[import-untyped]
    DefaultRecordBatchBuilder,
)

from persistence.base import LogFrame, ServiceUnavailable
from persistence.kafka_topic import Cluster, too_large
from persistence.kafka_wire import Moved, refusal

PURPOSE = "append"
CONTENT_TYPE = b"application/octet-stream"
EVENT_TYPE = b"statemesh.frame.v1"
ALL_IN_SYNC = -1
NO_TRANSACTION_MS = 2**31 - 1
SEQUENCES = 2**31
# Key, headers and framing of a record with its batch; never more than this beside the data.
OVERHEAD_BYTES = 512
# What is put into one batch of a partition, and into one request, before another one is begun. A
# single frame may be larger.
BATCH_BYTES = 1 << 20
REQUEST_BYTES = 16 << 20

NONE, TOO_LARGE, BATCH_TOO_LARGE, DUPLICATE = 0, 10, 18, 46
# A broker that has just started is still fetching ids to give out.
NOT_YET = frozenset({14, 15})
# The brokers don't know, or no longer, what this producer's numbers mean; nothing was stored.
NUMBERING_LOST = frozenset({45, 47, 49, 59})


class _NumberingLost(Moved):
    """Only a new producer id helps, and that it does at once."""


@dataclass(slots=True)
class _Producer:
    """What the brokers tell repeated batches by: an id, and how many records each shard had."""

    id: int
    epoch: int
    sequences: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Offer:
    frames: Sequence[LogFrame]
    done: asyncio.Future[None]


class Writer:
    """Appends of one log, in the order offered; one request for each broker at a time."""

    def __init__(self, cluster: Cluster, mesh: str, linger_ms: int) -> None:
        self._cluster = cluster
        self._source = f"/statemesh/{mesh}".encode()
        self._linger_s = linger_ms / 1000
        self._offers: list[_Offer] = []
        self._task: asyncio.Task[None] | None = None
        self._producer: _Producer | None = None
        self._shared = False
        self._batch_bytes = BATCH_BYTES

    async def append(self, frames: Sequence[LogFrame]) -> None:
        """Have the frames stored with whatever else is offered meanwhile. See `EventLog.append`.

        A caller that gives up may find them stored all the same.
        """
        offer = _Offer(frames, asyncio.get_running_loop().create_future())
        self._offers.append(offer)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send_all())
            self._task.add_done_callback(self._ended)
        await offer.done

    async def close(self, reason: ServiceUnavailable) -> None:
        """Give up what is being sent; its callers are told `reason`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        _fail(self._offers, reason)
        self._offers.clear()

    async def _send_all(self) -> None:
        """Until nothing is offered any more. Frames offered meanwhile go together, in order."""
        while self._offers:
            await self._linger()
            offers, self._offers = self._offers, []
            self._shared = len(offers) > 1
            try:
                await self._send([offer for offer in offers if not offer.done.done()])
            except ServiceUnavailable as failure:
                # What the brokers have of it is unknown: another id must number what comes next.
                self._producer = None
                self._cluster.hang_up(PURPOSE)
                self._cluster.forget()
                # Those that came meanwhile would wait for the same in vain.
                offers += self._offers
                self._offers = []
                _fail(offers, failure)
            except BaseException:
                self._offers = offers + self._offers
                raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Whatever went wrong in a way nobody thought of is raised where somebody waits."""
        if not task.cancelled() and (error := task.exception()) is not None:
            for offer in self._offers:
                if not offer.done.done():
                    offer.done.set_exception(error)
            self._offers = []

    async def _linger(self) -> None:
        """Under load keep requests apart, so that many appends share one; a lone one never waits.

        One turn of the loop in any case, so that what is offered together is sent together.
        """
        await asyncio.sleep(self._linger_s if self._shared else 0)

    async def _send(self, offers: Sequence[_Offer]) -> None:
        deadline = self._cluster.deadline()
        layout = await self._cluster.trying(lambda: self._cluster.layout(deadline), deadline)
        limit = layout.record_bytes
        waiting: dict[int, deque[LogFrame]] = {}
        for offer in offers:
            # All of an append or nothing of it: what the topic refuses would be offered for ever.
            if limit is not None and (size := self._size_above(limit, offer.frames)):
                _fail([offer], too_large(self._cluster.spec, size, limit))
                # Should it be allowed more, the next append is to know.
                self._cluster.forget()
                continue
            for frame in offer.frames:
                waiting.setdefault(frame.shard, deque()).append(frame)
        batch_bytes = min(limit, BATCH_BYTES) if limit is not None else self._batch_bytes
        while waiting:
            await self._deliver(_take(waiting, batch_bytes), deadline)
            deadline = self._cluster.deadline()
        for offer in offers:
            if not offer.done.done():
                offer.done.set_result(None)

    async def _deliver(self, left: dict[int, list[LogFrame]], deadline: float) -> None:
        """Store one batch for each shard. Another attempt where that is likely to help, with the
        same numbers as before: what the brokers have is not stored again.
        """
        await self._cluster.trying(lambda: self._produce(left, deadline), deadline)

    async def _produce(self, left: dict[int, list[LogFrame]], deadline: float) -> None:
        """One request to every leader concerned. What was stored is removed from `left`."""
        nodes = (await self._cluster.layout(deadline)).by_leader(left)
        if self._producer is None:
            self._producer = await self._numbered(deadline)
        answers = await asyncio.gather(
            *(self._ask(node, shards, left, deadline) for node, shards in nodes.items()),
            return_exceptions=True,
        )
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if any(isinstance(failure, _NumberingLost) for failure in failures):
            self._producer = None
        if failures:
            # The one that another attempt would not cure goes first.
            raise min(failures, key=lambda failure: isinstance(failure, Moved))
        for shard in left:
            raise ServiceUnavailable(
                f"{self._appending(shard)} was not confirmed",
                "check that kafka.servers names Kafka",
            )

    async def _ask(
        self, node: int, shards: list[int], left: dict[int, list[LogFrame]], deadline: float
    ) -> None:
        producer = self._producer
        assert producer is not None
        topic = self._cluster.spec.name
        batches = {shard: bytes(self._batch(left[shard], producer).build()) for shard in shards}
        left_s = deadline - asyncio.get_running_loop().time()
        # A little less than we wait, so that the broker can say which copies are missing.
        timeout_ms = max(1, int(left_s * 900))
        request = ProduceRequest(None, ALL_IN_SYNC, timeout_ms, [(topic, list(batches.items()))])
        broker = await self._cluster.broker(node, PURPOSE, deadline)
        answer = await broker.ask(request, deadline)
        failure: ServiceUnavailable | None = None
        for _, partitions in answer.topics:
            for shard, code, *_ in partitions:
                if code in (NONE, DUPLICATE):
                    count = len(left.pop(shard))
                    sequence = producer.sequences.get(shard, 0)
                    producer.sequences[shard] = (sequence + count) % SEQUENCES
                elif failure is None or isinstance(failure, Moved):
                    failure = self._refusal(code, shard, len(left[shard]), len(batches[shard]))
        if failure is not None:
            raise failure

    def _size_above(self, limit: int, frames: Sequence[LogFrame]) -> int:
        """The size of the largest frame's record where it is above `limit`, 0 where it isn't."""
        largest = max(frames, key=lambda frame: len(frame.data))
        if len(largest.data) + OVERHEAD_BYTES <= limit:
            return 0
        size = len(self._batch([largest], None).build())
        return size if size > limit else 0

    def _refusal(self, code: int, shard: int, frames: int, size: int) -> ServiceUnavailable:
        doing = self._appending(shard)
        if code in (TOO_LARGE, BATCH_TOO_LARGE):
            if frames == 1:
                return too_large(self._cluster.spec, size, None)
            # Where the broker does not tell the topic's limit each frame is a batch from now on.
            self._batch_bytes = 0
            return ServiceUnavailable(f"{doing} was refused: the batch is too large", "wait")
        if code in NUMBERING_LOST:
            return _NumberingLost(f"{doing} found its numbering forgotten", "offer it again")
        return refusal(code, doing)

    def _appending(self, shard: int) -> str:
        return f"appending to partition {shard} of Kafka's topic {self._cluster.spec.name!r}"

    async def _numbered(self, deadline: float) -> _Producer:
        while True:
            door = await self._cluster.door(deadline)
            answer = await door.ask(InitProducerIdRequest(None, NO_TRANSACTION_MS), deadline)
            if answer.error_code == NONE:
                return _Producer(answer.producer_id, answer.producer_epoch)
            if answer.error_code not in NOT_YET:
                raise refusal(answer.error_code, "asking Kafka for a producer id")
            await self._cluster.settle(deadline, "the issuer of Kafka's producer ids")

    def _batch(self, frames: Sequence[LogFrame], producer: _Producer | None) -> Any:
        """A batch of one shard's frames, in the order given."""
        shard = frames[0].shard
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=0,
            producer_id=producer.id if producer else -1,
            producer_epoch=producer.epoch if producer else -1,
            base_sequence=producer.sequences.get(shard, 0) if producer else -1,
            batch_size=2**31 - 1,
        )
        for at, frame in enumerate(frames):
            key = str(frame.session).encode()
            builder.append(at, None, key, frame.data, self._headers(frame))
        return builder

    def _headers(self, frame: LogFrame) -> list[tuple[str, bytes]]:
        return [
            ("ce_specversion", b"1.0"),
            ("ce_id", f"{frame.session}:{frame.first}".encode()),
            ("ce_source", self._source),
            ("ce_type", EVENT_TYPE),
            ("ce_subject", str(frame.shard).encode()),
            ("ce_events", str(frame.events).encode()),
            ("content-type", CONTENT_TYPE),
        ]


def _take(waiting: dict[int, deque[LogFrame]], batch_bytes: int) -> dict[int, list[LogFrame]]:
    """Remove the next batch of every shard, as far as they fit into one request."""
    taken: dict[int, list[LogFrame]] = {}
    room = REQUEST_BYTES
    for shard in list(waiting):
        frames = waiting[shard]
        batch = [frames.popleft()]
        size = len(batch[0].data) + OVERHEAD_BYTES
        while frames and size + len(frames[0].data) + OVERHEAD_BYTES <= batch_bytes:
            size += len(frames[0].data) + OVERHEAD_BYTES
            batch.append(frames.popleft())
        taken[shard] = batch
        if not frames:
            del waiting[shard]
        room -= size
        if room <= 0:
            break
    return taken


def _fail(offers: Sequence[_Offer], failure: ServiceUnavailable) -> None:
    for offer in offers:
        if not offer.done.done():
            # An exception of its own for each: their tracebacks must not grow together.
            copy = ServiceUnavailable(failure.reason, failure.cure, lasting=failure.lasting)
            offer.done.set_exception(copy)

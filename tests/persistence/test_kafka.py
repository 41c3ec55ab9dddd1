"""The log on a real Kafka: what is in the topic, and everything that can be wrong with one."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.admin import RecordsToDelete  # type: ignore[import-untyped]
from aiokafka.admin.config_resource import (  # type: ignore[import-untyped]
    ConfigResource,
    ConfigResourceType,
)

from mesh import Durability
from mesh.stack.server import Server
from persistence.base import LogFrame, LogRecord, ServiceUnavailable
from persistence.kafka import MAX_RECORD_BYTES, KafkaLog
from persistence.kafka_topic import Cluster
from persistence.kafka_wire import Access, Moved, refusal
from persistence.limits import MAX_FRAME_BYTES
from tests.mesh.world import World, eventually, running, write
from tests.persistence.kafka_world import (
    MESH,
    OWNER,
    PASSWORD,
    SHARDS,
    STRANGER,
    Relay,
    address,
    admin,
    first_times,
    frame,
    guarded_kafka,
    insist,
    make_log,
    make_topic,
    opened,
    read_until,
    serving,
)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PRODUCE = 0
topics = (f"log-{number}" for number in itertools.count())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with guarded_kafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """What goes wrong is in the exceptions; the driver has nothing to add on the screen."""
    with caplog.at_level(logging.WARNING, "aiokafka.conn"):
        yield
    loud = [record for record in caplog.records if record.name == "aiokafka.conn"]
    assert not loud, loud


async def failure(call: Awaitable[object]) -> ServiceUnavailable:
    with pytest.raises(ServiceUnavailable) as caught:
        await call
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    return caught.value


async def failures(log: KafkaLog) -> list[ServiceUnavailable]:
    """What each of the calls that need the topic says."""
    return [
        await failure(log.append([frame(1)])),
        await failure(log.read({0: 0}, limit=1, wait_s=0)),
        await failure(log.bounds()),
    ]


# -------------------------------------------------------------------- what is in the topic


async def test_frames_are_cloud_events(kafka: Server) -> None:
    topic = next(topics)
    async with opened(address(kafka), topic) as log:
        await log.append([LogFrame(2, 2**53 - 1, 41, 3, b"sealed")])
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=address(kafka), auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        message = await consumer.getone()
    finally:
        await consumer.stop()
    assert (message.partition, message.key, message.value) == (2, b"9007199254740991", b"sealed")
    assert dict(message.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"9007199254740991:41",
        "ce_source": f"/statemesh/{MESH}".encode(),
        "ce_type": b"statemesh.frame.v1",
        "ce_subject": b"2",
        "ce_events": b"3",
        "content-type": b"application/octet-stream",
    }


async def test_a_missing_topic_is_created_for_keeps(kafka: Server) -> None:
    """One partition a shard, nothing removed by itself, room for the largest frame."""
    topic = next(topics)
    async with opened(address(kafka), topic) as log, admin(kafka) as client:
        largest = frame(1, data=b"\xaa" * MAX_FRAME_BYTES)
        await log.append([largest])
        assert [each.data for each in await log.read({0: 0}, limit=1, wait_s=5)] == [largest.data]
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        (answer,) = await client.describe_configs([resource])
        configs = {entry[0]: entry[1] for entry in answer.resources[0][4]}
    assert configs["cleanup.policy"] == "delete"
    assert configs["retention.ms"] == configs["retention.bytes"] == "-1"
    assert configs["max.message.bytes"] == str(MAX_RECORD_BYTES)


async def test_replicas_that_start_together_create_one_topic(kafka: Server) -> None:
    topic = next(topics)
    logs = [make_log(address(kafka), topic) for _ in range(5)]
    try:
        await asyncio.gather(*(log.append([frame(at)]) for at, log in enumerate(logs)))
        assert (await logs[0].bounds())[0] == (0, 5)
    finally:
        await asyncio.gather(*(log.close() for log in logs))


async def test_the_version_is_what_the_protocol_tells(kafka: Server) -> None:
    async with opened(address(kafka), "unused") as log:
        assert await log.version() == "Kafka, speaking the protocol of Apache Kafka 4.1"
        async with admin(kafka) as client:
            assert "unused" not in await client.list_topics()


async def test_a_batch_whose_answer_was_lost_is_stored_once(kafka: Server) -> None:
    relay = Relay(kafka.place.ports["behind"])
    topic = next(topics)
    listening = relay.listening(kafka.place.ports["relayed"])
    async with listening, opened(address(kafka, "behind"), topic) as log:
        await log.append([frame(1)])
        relay.swallow(PRODUCE)
        await log.append([frame(2), frame(3)])
        await log.append([frame(4)])
        assert relay.swallowed == 1
        records = await read_until(log, lambda records: len(records) >= 4)
    assert [record.data for record in records] == [b"1", b"2", b"3", b"4"]


async def test_numbers_that_the_brokers_do_not_expect(kafka: Server) -> None:
    """As after they forgot a producer who was silent for a day: another id, and nothing is lost."""
    async with opened(address(kafka), next(topics)) as log:
        await log.append([frame(1)])
        producer = log._writer._producer
        assert producer is not None
        producer.sequences[0] += 7
        await log.append([frame(2), frame(3, shard=1)])
        assert log._writer._producer is not producer
        records = await read_until(log, lambda records: len(records) >= 2)
        assert [each.data for each in records] == [b"1", b"2"]
        assert (await log.bounds())[1] == (0, 1)


# -------------------------------------------------------------------- what others do to the topic


async def test_strangers_messages_do_not_stop_a_reader(kafka: Server) -> None:
    """Without value, in transactions committed, aborted and still open: he gets to the end."""
    topic = next(topics)
    async with opened(address(kafka), topic) as log:
        await log.append([frame(1)])
        servers = address(kafka)
        producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=topic)
        await producer.start()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed", partition=0)
        await producer.begin_transaction()
        await producer.send_and_wait(topic, key=b"none", partition=0)
        await producer.abort_transaction()
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open", partition=0)
        await log.append([frame(2)])
        _, end = (await log.bounds())[0]
        records = await read_until(log, lambda records: bool(records[-1:]) and at(records) == end)
        assert [each.data for each in records if each.data] == [b"1", b"committed", b"open", b"2"]
        await producer.abort_transaction()
        await producer.stop()
        # The mark of the end comes a little after the answer.
        again = await read_until(log, lambda records: bool(records[-1:]) and at(records) > end)
        assert again[-1] == LogRecord(0, end, b"")


def at(records: list[LogRecord]) -> int:
    return records[-1].offset + 1


async def test_retention_in_the_middle_and_to_the_end(kafka: Server) -> None:
    topic = next(topics)
    partition = TopicPartition(topic, 0)
    async with opened(address(kafka), topic) as log, admin(kafka) as client:
        await log.append([frame(at) for at in range(10)])
        await client.delete_records({partition: RecordsToDelete(6)})
        assert (await log.bounds())[0] == (6, 10)
        records = await read_until(log, lambda records: bool(records[-1:]) and at(records) == 10)
        assert [each.data for each in records] == [b"", b"6", b"7", b"8", b"9"]
        await client.delete_records({partition: RecordsToDelete(10)})
        assert (await log.bounds())[0] == (10, 10)
        assert await log.read({0: 3}, limit=9, wait_s=0) == [LogRecord(0, 9, b"")]
        assert await log.read({0: 10}, limit=9, wait_s=0) == []


async def test_a_topic_that_was_deleted_under_our_feet(kafka: Server) -> None:
    """It is created again; whoever had read the old one reads the new one from its start."""
    topic = next(topics)
    async with opened(address(kafka), topic) as log, admin(kafka) as client:
        await log.append([frame(at) for at in range(5)])
        await client.delete_topics([topic])
        async with asyncio.timeout(20):
            while topic in await client.list_topics():
                pass
        await insist(lambda: log.append([frame(100)]))
        async with asyncio.timeout(20):
            while not (records := await log.read({0: 5}, limit=9, wait_s=0.5)):
                pass
        assert set(first_times(records)) == {b"100"}


class Stalling(KafkaLog):
    """Its readers wait while `open` is not set, as in a process that was stopped."""

    def __init__(self, server: str, topic: str) -> None:
        super().__init__(
            servers=(server,), topic=topic, mesh=MESH, shards=SHARDS, replication=-1, linger_ms=1,
            timeout_s=5.0,
        )  # fmt: skip
        self.open = asyncio.Event()

    async def read(
        self, offsets: Mapping[int, int], *, limit: int, wait_s: float
    ) -> list[LogRecord]:
        await self.open.wait()
        return await super().read(offsets, limit=limit, wait_s=wait_s)


async def test_a_topic_made_anew_and_longer_than_before_is_noticed_by_its_records(
    kafka: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.services.log.GAP_S", 0.05)
    topic, world = next(topics), World()
    log = Stalling(address(kafka), topic)
    log.open.set()
    async with opened(address(kafka), topic) as other, admin(kafka) as client:
        a = world.replica("a", log=log)
        async with running(a):
            await write(a, *range(5))
            await a.flush(Durability.LOG, timeout=20)
            feed = a._check().services.log
            assert feed is not None
            await eventually(lambda: sum(feed.tail.safe().values()) == 5, "read")
            shard = next(shard for shard, end in feed.tail.safe().items() if end)
            log.open.clear()
            await client.delete_topics([topic])
            async with asyncio.timeout(20):
                while topic in await client.list_topics():
                    pass
            await insist(lambda: other.append([frame(at, shard) for at in range(9)]))
            log.open.set()
            await eventually(lambda: world.probes["a"].counts["log.reset"] == 1, "noticed")
            await a.flush(Durability.LOG, timeout=20)
            assert (await other.bounds())[shard][1] >= 14
    await log.close()
    await world.close()


# -------------------------------------------------------------------- what is wrong with an address


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def speak_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(bytes.fromhex("15030300020246"))
    writer.close()


async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.close()


async def talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"\0\0\0\6nonsen")
    await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("talk", "reason", "cure", "lasting"),
    [
        (speak_http, "is not Kafka: it answered 'HTTP/1.1 400", "kafka.servers", True),
        (speak_tls, "speaks TLS", "kafka.tls", True),
        (stay_silent, "no answer as Kafka within 0.3 s", "kafka.servers", False),
        (hang_up, "hung up during Kafka's greeting", "kafka.tls", False),
        (talk_nonsense, "did not greet as Kafka does", "kafka.servers", False),
    ],
)
async def test_an_address_that_is_not_kafka(
    talk: Talk, reason: str, cure: str, lasting: bool
) -> None:
    async with serving(talk) as servers, opened(servers, "t", timeout_s=0.3) as log:
        for error in [*await failures(log), await failure(log.version())]:
            assert servers in error.reason
            assert reason in error.reason
            assert cure in error.cure
            assert error.lasting is lasting


async def test_nobody_there_and_unknown_hosts() -> None:
    async with opened("127.0.0.1:1", "t") as log:
        error = await failure(log.append([frame(1)]))
        assert error.reason == "no connection to Kafka at 127.0.0.1:1: Connection refused"
    async with opened("host.invalid:9092,127.0.0.1:1", "t") as log:
        error = await failure(log.bounds())
        assert "(and 1 more failed)" in error.reason
        assert not error.lasting


async def test_one_server_of_several_is_enough(kafka: Server) -> None:
    async with serving(stay_silent) as silent:
        servers = f"127.0.0.1:1,{silent},{address(kafka)}"
        async with opened(servers, next(topics), timeout_s=3) as log:
            await log.append([frame(1)])
            assert (await log.bounds())[0] == (0, 1)


async def test_an_advertised_address_that_leads_nowhere(kafka: Server) -> None:
    async with opened(address(kafka, "behind"), next(topics)) as log:
        for error in await failures(log):
            assert f"tells its clients to use {address(kafka, 'relayed')}" in error.reason
            assert "advertised.listeners" in error.cure
        relay = Relay(kafka.place.ports["behind"])
        async with relay.listening(kafka.place.ports["relayed"]):
            await log.append([frame(1)])
            assert (await log.bounds())[0] == (0, 1)


@pytest.mark.parametrize(
    ("port", "given", "reason", "cure"),
    [
        ("login", {"username": OWNER, "password": "x"}, "refused the login of 'olga'", "password"),
        ("login", {"username": "nobody", "password": PASSWORD}, "refused the login", "username"),
        ("login", {"username": STRANGER, "password": PASSWORD}, "no permission", "create"),
        ("login", {}, "hung up on the first request", "kafka.username"),
        ("main", {"username": OWNER, "password": PASSWORD}, "takes no SCRAM-SHA-512", "port"),
        ("main", {"tls": True}, "TLS handshake", "speaks TLS"),
    ],
)
async def test_logins(
    kafka: Server, port: str, given: dict[str, Any], reason: str, cure: str
) -> None:
    async with opened(address(kafka, port), next(topics), **given) as log:
        for error in await failures(log):
            assert reason in error.reason
            assert cure in error.cure
            assert error.lasting is bool(given)


async def test_a_login_that_is_right(kafka: Server) -> None:
    login = {"username": OWNER, "password": PASSWORD}
    async with opened(address(kafka, "login"), next(topics), **login) as log:
        await log.append([frame(1)])
        assert (await log.bounds())[0] == (0, 1)
    assert PASSWORD not in repr(Access(("a:1",), 1.0, username=OWNER, password=PASSWORD))


# -------------------------------------------------------------------- what is wrong with a topic


async def test_another_number_of_partitions(kafka: Server) -> None:
    topic = next(topics)
    await make_topic(kafka, topic, partitions=3)
    async with opened(address(kafka), topic) as log:
        for error in await failures(log):
            assert "has 3 partitions, and this mesh has 4 shards" in error.reason
            assert "kafka.topic" in error.cure
            assert error.lasting
    async with admin(kafka) as client:
        (found,) = await client.describe_topics([topic])
    assert len(found["partitions"]) == 3


async def test_a_compacted_topic_would_forget_frames(kafka: Server) -> None:
    topic = next(topics)
    await make_topic(kafka, topic, cleanup_policy="compact,delete")
    async with opened(address(kafka), topic) as log:
        for error in await failures(log):
            assert "compacted" in error.reason
            assert "cleanup.policy=delete" in error.cure
            assert error.lasting


async def test_a_frame_larger_than_the_topic_allows(kafka: Server) -> None:
    """Nothing of that append is stored, others are; and all of it once there is room."""
    topic = next(topics)
    await make_topic(kafka, topic, max_message_bytes="20000")
    big = [frame(1), frame(2, data=b"x" * 20_000)]
    async with opened(address(kafka), topic) as log:
        # Small ones, together far above the limit, fit one after the other.
        await log.append([frame(at, shard=1, data=b"y" * 4000) for at in range(20)])
        refused, stored = await asyncio.gather(
            failure(log.append(big)), log.append([frame(3, shard=2)])
        )
        assert stored is None
        assert "a frame takes 20246 bytes" in refused.reason
        assert "allows 20000" in refused.reason
        assert f"--entity-name {topic} --add-config max.message.bytes=" in refused.cure
        assert refused.lasting
        bounds = await log.bounds()
        assert (bounds[0], bounds[1], bounds[2]) == ((0, 0), (0, 20), (0, 1))
        async with admin(kafka) as client:
            configs = {"max.message.bytes": "30000"}
            await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
        await insist(lambda: log.append(big), cured=True)
        assert (await log.bounds())[0] == (0, 2)


async def test_a_limit_that_the_broker_does_not_tell(
    kafka: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As to a user who may not ask: what fits goes in one by one, what doesn't is said."""

    async def silent(*_: object) -> None:
        return None

    monkeypatch.setattr(Cluster, "_check_configs", silent)
    topic = next(topics)
    await make_topic(kafka, topic, max_message_bytes="5000")
    async with opened(address(kafka), topic) as log:
        frames = [frame(at, data=b"%d" % at * 2000) for at in range(1, 6)]
        error = await failure(log.append(frames))
        assert "the batch is too large" in error.reason
        assert not error.lasting
        await log.append(frames)
        assert (await log.bounds())[0] == (0, 5)
        error = await failure(log.append([frame(6, data=b"x" * 5000)]))
        assert "allows less" in error.reason
        assert error.lasting


async def test_more_copies_than_brokers(kafka: Server) -> None:
    async with opened(address(kafka), next(topics), replication=3) as log:
        for error in await failures(log):
            assert "fewer brokers than copies wanted" in error.reason
            assert "kafka.replication" in error.cure


@pytest.mark.parametrize(
    ("code", "reason", "lasting"),
    [
        (19, "too few copies are in sync", False),
        (20, "too few copies are in sync", False),
        (7, "did not confirm in time", False),
        (56, "disk failed", False),
        (31, "no permission in the cluster", True),
        (44, "a policy of the brokers forbids it: over quota", True),
        (77, "UnknownError (77): over quota", False),
    ],
)
def test_what_brokers_refuse(code: int, reason: str, lasting: bool) -> None:
    error = refusal(code, "appending to topic 't'", "over\nquota")
    assert reason in error.reason
    assert error.reason.startswith("appending to topic 't' was refused")
    assert error.cure
    assert error.lasting is lasting
    assert not isinstance(error, Moved)


def test_a_log_needs_servers_and_hides_its_password() -> None:
    with pytest.raises(ValueError, match="no servers"):
        make_log("")
    assert PASSWORD not in repr(make_log("127.0.0.1:1", password=PASSWORD))

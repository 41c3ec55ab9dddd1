"""A Kafka that asks for logins, says wrong addresses and can be cut off, for the tests of its log.

Beside its usual port, where everybody may do everything, it listens on two more: one takes SCRAM
logins only, and on the other it tells its clients an address (`relayed`) where nobody listens
unless a test puts a `Relay` there.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]

from mesh.stack.kafka import KafkaRecipe
from mesh.stack.process import output_of
from mesh.stack.recipe import HOST, Place, Say, silent
from mesh.stack.server import Server
from persistence.base import LogFrame, LogRecord, ServiceUnavailable
from persistence.kafka import KafkaLog

SHARDS = 4
PATIENCE_S = 30.0
MESH = "ab" * 16
OWNER, STRANGER, PASSWORD = "olga", "sven", "correct horse"

SETTINGS = """
listeners=PLAINTEXT://{host}:{main},CONTROLLER://{host}:{controller},LOGIN://{host}:{login},\
RELAYED://{host}:{behind}
advertised.listeners=PLAINTEXT://{host}:{main},LOGIN://{host}:{login},RELAYED://{host}:{relayed}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,LOGIN:SASL_PLAINTEXT,\
RELAYED:PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.login.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{owner}
"""


class GuardedKafka(KafkaRecipe):
    """Apache Kafka with the listeners and users described in this module."""

    port_names = ("main", "controller", "login", "behind", "relayed")  # type: ignore[assignment]

    async def prepare(self, place: Place, say: Say) -> None:
        """As ever, then with more settings and with users, which formatting creates."""
        await super().prepare(place, say)
        properties = place.folder / "server.properties"
        more = SETTINGS.format(host=HOST, owner=OWNER, **place.ports)
        properties.write_text(properties.read_text() + more)
        mark = json.loads((place.folder / "kafka.json").read_text())
        shutil.rmtree(place.folder / "data")
        users = [
            f"--add-scram=SCRAM-SHA-512=[name={name},password={PASSWORD}]"
            for name in (OWNER, STRANGER)
        ]
        there = ("sh", "-c", 'cd "$0" && exec "$@"', str(place.folder))
        tool = ("kafka.tools.StorageTool", "format", f"--cluster-id={mark['cluster']}")
        await output_of((*there, *mark["argv"][:-2], *tool, "-c", "server.properties", *users))


@asynccontextmanager
async def guarded_kafka(folder: Path) -> AsyncIterator[Server]:
    """The server, while the block lasts."""
    server = Server(GuardedKafka(), folder, say=silent)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


def address(server: Server, port: str = "main") -> str:
    """`host:port` of one of its ports."""
    return f"{HOST}:{server.place.ports[port]}"


def make_log(servers: str, topic: str = "t", **given: Any) -> KafkaLog:
    """A log as the tests use it."""
    wanted: dict[str, Any] = {
        "servers": tuple(filter(None, servers.split(","))), "topic": topic, "mesh": MESH,
        "shards": SHARDS, "replication": -1, "linger_ms": 1, "timeout_s": 5.0,
    }  # fmt: skip
    return KafkaLog(**(wanted | given))


@asynccontextmanager
async def opened(servers: str, topic: str, **given: Any) -> AsyncIterator[KafkaLog]:
    """A log, closed at the end of the block."""
    log = make_log(servers, topic, **given)
    try:
        yield log
    finally:
        await log.close()


def frame(first: int, shard: int = 0, data: bytes | None = None) -> LogFrame:
    """A frame of session 7, named by its first seq."""
    return LogFrame(shard, 7, first, 2, b"%d" % first if data is None else data)


async def read_until(
    log: KafkaLog, done: Callable[[list[LogRecord]], bool], shard: int = 0
) -> list[LogRecord]:
    """All records of a shard up to where `done` is content with them."""
    records: list[LogRecord] = []
    async with asyncio.timeout(PATIENCE_S):
        while not done(records):
            offset = records[-1].offset + 1 if records else 0
            records += await log.read({shard: offset}, limit=1000, wait_s=0.5)
    return records


async def insist(call: Callable[[], Awaitable[object]], cured: bool = False) -> int:
    """Make a call until it succeeds; how often it failed.

    Each time in a way that passes by itself, unless somebody `cured` what did not.
    """
    async with asyncio.timeout(PATIENCE_S):
        for failed in itertools.count():
            lasting = False
            try:
                await call()
            except ServiceUnavailable as unavailable:
                lasting = unavailable.lasting
            else:
                return failed
            assert cured or not lasting
            await asyncio.sleep(0.02)
    raise AssertionError


def first_times(records: list[LogRecord]) -> list[bytes]:
    """The data of the records without what came before already."""
    return list(dict.fromkeys(record.data for record in records))


@asynccontextmanager
async def admin(server: Server) -> AsyncIterator[Any]:
    """The driver's own client for topics and their settings."""
    client = AIOKafkaAdminClient(bootstrap_servers=address(server))
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def make_topic(server: Server, name: str, partitions: int = SHARDS, **configs: str) -> None:
    """A topic made by hand; dots in the names of its settings are written as underscores."""
    settings = {key.replace("_", "."): value for key, value in configs.items()}
    async with admin(server) as client:
        answer = await client.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)])
        assert [error[1] for error in answer.topic_errors] == [0], answer


@asynccontextmanager
async def serving(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that is no Kafka; its address."""
    server = await asyncio.start_server(answer, HOST, 0)
    async with server:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"


class Relay:
    """Passes on what clients and broker say, in a task for each client."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._kind = -1
        self._tasks: set[asyncio.Task[None]] = set()
        self.swallowed = 0

    def swallow(self, kind: int) -> None:
        """Lose the answer to the next request of this kind (0: Produce), and hang up, once."""
        self._kind = kind

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        """Take clients while the block lasts, and hang up on all of them at its end."""

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            self._tasks.add(task)

        server = await asyncio.start_server(accept, HOST, port)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(HOST, self._target)
        try:
            while True:
                # One request at a time: it is the answers that may be lost, not the order.
                request = await _message(reader)
                broker_writer.write(request)
                answer = await _message(broker_reader)
                if int.from_bytes(request[4:6], "big") == self._kind:
                    self._kind = -1
                    self.swallowed += 1
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            broker_writer.close()
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readexactly(4)
    return size + await reader.readexactly(int.from_bytes(size, "big"))

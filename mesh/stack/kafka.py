"""Apache Kafka for the stack: one node, broker and controller at once (KRaft), from its own jars.

What it acknowledged is in the system's page cache: it survives a kill, not a loss of power.

    place.folder
      data/              Kafka's own; it appears here only when it was made completely
      data.partial/      one that was being made; removed by the next start
      server.properties  written anew before every start, for the ports it has then
      kafka.json         whose data it is, which version wrote it last, and how it is run
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from aiokafka.protocol.metadata import MetadataRequest  # type: ignore[import-untyped]

from mesh.stack.java import Jars, Java, find_jars, find_java, version_of
from mesh.stack.process import output_of
from mesh.stack.recipe import HOST, Command, Place, Say, StackError
from persistence.base import ServiceUnavailable
from persistence.kafka import KafkaLog
from persistence.kafka_wire import Access, connect

__all__ = ("SETTINGS", "KafkaRecipe")

SETTINGS: Final[Mapping[str, str]] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    # Topics are made by who knows how many partitions they need; a mistyped name makes none.
    "auto.create.topics.enable": "false",
    # Room for the largest frame as a record, and for several of them in a batch.
    "message.max.bytes": "8388608",
    "replica.fetch.max.bytes": "8388608",
    # The log is the history of the mesh: nothing goes by itself.
    "log.retention.ms": "-1",
    # A start after a crash reads the last segment of every partition.
    "log.segment.bytes": "268435456",
    "log.index.size.max.bytes": "1048576",
    # Alone: one copy of everything, and nobody to wait for.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    # After a crash the controller waits this long for the broker it believes to be there still.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "400",
    # Small: two cores, and a heap of 512 MB.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": "8388608",
}
"""Settings of the broker beside its ports and its folder."""

JVM: Final = (
    "-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData",
    # Compiles once, quickly: ready in three quarters of the time, and no slower for our clients.
    "-XX:TieredStopAtLevel=1",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.logFile=System.out",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.clients.NetworkClient=error",
)  # fmt: skip
# Kafka does what newer Javas warn of.
JVM_24: Final = ("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow")

ASK_S: Final = 3.0
DATA, PARTIAL = "data", "data.partial"
PROPERTIES, FORMAT_PROPERTIES = "server.properties", "format.properties"
MARK: Final = "kafka.json"


@dataclass(frozen=True, slots=True)
class _Mark:
    """What `kafka.json` says: the cluster whose data it is, who wrote it last, how to run it."""

    cluster: str
    version: str
    argv: tuple[str, ...]


class KafkaRecipe:
    """Apache Kafka of one node. See `mesh.stack.recipe.Recipe`."""

    name = "kafka"
    port_names = ("main", "controller")
    stop_signal = signal.SIGTERM
    stop_s = 10.0

    async def prepare(self, place: Place, say: Say) -> None:
        """Find Java, find or fetch the jars, make the data folder or check that it fits.

        Raises StackError.
        """
        java = await find_java()
        jars = await find_jars(java, say)
        argv = _java_command(java, jars)
        cluster = await asyncio.to_thread(_check_data, place.folder, jars.version)
        if cluster is None:
            say("its data folder is made")
            cluster = await _format(place, argv, jars.version)
        mark = _Mark(cluster, jars.version, (*argv, "kafka.Kafka", PROPERTIES))
        await asyncio.to_thread(_write_files, place, mark)

    def command(self, place: Place) -> Command:
        """In the foreground, its log on the standard output."""
        mark = _read_mark(place.folder)
        if mark is None:
            raise StackError(f"{place.folder} is not prepared; call prepare() first")
        return Command(mark.argv, cwd=place.folder)

    def address(self, place: Place) -> str:
        """`host:port` of the broker."""
        return f"{HOST}:{place.ports['main']}"

    async def ask(self, place: Place) -> str:
        """Its version, once it answers for the cluster in this folder, with its broker in it."""
        mark = await asyncio.to_thread(_read_mark, place.folder)
        if mark is None:
            raise StackError(f"{place.folder} holds no Kafka of the stack; start it first")
        address = self.address(place)
        answer = await _metadata(address)
        if answer.cluster_id != mark.cluster:
            raise StackError(
                f"{address} is of another Kafka cluster, {answer.cluster_id}, not of "
                f"{mark.cluster}; stop that server, or choose another port"
            )
        if not answer.brokers:
            raise StackError(f"{address} has no broker yet; wait")
        return f"Apache Kafka {mark.version}"

    async def reach(self, address: str) -> str:
        """The release whose protocol a server speaks; of several addresses any one that is up.

        Without TLS or login: StackError where the servers want them.
        """
        log = KafkaLog(
            servers=tuple(part.strip() for part in address.split(",")),
            topic="unused", mesh="", shards=1, replication=-1, linger_ms=0, timeout_s=ASK_S,
        )  # fmt: skip
        try:
            return await log.version()
        except ServiceUnavailable as error:
            raise StackError(str(error)) from None
        finally:
            await log.close()


async def _metadata(address: str) -> Any:
    """A broker's answer to a request for metadata of no topic. Raises StackError."""
    deadline = asyncio.get_running_loop().time() + ASK_S
    try:
        broker = await connect(Access((address,), ASK_S), address, deadline)
        try:
            return await broker.ask(MetadataRequest([]), deadline)
        finally:
            await broker.hang_up()
    except ServiceUnavailable as error:
        raise StackError(str(error)) from None


def _java_command(java: Java, jars: Jars) -> tuple[str, ...]:
    newer = JVM_24 if java.release >= 24 else ()
    return (str(java.program), *JVM, *newer, "-cp", f"{jars.folder}{os.sep}*")


async def _format(place: Place, argv: tuple[str, ...], version: str) -> str:
    """Make an empty data folder; its cluster's id. It is there whole or not at all."""
    folder = place.folder
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    await asyncio.to_thread(_clear_for_format, place)
    tool = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", FORMAT_PROPERTIES)
    try:
        await output_of((*argv, *tool), cwd=folder)
    except StackError as error:
        raise StackError(f"Kafka could not make its data folder in {folder}: {error}") from None
    await asyncio.to_thread(_adopt, folder, _Mark(cluster, version, ()))
    return cluster


def _check_data(folder: Path, version: str) -> str | None:
    """The id of the cluster whose data is there; None where there is none. Raises StackError."""
    data = folder / DATA
    if not data.exists():
        return None
    start_anew = f"delete {data} to start empty"
    facts = _properties(data / "meta.properties")
    logs = {path.name for path in data.iterdir() if path.is_dir() and path.name[-1].isdigit()}
    if "cluster.id" not in facts:
        raise StackError(f"{data} is half-written, without meta.properties; {start_anew}")
    # Kafka would take topics that its metadata does not know for leftovers, and remove them.
    if logs and "__cluster_metadata-0" not in logs:
        raise StackError(
            f"{data} has topics but not the log of their metadata, __cluster_metadata-0; "
            f"put it back, or {start_anew}"
        )
    mark = _read_mark(folder)
    if mark is None or mark.cluster != facts["cluster.id"]:
        expected = f"should be of {mark.cluster}" if mark else f"there is no {MARK} of it"
        raise StackError(
            f"{data} is of the Kafka cluster {facts['cluster.id']}, but {expected}; put back what "
            f"was there, or {start_anew}"
        )
    if version_of(version) < version_of(mark.version):
        raise StackError(
            f"{data} was written by Kafka {mark.version}, and this is {version}; set KAFKA_HOME to "
            f"the folder of a Kafka {mark.version} or newer, or {start_anew}"
        )
    return mark.cluster


def _properties(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _clear_for_format(place: Place) -> None:
    shutil.rmtree(place.folder / PARTIAL, ignore_errors=True)
    _write_properties(place, FORMAT_PROPERTIES, PARTIAL)


def _adopt(folder: Path, mark: _Mark) -> None:
    # The mark first: data without one is refused, a mark without data means nothing.
    _write_mark(folder, mark)
    (folder / PARTIAL).rename(folder / DATA)
    (folder / FORMAT_PROPERTIES).unlink()


def _write_files(place: Place, mark: _Mark) -> None:
    _write_mark(place.folder, mark)
    _write_properties(place, PROPERTIES, DATA)


def _write_properties(place: Place, name: str, data: str) -> None:
    """The broker's settings. `data` is relative to the place, where it runs: such a file takes no
    path as it is, and a list of folders none with a comma.
    """
    main, controller = place.ports["main"], place.ports["controller"]
    settings = {
        **SETTINGS,
        "listeners": f"PLAINTEXT://{HOST}:{main},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{main}",
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "log.dirs": data,
    }
    text = "".join(f"{key}={value}\n" for key, value in settings.items())
    (place.folder / name).write_text(text, encoding="ascii")


def _read_mark(folder: Path) -> _Mark | None:
    try:
        facts = json.loads((folder / MARK).read_bytes())
        return _Mark(str(facts["cluster"]), str(facts["version"]), tuple(map(str, facts["argv"])))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write_mark(folder: Path, mark: _Mark) -> None:
    new = folder / f"{MARK}.new"
    new.write_text(json.dumps(asdict(mark), indent=1) + "\n")
    new.replace(folder / MARK)

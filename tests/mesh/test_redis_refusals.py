"""Servers that can't serve as a bus: each is told in one line, with its cure, and no secret.

All are real: a Redis that was set up so, or something else that listens where one was expected.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.sections import SettingsError
from mesh.stack import Stack
from mesh.stack.process import free_port
from mesh.transports.redis import RedisBus
from persistence.base import ServiceUnavailable
from tests.mesh.redis_server import (
    SHARDS,
    RedisServer,
    bus,
    closing,
    serving,
    stream,
    token_key,
    until,
)
from tests.mesh.redis_strangers import answering, certificate, saying, silent, tls_door

SECRET = "hunter2"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with serving(tmp_path) as running:
        yield running


async def told(one: RedisBus, reason: str, cure: str, *, lasting: bool, read: bool = True) -> None:
    """Publishing (and reading) fails with this reason and cure, both fit to be shown."""
    async with closing(one):
        calls = [one.publish([(0, b"frame")])]
        if read:
            calls.append(one.read({0: ""}, limit=1, wait_s=0.01))  # type: ignore[arg-type]
        for call in calls:
            async with asyncio.timeout(10):
                with pytest.raises(ServiceUnavailable) as caught:
                    await call
            error = caught.value
            assert reason in error.reason
            assert cure in error.cure
            assert error.lasting is lasting
            for text in (str(error), repr(one)):
                assert "\n" not in text
                assert SECRET not in text
                assert len(text) < 400


async def test_nobody_listens() -> None:
    port = free_port()
    where = f"Redis at 127.0.0.1:{port}/0 can't be reached"
    await told(
        bus(f"redis://:{SECRET}@127.0.0.1:{port}/0"),
        where, "start it, or correct redis.url", lasting=False,
    )  # fmt: skip
    await told(
        bus("redis://no-such-host.invalid/0"), "can't be reached", "correct redis.url",
        lasting=False,
    )  # fmt: skip


async def test_no_such_socket(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/redis.sock"
    await told(bus(url), "redis.sock", "start it, or correct redis.url", lasting=False)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nServer: some\r\n\r\n", "no Redis server"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no Redis server"),
        (b"+OK\r\n", "no version in its INFO"),
        (b"*1\r\n:1\r\n", "list as the answer to INFO"),
        (b":garbage\r\n", "no Redis server"),
        (b"$5\r\nhello\r\n", "no version in its INFO"),
        (b"\x15\x03\x03\x00\x02\x02\x50\r\n", "no Redis server"),
        (b"x" * 200_000, "no Redis server"),
    ],
    ids=["http", "ssh", "status", "list", "number", "no-version", "tls-alert", "endless-line"],
)
async def test_something_else_answers(answer: bytes, shown: str) -> None:
    async with answering(saying(answer)) as port:
        await told(bus(f"redis://127.0.0.1:{port}"), shown, "correct redis.url", lasting=True)


async def test_something_else_hangs_up() -> None:
    """As Kafka and PostgreSQL do with what they don't understand."""
    async with answering(saying(b"")) as port:
        await told(
            bus(f"redis://127.0.0.1:{port}"), "closed the connection without a word",
            "correct redis.url", lasting=False,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["kafka", "postgres", "temporal"])
async def test_another_server_of_the_stack(stack: Stack, name: str) -> None:
    """Their addresses are next to each other in the settings."""
    host, _, port = (
        stack.services[name].address.rpartition("@")[2].partition("/")[0].rpartition(":")
    )
    one = bus(f"redis://{host}:{port}/0", timeout_s=2)
    async with closing(one):
        for call in (one.publish([(0, b"x")]), one.read({0: ""}, limit=1, wait_s=0)):
            with pytest.raises(ServiceUnavailable) as caught:
                await call
            assert f"{host}:{port}" in caught.value.reason
            assert "Redis server" in caught.value.cure or "redis.url" in caught.value.cure


async def test_something_else_is_silent() -> None:
    async with answering(silent) as port:
        await told(
            bus(f"redis://127.0.0.1:{port}", timeout_s=0.2), "gave no answer within 0.2 s",
            "see whether it runs, is a Redis server", lasting=False,
        )  # fmt: skip


async def test_tls_where_there_is_none(server: RedisServer) -> None:
    async with answering(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        await told(
            bus(f"rediss://127.0.0.1:{port}"), "no TLS with Redis", "write redis://", lasting=True
        )
    await told(
        bus(f"rediss://127.0.0.1:{server.port}", timeout_s=0.5), "Redis at", "TLS",
        lasting=False,
    )  # fmt: skip


async def test_no_tls_where_it_is_wanted(server: RedisServer, tmp_path: Path) -> None:
    certificate(tmp_path)
    async with tls_door(server.port, tmp_path) as port:
        await told(
            bus(f"redis://127.0.0.1:{port}"), f"127.0.0.1:{port}", "write rediss://", lasting=False
        )


async def test_too_old() -> None:
    info = b"# Server\r\nredis_version:5.0.14\r\nrun_id:0123\r\nrole:master\r\n"
    async with answering(saying(b"$%d\r\n%s\r\n" % (len(info), info))) as port:
        await told(
            bus(f"redis://127.0.0.1:{port}"), "version 5.0.14", "use Redis 6.2 or newer",
            lasting=True,
        )  # fmt: skip


async def test_passwords(tmp_path: Path) -> None:
    async with serving(tmp_path, "--requirepass", SECRET + "!") as server:
        address = f"127.0.0.1:{server.port}/0"
        await told(bus(f"redis://{address}"), "asks for a password", "redis.url", lasting=True)
        for login in (f":{SECRET}", f"nobody:{SECRET}", f"default:{SECRET}"):
            await told(
                bus(f"redis://{login}@{address}"), "refuses the user or password",
                "correct them", lasting=True,
            )  # fmt: skip


async def test_a_password_where_none_is_set(server: RedisServer) -> None:
    url = f"redis://:{SECRET}@127.0.0.1:{server.port}/0"
    await told(bus(url), "refuses the user or password", "correct them", lasting=True)


async def test_permissions(server: RedisServer) -> None:
    """What is lacking is named: a command, or our keys."""
    url = f"redis://mesh:{SECRET}@127.0.0.1:{server.port}/0"
    await server.command("ACL", "SETUSER", "mesh", "on", f">{SECRET}", "~*", "+@all", "-xadd")
    await told(bus(url), "'xadd'", "ACL SETUSER", lasting=True, read=False)
    await server.command("ACL", "SETUSER", "mesh", "+xadd", "-info")
    await told(bus(url), "'info'", "+info", lasting=True)
    await server.command("ACL", "SETUSER", "mesh", "+info", "resetkeys", "~other:*")
    await told(bus(url), "key", "~statemesh:*", lasting=True)


async def test_databases(server: RedisServer) -> None:
    await told(
        bus(f"redis://127.0.0.1:{server.port}/99"), "has no such database",
        "correct the number", lasting=True,
    )  # fmt: skip
    for url, fault in (
        ("redis://127.0.0.1/mesh", "something else than a number as database"),
        (f"redis://u:1/{SECRET}@h/0", "something else than a number as database"),
        (f"redis://u:x/{SECRET}@h/0", "is no URL of a Redis server"),
        ("redis://h/0?no_such_option=1", "no_such_option"),
        ("rediss://h/0?ssl_cert_reqs=sometimes", "sometimes"),
        ("http://h/0", "is no URL of a Redis server"),
    ):
        with pytest.raises(SettingsError, match=fault) as caught:
            bus(url)
        assert SECRET not in str(caught.value)


async def test_out_of_memory(server: RedisServer) -> None:
    await server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await server.command("CONFIG", "SET", "maxmemory", "1")
    one = server.bus()
    await told(one, "is out of memory", "raise its maxmemory", lasting=False)
    await server.command("CONFIG", "SET", "maxmemory", "0")
    one = server.bus()
    async with closing(one):
        await one.publish([(0, b"there is room again")])


async def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    async with serving(folder, "--save", "3600 1000000") as server:
        shutil.rmtree(folder)
        await server.command("BGSAVE")

        async def failed() -> bool:
            async with server.client() as client:
                facts = await client.info("persistence")
            return bool(facts["rdb_last_bgsave_status"] == "err")

        await until(failed)
        await told(
            server.bus(), "can't write to its disk", "give its disk room", lasting=False, read=False
        )


async def test_loading_passes_by_itself(tmp_path: Path) -> None:
    async with serving(tmp_path, "--appendonly", "no") as server:
        one = server.bus()
        async with closing(one):
            await one.publish([(0, b"%d" % at) for at in range(100)])
        for at in range(100):
            await server.command("SET", f"filler:{at}", "x")
        await server.command("SAVE")
        await server.stop()
        server.options += ["--key-load-delay", "10000", "--loading-process-events-interval-bytes"]
        server.options += ["1024"]
        await server.start(answering=False)
        one = server.bus()
        async with closing(one):
            seen: list[ServiceUnavailable] = []

            async def served() -> bool:
                try:
                    await one.publish([(0, b"x")])
                except ServiceUnavailable as error:
                    seen.append(error)
                    return False
                return True

            await until(served)
        loading = [error for error in seen if "is loading its data" in error.reason]
        assert loading
        assert not any(error.lasting for error in seen)
        assert loading[0].cure == "wait until it has"


async def test_lacking_replicas(server: RedisServer) -> None:
    await server.command("CONFIG", "SET", "min-replicas-to-write", "1")
    await told(server.bus(), "lacks replicas", "start its replicas", lasting=False)


async def test_too_many_clients(server: RedisServer) -> None:
    async with server.client() as client:
        await client.config_set("maxclients", 1)
        await told(server.bus(), "has no connection left", "raise its maxclients", lasting=False)


@pytest.mark.parametrize("key", [stream(0), token_key()])
async def test_somebody_elses_keys(server: RedisServer, key: str) -> None:
    await server.command("RPUSH", key, "x")
    await told(
        server.bus(), "holds something else under a key of this mesh", "delete the keys",
        lasting=True,
    )  # fmt: skip


async def test_clusters(tmp_path: Path) -> None:
    """One node serves the whole mesh; the others send us there; without slots nobody does."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port")
    ports = [str(free_port()) for _ in range(2)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        serving(tmp_path / "a", *options, ports[0]) as owner,
        serving(tmp_path / "b", *options, ports[1]) as node,
    ):
        await told(owner.bus(), "cluster that is down", "CLUSTER INFO", lasting=False)
        await owner.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await node.command("CLUSTER", "MEET", "127.0.0.1", owner.port, ports[0])

        async def up() -> bool:
            states = [await one.command("CLUSTER", "INFO") for one in (owner, node)]
            return all("cluster_state:ok" in str(state) for state in states)

        await until(up)
        one = owner.bus()
        async with closing(one):
            await one.publish([(shard, b"x") for shard in range(SHARDS)])
            batch = await one.read(dict.fromkeys(range(SHARDS), ""), limit=9, wait_s=0.01)
            assert len(batch.entries) == SHARDS
        await told(
            node.bus(), "has not got this mesh's keys",
            f"point redis.url at 127.0.0.1:{owner.port}", lasting=True,
        )  # fmt: skip
        await told(bus(f"redis://127.0.0.1:{owner.port}/1"), "database", "", lasting=True)

"""What a PostgreSQL server can do wrong, and what is none: each one line, with its cure."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from mesh.stack import Stack
from persistence.base import ServiceUnavailable
from persistence.postgres import PostgresCheckpoints
from persistence.postgres_faults import explain, explain_connecting, place_of
from tests.persistence.database import MESH, Database, database, fault_of, put

__all__ = ("database",)

PASSWORD = "very-secret-indeed"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def store_at(dsn: str, timeout_s: float = 5.0) -> PostgresCheckpoints:
    return PostgresCheckpoints(
        dsn, mesh=MESH, schema="faults", timeout_s=timeout_s, connections_max=2
    )


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[int]:
    """Something on a port that is not PostgreSQL."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(100):
        pass


async def closing(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    pass


async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x4a\0\0\0\x0a8.0.36\0")
    await silent(reader, writer)


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Polite at first: no TLS here. Then bytes that mean nothing."""
    await reader.read(8)
    writer.write(b"N")
    await reader.read(1000)
    writer.write(bytes(range(256)) * 8)
    await silent(reader, writer)


async def ancient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """PostgreSQL 12, as far as its greeting goes."""
    await reader.read(8)
    writer.write(b"N")
    await reader.read(1000)
    writer.write(b"R" + struct.pack("!ii", 8, 0))
    for name, value in (("server_version", "12.4"), ("client_encoding", "UTF8")):
        body = f"{name}\0{value}\0".encode()
        writer.write(b"S" + struct.pack("!i", 4 + len(body)) + body)
    writer.write(b"K" + struct.pack("!iii", 12, 1, 1) + b"Z" + struct.pack("!i", 5) + b"I")
    await silent(reader, writer)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http, "is no PostgreSQL server"),
        (greeting, "is no PostgreSQL server"),
        (closing, "out of reach"),
        (silent, "did not answer within 0.5 s"),
        (garbage, "did not answer within 0.5 s"),
        (ancient, "is release 12"),
    ],
)
async def test_an_address_that_is_not_postgresql(answer: Answer, reason: str) -> None:
    async with answering(answer) as port:
        store = store_at(f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/db", timeout_s=0.5)
        fault = await fault_of(store)
        await store.close()
    assert reason in fault.reason
    assert f"127.0.0.1:{port}/db" in fault.reason
    assert fault.cure
    assert PASSWORD not in str(fault)
    assert PASSWORD not in repr(store)


async def test_another_server_on_the_port(stack: Stack) -> None:
    address = stack.services["redis"].address.removeprefix("redis://")
    store = store_at(f"postgresql://u@{address}", timeout_s=0.5)
    assert "see whether PostgreSQL runs there" in str(await fault_of(store))


async def test_nobody_there(unused_tcp_port: int, tmp_path: Path) -> None:
    for dsn in (
        f"postgresql://u@127.0.0.1:{unused_tcp_port}/db",
        f"postgresql://u@/db?host={tmp_path}",
        "postgresql://u@name.invalid/db",
    ):
        fault = await fault_of(store_at(dsn))
        assert "is out of reach" in fault.reason
        assert not fault.lasting


async def test_logins_that_are_refused(database: Database) -> None:
    nobody = await fault_of(database.store(user="nobody_at_all"))
    assert 'role "nobody_at_all" does not exist' in nobody.reason
    nowhere = await fault_of(store_at(database.dsn.removesuffix("postgres") + "nowhere"))
    assert 'no such database: database "nowhere"' in nowhere.reason
    full = await fault_of(database.store(user=await database.role("CONNECTION LIMIT 0")))
    assert "too many connections" in full.reason
    assert "postgres.connections_max" in full.cure
    assert (nobody.lasting, nowhere.lasting, full.lasting) == (True, True, False)


async def test_tls_where_there_is_none(database: Database) -> None:
    fault = await fault_of(store_at(database.dsn + "?sslmode=require"))
    assert "offers no TLS" in fault.reason
    assert "sslmode" in fault.cure


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        (f"postgresql://u:{PASSWORD}@127.0.0.1:port/db", "ValueError"),
        (f"postgresql://u:{PASSWORD[:4]}/{PASSWORD[4:]}@127.0.0.1:1/db", "ValueError"),
        ("postgresql://u@127.0.0.1/db?sslmode=perhaps", "`sslmode` parameter must be one of"),
        ("mysql://u@127.0.0.1/db", "scheme"),
    ],
)
async def test_a_dsn_that_cannot_be_used(dsn: str, told: str) -> None:
    store = store_at(dsn)
    fault = await fault_of(store)
    assert fault.lasting
    assert "postgres.dsn can't be used" in fault.reason
    assert told in fault.reason
    assert PASSWORD[4:] not in str(fault) + repr(store)


def test_what_is_shown_of_a_dsn() -> None:
    assert place_of(f"postgresql://u:{PASSWORD}@h:1/d") == ("h:1/d", True)
    assert place_of("postgresql://u@h:1,i:2/d") == ("h:1,i:2/d", False)
    assert place_of("postgresql://u@/d?host=/run/pg") == ("/run/pg/d", False)
    assert place_of(f"postgresql://h?dbname=d&password={PASSWORD}") == ("h/d", True)
    assert place_of(f"postgresql://u:a?{PASSWORD}@h/d") == ("(unreadable address)", True)
    assert place_of("postgresql://[h/d") == ("(unreadable address)", True)


async def test_read_only(database: Database) -> None:
    role = await database.role("SUPERUSER")
    await database.run(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    fault = await fault_of(database.store(user=role))
    assert fault.lasting
    assert "is read-only" in fault.reason
    await put(database.store(), 0)
    reader = database.store(user=role)
    assert (await reader.newest()).keys() == {0}, "reading needs no writing"
    with pytest.raises(ServiceUnavailable, match="is read-only"):
        await reader.acquire(0, "a", 60)


async def test_timeouts_of_the_server(database: Database) -> None:
    await put(database.store(), 0)
    role = await database.role("SUPERUSER")
    await database.run(f"ALTER ROLE {role} SET statement_timeout = '200ms'")
    async with database.locked("checkpoints"):
        gave_up = await fault_of(database.store(user=role))
        waited = await fault_of(database.store())
    assert "gave up a statement" in gave_up.reason
    assert "hold a lock for long" in waited.reason


async def test_a_connection_that_the_server_ends_is_replaced(database: Database) -> None:
    await put(database.store(), 0)
    role = await database.role("SUPERUSER")
    store = database.store(user=role)
    await store.newest()
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"
    async with database.locked("checkpoints"):
        pending = asyncio.create_task(store.newest())
        await database.waiting(role)
        await database.run(end, role)
        with pytest.raises(ServiceUnavailable, match="terminating connection due to adm") as caught:
            await pending
    assert not caught.value.lasting
    assert (await store.newest()).keys() == {0}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (asyncpg.DiskFullError("could not extend file"), "no disk space left: could not extend"),
        (asyncpg.OutOfMemoryError("out of memory"), "is out of memory"),
        (asyncpg.ConfigurationLimitExceededError("x"), "is out of resources"),
        (asyncpg.CannotConnectNowError("the database system is starting up"), "starting up"),
        (asyncpg.SerializationError("could not serialize"), "had a conflict"),
        (asyncpg.DataCorruptedError("invalid page"), "has damaged data or a bug"),
        (asyncpg.PostgresIOError("could not read block"), "has trouble with its disk"),
        (asyncpg.ProtocolViolationError("unsupported startup parameter"), "not a pooler"),
        (asyncpg.UndefinedFunctionError("no pg_advisory_xact_lock"), "lacks a feature"),
        (asyncpg.UniqueViolationError("duplicate key\nDETAIL: x"), "failed: duplicate key;"),
        (asyncpg.InterfaceError("connection is closed"), "dropped the connection"),
        (ConnectionResetError("reset"), "dropped the connection"),
        (asyncpg.InvalidPasswordError("password authentication failed"), "check user and passw"),
    ],
)
def test_each_complaint_has_a_cure(error: Exception, told: str) -> None:
    for fault in (explain(error, "h/d"), explain_connecting(error, "h/d", secret=True)):
        assert "\n" not in str(fault)
        assert fault.cure
    assert told in str(explain(error, "h/d"))


def test_complaints_of_tls_and_of_nothing_known() -> None:
    wrong = ssl.SSLCertVerificationError("certificate verify failed: self-signed certificate")
    assert "made no TLS connection: " in explain_connecting(wrong, "h", secret=False).reason
    odd = explain_connecting(KeyError("server_version"), "h", secret=False)
    assert "is no PostgreSQL server" in odd.reason

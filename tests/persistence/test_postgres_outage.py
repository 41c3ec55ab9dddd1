"""Checkpoints while their server is killed, frozen, made a standby, or asks for passwords."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from mesh.stack import Stack
from persistence.base import ServiceUnavailable
from persistence.postgres import PostgresCheckpoints
from tests.persistence.database import MESH, fault_of, put

PASSWORD = "very-secret-indeed"


@asynccontextmanager
async def own_server(folder: Path) -> AsyncIterator[tuple[Stack, str]]:
    async with Stack.running(folder, only=("postgres",)) as stack:
        yield stack, stack.services["postgres"].address


@asynccontextmanager
async def store_at(dsn: str, timeout_s: float = 5.0) -> AsyncIterator[PostgresCheckpoints]:
    store = PostgresCheckpoints(
        dsn, mesh=MESH, schema="outage", timeout_s=timeout_s, connections_max=2
    )
    try:
        yield store
    finally:
        await store.close()


async def test_a_server_is_killed_and_comes_back(tmp_path: Path) -> None:
    """Also while it is written to; what was verified is there again."""
    async with own_server(tmp_path) as (stack, dsn), store_at(dsn) as store:
        first = await put(store, 0, b"before")
        lease = await store.acquire(1, "a", 60)
        assert lease is not None
        pending = asyncio.create_task(
            store.write(lease, frontier={}, log_offset=0, digest=b"", data=bytes(64 << 20))
        )
        await asyncio.sleep(0)
        await stack.kill("postgres")
        with pytest.raises(ServiceUnavailable):
            await pending
        fault = await fault_of(store)
        assert "is out of reach" in fault.reason
        assert not fault.lasting
        await stack.start("postgres")
        assert (await store.newest()).keys() == {0}
        assert await store.load(first) == b"before"
        # The lease survived as well, and so did its fence.
        assert await store.acquire(1, "b", 60) is None
        assert await store.acquire(1, "a", 60) == lease
        await put(store, 1)


async def test_a_standby_is_read_from_and_says_that_it_is_one(tmp_path: Path) -> None:
    async with own_server(tmp_path) as (stack, dsn), store_at(dsn) as store:
        await put(store, 0, b"from the primary")
        lease = await store.acquire(0, "a", 60)
        assert lease is not None
        await stack.stop("postgres")
        signal = tmp_path / "postgres" / "data" / "standby.signal"
        signal.touch()
        await stack.start("postgres")
        (info,) = (await store.newest()).values()
        assert await store.load(info.id) == b"from the primary"
        with pytest.raises(ServiceUnavailable, match="is read-only") as caught:
            await store.acquire(0, "a", 60)
        assert "name the primary" in caught.value.cure
        with pytest.raises(ServiceUnavailable, match="is read-only"):
            await store.verified(lease, info.id)
        empty = PostgresCheckpoints(dsn, mesh=MESH, schema="other", timeout_s=5, connections_max=1)
        assert "is read-only" in (await fault_of(empty)).reason
        await empty.close()


async def test_passwords_and_tls_that_the_server_asks_for(tmp_path: Path) -> None:
    async with own_server(tmp_path) as (_, dsn):
        admin = await asyncpg.connect(dsn)
        try:
            await admin.execute(f"CREATE ROLE known LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
            await admin.execute("CREATE ROLE tls LOGIN")
            rules = tmp_path / "postgres" / "data" / "pg_hba.conf"
            rules.write_text(
                "host all postgres 127.0.0.1/32 trust\n"
                "host all known 127.0.0.1/32 scram-sha-256\n"
                "hostssl all tls 127.0.0.1/32 trust\n"
            )
            await admin.execute("SELECT pg_reload_conf()")
            # A new connection is judged by the new rules once the postmaster has read them.
            async with asyncio.timeout(20):
                for _ in iter(int, 1):
                    async with store_at(dsn.replace("postgres@", "known@")) as store:
                        try:
                            await store.version()
                        except ServiceUnavailable:
                            break
        finally:
            await admin.close()
        async with store_at(dsn.replace("postgres@", f"known:{PASSWORD}@")) as store:
            await put(store, 0)
            assert PASSWORD not in repr(store)
        async with store_at(dsn.replace("postgres@", f"known:not-{PASSWORD}@")) as store:
            fault = await fault_of(store)
            assert fault.lasting
            assert 'password authentication failed for user "known"' in fault.reason
            assert fault.cure == "check user and password in postgres.dsn"
            assert PASSWORD not in str(fault)
        async with store_at(dsn.replace("postgres@", "tls@")) as store:
            fault = await fault_of(store)
            assert fault.lasting
            assert "no encryption" in fault.reason
            assert "sslmode must be require" in fault.cure


class Proxy:
    """Stands between client and server, and can stop passing anything on."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = asyncio.Event()
        self._open.set()
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    def freeze(self) -> None:
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        async with asyncio.TaskGroup() as group:

            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                self.connections += 1
                there, back = await asyncio.open_connection("127.0.0.1", self._port)
                self._writers += (writer, back)
                group.create_task(self._pass(reader, back))
                group.create_task(self._pass(there, writer))

            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            try:
                yield server.sockets[0].getsockname()[1]
            finally:
                server.close()
                self.thaw()
                for writer in self._writers:
                    writer.close()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                await self._open.wait()
                target.write(data)
                await target.drain()
        except ConnectionError:
            return
        finally:
            target.close()


@pytest.mark.parametrize("call", ["idle", "first"])
async def test_a_server_that_freezes_costs_a_call_its_timeout(stack: Stack, call: str) -> None:
    """Whether it freezes while it is asked or while the schema is looked at; closing is quick."""
    address = stack.services["postgres"].address
    port = int(address.rpartition(":")[2].partition("/")[0])
    proxy = Proxy(port)
    async with proxy.running() as through:
        dsn = address.replace(str(port), str(through))
        async with store_at(dsn, timeout_s=0.5) as store:
            await (store.newest() if call == "idle" else store.version())
            proxy.freeze()
            async with asyncio.timeout(2):
                fault = await fault_of(store)
            assert "did not answer within 0.5 s" in fault.reason
            async with asyncio.timeout(2):
                assert "did not answer" in (await fault_of(store)).reason
            proxy.thaw()
            before = proxy.connections
            await store.newest()
            assert proxy.connections == before + 1, "a connection in doubt was used again"
            proxy.freeze()
            async with asyncio.timeout(2):
                await store.close()

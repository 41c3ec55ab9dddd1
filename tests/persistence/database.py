"""The shared PostgreSQL server for tests: a schema and users of one test's own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from mesh.stack import Stack
from persistence.base import ServiceUnavailable
from persistence.postgres import PostgresCheckpoints

MESH = b"m" * 16
NUMBERS = itertools.count()


class Database:
    """The shared server, with a schema and roles of this test's own."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.number = next(NUMBERS)
        self.schema = f"test_{self.number}"
        self.stores: list[PostgresCheckpoints] = []

    def store(
        self,
        *,
        user: str = "postgres",
        mesh: bytes = MESH,
        schema: str = "",
        timeout_s: float = 10.0,
        connections_max: int = 2,
    ) -> PostgresCheckpoints:
        store = PostgresCheckpoints(
            self.dsn.replace("postgres@", f"{user}@"),
            mesh=mesh,
            schema=schema or self.schema,
            timeout_s=timeout_s,
            connections_max=connections_max,
        )
        self.stores.append(store)
        return store

    async def run(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """One statement of an administrator, in the test's schema if there is one."""
        async with self.connected() as connection:
            return await connection.fetch(sql, *arguments)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        settings = {"search_path": self.schema}
        connection = await asyncpg.connect(self.dsn, server_settings=settings)
        try:
            yield connection
        finally:
            await connection.close()

    async def role(self, rule: str = "") -> str:
        """A new user that nobody granted anything, with this rule."""
        name = f"role_{self.number}_{next(NUMBERS)}"
        await self.run(f"CREATE ROLE {name} LOGIN")
        if rule:
            await self.run(f"ALTER ROLE {name} {rule}")
        return name

    async def connections(self, user: str) -> int:
        """How many connections this user has now."""
        rows = await self.run("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", user)
        return int(rows[0][0])

    @asynccontextmanager
    async def locked(self, table: str) -> AsyncIterator[None]:
        """Whoever touches the table waits until the end of the block."""
        async with self.connected() as connection, connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield

    async def waiting(self, user: str) -> None:
        """Return once a statement of this user waits for a lock."""
        sql = "SELECT 1 FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'"
        async with asyncio.timeout(20):
            for _ in iter(int, 1):
                if await self.run(sql, user):
                    return
                await asyncio.sleep(0.01)


@pytest.fixture
async def database(stack: Stack) -> AsyncIterator[Database]:
    database = Database(stack.services["postgres"].address)
    yield database
    for store in database.stores:
        await store.close()


async def put(store: PostgresCheckpoints, shard: int, data: bytes = b"sealed") -> int:
    """A verified checkpoint."""
    lease = await store.acquire(shard, "a", 60)
    assert lease is not None
    written = await store.write(lease, frontier={7: 1}, log_offset=3, digest=bytes(16), data=data)
    await store.verified(lease, written)
    return written


async def fault_of(store: PostgresCheckpoints) -> ServiceUnavailable:
    """What is the matter, in one line."""
    with pytest.raises(ServiceUnavailable) as caught:
        await store.newest()
    assert "\n" not in str(caught.value)
    return caught.value

"""Checkpoints in PostgreSQL: `persistence.base.CheckpointStore` over asyncpg.

Every change is one statement, which checks the lease's fence under the lock of the lease's row:
whoever lost the lease changes nothing, however late his statement arrives. Time is the server's.

A call that fails for any reason gives its connection up; the next one makes a new one. So a server
that was killed, or that is frozen in the middle of an answer, costs one call its timeout.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg

from crdt import frontier as frontiers
from crdt.errors import CodecError
from persistence.base import CheckpointInfo, Lease, LeaseLost
from persistence.limits import MESH_ID_BYTES
from persistence.memory_checkpoints import (
    check_checkpoint,
    check_lease,
    checkpoint_gone,
    closed_store,
    lease_lost,
)
from persistence.migrations import migrate
from persistence.postgres_faults import (
    OLDEST_MAJOR,
    all_busy,
    explain,
    explain_connecting,
    place_of,
    too_old,
    unanswered,
)

__all__ = ("PostgresCheckpoints",)

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
Result = TypeVar("Result")

# A call that moves bytes gets the time of a slow network for them on top of the timeout.
_BYTES_PER_S: Final = 8 << 20
# A lease's row is only ever locked for the length of one statement; who holds it longer is writing.
_LOCK_WAIT_MS: Final = 1_000
# Should this process vanish without a trace within a transaction, the server ends it by itself.
_FORSAKEN_MS: Final = 60_000
_CLOSING_S: Final = 1.0
_SCHEMA_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,40}")
# The schema, or a part of it, is not there (any more).
_MISSING: Final = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)

# Another's valid lease is seen without taking a lock, so that nobody waits for a writer's.
_ACQUIRE: Final = """
    INSERT INTO leases (mesh, shard, holder, fence, expires_at)
    SELECT $1, $2, $3, 1, now() + make_interval(secs => $4)
    WHERE NOT EXISTS (
        SELECT FROM leases
        WHERE mesh = $1 AND shard = $2 AND holder <> $3 AND expires_at > now())
    ON CONFLICT (mesh, shard) DO UPDATE SET
        holder = excluded.holder,
        fence = leases.fence + CASE WHEN leases.holder = excluded.holder THEN 0 ELSE 1 END,
        expires_at = excluded.expires_at
    WHERE leases.holder = excluded.holder OR leases.expires_at <= now()
    RETURNING fence"""
_RELEASE: Final = """
    UPDATE leases SET holder = '', expires_at = now()
    WHERE mesh = $1 AND shard = $2 AND holder = $3 AND fence = $4"""
_WRITE: Final = """
    INSERT INTO checkpoints
        (mesh, shard, fence, replica, frontier, log_offset, digest, size, data)
    SELECT mesh, shard, fence, holder, $5, $6, $7, $8, $9 FROM leases
    WHERE mesh = $1 AND shard = $2 AND holder = $3 AND fence = $4
    FOR NO KEY UPDATE
    RETURNING id"""
_VERIFIED: Final = """
    WITH lease AS (
        SELECT FROM leases
        WHERE mesh = $1 AND shard = $2 AND holder = $3 AND fence = $4
        FOR NO KEY UPDATE
    ), marked AS (
        UPDATE checkpoints AS c SET verified = true FROM lease
        WHERE c.mesh = $1 AND c.shard = $2 AND c.id = $5
        RETURNING c.fence, c.id
    ), gone AS (
        DELETE FROM checkpoints AS c USING marked AS m
        WHERE c.mesh = $1 AND c.shard = $2 AND (c.fence, c.id) < (m.fence, m.id)
        RETURNING c.id
    )
    SELECT (SELECT count(*) FROM lease) AS leases, (SELECT count(*) FROM marked) AS marked,
        (SELECT count(*) FROM gone) AS gone"""
_DISCARD: Final = """
    WITH lease AS (
        SELECT FROM leases
        WHERE mesh = $1 AND shard = $2 AND holder = $3 AND fence = $4
        FOR NO KEY UPDATE
    ), gone AS (
        DELETE FROM checkpoints AS c USING lease
        WHERE c.mesh = $1 AND c.shard = $2 AND c.id = $5 AND NOT c.verified
        RETURNING c.id
    )
    SELECT (SELECT count(*) FROM lease) AS leases, (SELECT count(*) FROM gone) AS gone"""
# What is said to be stored must be: an operator's `off` does not wait for the disk.
_DURABLE: Final = """
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'"""
# Removing large values takes the server time in proportion: every piece of them is marked.
_HELD: Final = """
    SELECT coalesce(sum(size), 0)::bigint FROM checkpoints WHERE mesh = $1 AND shard = $2"""
_SIZE: Final = "SELECT size FROM checkpoints WHERE mesh = $1 AND id = $2"
_LOAD: Final = "SELECT data FROM checkpoints WHERE mesh = $1 AND id = $2"
_NEWEST: Final = """
    SELECT DISTINCT ON (shard) id, shard, fence, replica, frontier, log_offset, digest, size,
        (extract(epoch FROM written_at) * 1000)::bigint AS written_ms, verified
    FROM checkpoints WHERE mesh = $1 AND verified
    ORDER BY shard, fence DESC, id DESC"""


class PostgresCheckpoints:
    """The checkpoints of mesh `mesh` (its 16-byte id) in one schema of a database.

    `dsn`: as libpq takes it, Unix sockets and sslmode included. The schema is made by the first
    call that finds it missing. `timeout_s`: seconds for any statement, plus one for every 8 MiB
    it moves or removes, waiting for a free connection included; a call is one or two of them.
    `connections_max`: held at once, made as they are needed. Memory: a write or load holds up to
    three copies of the bytes for a while.

    Raises ValueError for arguments that can't be meant. Belongs to one event loop.
    """

    def __init__(
        self, dsn: str, *, mesh: bytes, schema: str, timeout_s: float, connections_max: int
    ) -> None:
        if len(mesh) != MESH_ID_BYTES:
            raise ValueError(f"a mesh id of {len(mesh)} bytes, not {MESH_ID_BYTES}")
        # It is spliced into SQL, where no parameter is allowed: nothing else may get this far.
        if not _SCHEMA_NAME.fullmatch(schema):
            raise ValueError(f"{schema!r} is no schema name; use a-z, 0-9 and _, at most 41")
        if timeout_s <= 0 or connections_max < 1:
            raise ValueError("timeout_s and connections_max must be above 0")
        self._dsn = dsn
        self._mesh = mesh
        self._schema = schema
        self._timeout_s = timeout_s
        self._place, self._secret = place_of(dsn)
        self._migrated = False
        self._closed = False
        # asyncpg's own pool waits without bound for a frozen server when it takes a connection
        # back, and asks it once more after every call.
        self._free = asyncio.Semaphore(connections_max)
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._busy)} of its connections busy"
        return f"<PostgresCheckpoints at {self._place}, schema {self._schema}, {state}>"

    async def acquire(self, shard: int, holder: str, ttl_s: float) -> Lease | None:
        """See `CheckpointStore.acquire`. Raises ValueError for arguments that make no lease."""
        check_lease(shard, holder, ttl_s)

        async def ask(connection: Connection) -> Lease | None:
            try:
                fence = await connection.fetchval(_ACQUIRE, self._mesh, shard, holder, ttl_s)
            except asyncpg.LockNotAvailableError:
                # Run out, but its holder is at this moment writing: it counts as held.
                return None
            return None if fence is None else Lease(shard, holder, fence)

        return await self._call(ask)

    async def release(self, lease: Lease) -> None:
        """See `CheckpointStore.release`."""

        async def ask(connection: Connection) -> None:
            await connection.execute(_RELEASE, *self._key(lease))

        await self._call(ask)

    async def write(
        self,
        lease: Lease,
        *,
        frontier: Mapping[int, int],
        log_offset: int,
        digest: bytes,
        data: bytes,
    ) -> int:
        """See `CheckpointStore.write`. Raises ValueError for a checkpoint nobody could store."""
        check_checkpoint(log_offset, data)
        covered = frontiers.encode(frontier)

        async def ask(connection: Connection) -> int:
            written: int | None = await connection.fetchval(
                _WRITE, *self._key(lease), covered, log_offset, digest, len(data), data
            )
            if written is None:
                raise lease_lost(lease)
            return written

        return await self._call(ask, moving=len(data))

    async def load(self, id: int) -> bytes | None:
        """See `CheckpointStore.load`."""

        async def ask_size(connection: Connection) -> int | None:
            size: int | None = await connection.fetchval(_SIZE, self._mesh, id)
            return size

        async def ask(connection: Connection) -> bytes | None:
            data: bytes | None = await connection.fetchval(_LOAD, self._mesh, id)
            return data

        size = await self._call(ask_size)
        return None if size is None else await self._call(ask, moving=size)

    async def verified(self, lease: Lease, id: int) -> int:
        """See `CheckpointStore.verified`."""

        async def ask(connection: Connection) -> int:
            row = await connection.fetchrow(_VERIFIED, *self._key(lease), id)
            assert row is not None, "a SELECT of counts gave no row"
            if not row["leases"]:
                raise lease_lost(lease)
            if not row["marked"]:
                raise checkpoint_gone(lease.shard, id)
            gone: int = row["gone"]
            return gone

        return await self._call(ask, moving=await self._held(lease.shard))

    async def discard(self, lease: Lease, id: int) -> None:
        """See `CheckpointStore.discard`. One that counts stays."""

        async def ask(connection: Connection) -> None:
            row = await connection.fetchrow(_DISCARD, *self._key(lease), id)
            assert row is not None, "a SELECT of counts gave no row"
            if not row["leases"]:
                raise lease_lost(lease)

        await self._call(ask, moving=await self._held(lease.shard))

    async def newest(self) -> dict[int, CheckpointInfo]:
        """See `CheckpointStore.newest`. One query. A frontier that can't be read counts as empty:
        that checkpoint then stands no proof, and any other replaces it.
        """

        async def ask(connection: Connection) -> list[asyncpg.Record]:
            return await connection.fetch(_NEWEST, self._mesh)

        return {row["shard"]: _info(row) for row in await self._call(ask)}

    async def version(self) -> str:
        """See `CheckpointStore.version`: "PostgreSQL 18.6". Makes no schema."""

        async def ask(connection: Connection) -> str:
            return str(await connection.fetchval("SHOW server_version"))

        text = await self._call(ask, migrated=False)
        # Distributions put more behind it: "15.8 (Debian 15.8-0+deb12u1)".
        return f"PostgreSQL {text.split()[0]}"

    async def close(self) -> None:
        """See `CheckpointStore.close`. Calls under way fail at once."""
        self._closed = True
        for connection in tuple(self._busy):
            connection.terminate()
        idle, self._idle = self._idle, []
        for connection in idle:
            try:
                with suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await connection.close(timeout=_CLOSING_S)
            finally:
                connection.terminate()

    # ------------------------------------------------------------------------------- one call

    async def _call(
        self,
        ask: Callable[[Connection], Awaitable[Result]],
        *,
        moving: int = 0,
        migrated: bool = True,
    ) -> Result:
        """Ask something on a connection of its own, within the time allowed for it."""
        seconds = self._timeout_s + moving / _BYTES_PER_S
        waiting = True
        self._check()
        try:
            async with asyncio.timeout(seconds):
                async with self._free:
                    waiting = False
                    return await self._ask(ask, migrated)
        except TimeoutError:
            if self._closed:
                raise closed_store() from None
            if waiting:
                raise all_busy(self._place, seconds) from None
            raise unanswered(self._place, seconds) from None
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if self._closed:
                raise closed_store() from None
            if isinstance(error, _MISSING):
                self._migrated = False
            raise explain(error, self._place) from error

    async def _held(self, shard: int) -> int:
        """Bytes of all checkpoints of the shard."""

        async def ask(connection: Connection) -> int:
            return int(await connection.fetchval(_HELD, self._mesh, shard))

        return await self._call(ask)

    async def _ask(self, ask: Callable[[Connection], Awaitable[Result]], migrated: bool) -> Result:
        connection = await self._connection()
        self._busy.add(connection)
        try:
            if migrated and not self._migrated:
                await migrate(connection, self._schema)
                self._migrated = True
            result = await ask(connection)
        except LeaseLost:
            self._keep(connection)
            raise
        except BaseException:
            # Without asking the server, which may be what does not answer.
            connection.terminate()
            raise
        finally:
            self._busy.discard(connection)
        self._keep(connection)
        return result

    async def _connection(self) -> Connection:
        self._check()
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        try:
            connection = await asyncpg.connect(
                self._dsn,
                # Longer than any call takes: the caller's timeout is the one that counts.
                timeout=2 * self._timeout_s + 60,
                server_settings={
                    "application_name": "statemesh",
                    "search_path": f'"{self._schema}"',
                    "lock_timeout": str(_LOCK_WAIT_MS),
                    # Whoever waited for a lock must see what its holder did.
                    "default_transaction_isolation": "read committed",
                    "idle_in_transaction_session_timeout": str(_FORSAKEN_MS),
                },
            )
        except Exception as error:
            if isinstance(error, TimeoutError):
                raise
            # Not chained: what the driver says of a DSN may hold a piece of its password.
            raise explain_connecting(error, self._place, secret=self._secret) from None
        major = connection.get_server_version().major
        if major < OLDEST_MAJOR:
            connection.terminate()
            raise too_old(self._place, major)
        try:
            await connection.execute(_DURABLE)
            self._check()
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _keep(self, connection: Connection) -> None:
        if self._closed:
            connection.terminate()
        else:
            self._idle.append(connection)

    def _key(self, lease: Lease) -> tuple[bytes, int, str, int]:
        return self._mesh, lease.shard, lease.holder, lease.fence

    def _check(self) -> None:
        if self._closed:
            raise closed_store()


def _info(row: asyncpg.Record) -> CheckpointInfo:
    try:
        covered = frontiers.decode(row["frontier"])
    except CodecError:
        covered = {}
    return CheckpointInfo(
        id=row["id"],
        shard=row["shard"],
        fence=row["fence"],
        replica=row["replica"],
        frontier=covered,
        log_offset=row["log_offset"],
        digest=row["digest"],
        size=row["size"],
        written_ms=row["written_ms"],
        verified=row["verified"],
    )

"""Checkpoints in a real PostgreSQL: its schema, its rules, and calls that are given up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import asyncpg
import pytest

import persistence.migrations as steps
from persistence.base import Lease, ServiceUnavailable
from persistence.limits import MAX_SNAPSHOT_BYTES
from persistence.migrations import NOTES, Migration, lock_key, migrations
from persistence.postgres import PostgresCheckpoints
from tests.mesh.world import eventually
from tests.persistence.database import MESH, Database, database, fault_of, put

__all__ = ("database",)


# ----------------------------------------------------------------------------------- the schema


async def test_the_first_call_makes_the_schema_and_notes_how(database: Database) -> None:
    assert re.fullmatch(r"PostgreSQL \d+(\.\d+)?", await database.store().version())
    namespaces = "SELECT nspname FROM pg_namespace WHERE nspname = $1"
    assert not await database.run(namespaces, database.schema), "asking the version made a schema"
    assert await database.store().newest() == {}
    rows = await database.run(f"SELECT number, name, checksum FROM {NOTES} ORDER BY number")
    assert [tuple(row) for row in rows] == [
        (step.number, step.name, step.checksum) for step in migrations()
    ]


async def test_many_replicas_start_at_the_same_time(database: Database) -> None:
    stores = [database.store() for _ in range(8)]
    assert await asyncio.gather(*(store.newest() for store in stores)) == [{}] * 8
    assert len(await database.run(f"SELECT FROM {NOTES}")) == len(migrations())


async def test_who_may_not_create_can_use_what_is_there(database: Database) -> None:
    role, schema = await database.role(), database.schema
    fault = await fault_of(database.store(user=role))
    assert fault.lasting
    assert "lacks a right" in fault.reason
    assert "grant CREATE" in fault.cure
    await put(database.store(), 0)
    await database.run(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    await database.run(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
    )
    limited = database.store(user=role)
    assert (await limited.newest()).keys() == {0}
    await put(limited, 1)


async def test_an_empty_schema_made_by_an_administrator_is_used(database: Database) -> None:
    role = await database.role()
    await database.run(f"CREATE SCHEMA {database.schema} AUTHORIZATION {role}")
    await put(database.store(user=role), 0)


async def test_a_newer_schema_is_refused(database: Database) -> None:
    await put(database.store(), 0)
    await database.run(f"INSERT INTO {NOTES} VALUES (999, 'from_the_future', 'x')")
    fault = await fault_of(database.store())
    assert fault.lasting
    assert "0999_from_the_future" in fault.reason
    assert fault.cure == "install a newer statemesh"


async def test_a_step_that_was_applied_with_another_content_is_named(database: Database) -> None:
    await put(database.store(), 0)
    await database.run(f"UPDATE {NOTES} SET checksum = 'other' WHERE number = 1")
    fault = await fault_of(database.store())
    assert fault.lasting
    assert "0001_checkpoints was applied with another content" in fault.reason


async def test_a_schema_with_tables_of_others_is_refused(database: Database) -> None:
    await database.run(f"CREATE SCHEMA {database.schema}")
    await database.run("CREATE TABLE customers (name text)")
    fault = await fault_of(database.store())
    assert fault.lasting
    assert "'customers'" in fault.reason
    assert "postgres.schema_name" in fault.cure


async def test_a_table_that_only_is_called_like_ours_is_told(database: Database) -> None:
    await database.run(f"CREATE SCHEMA {database.schema}")
    await database.run(f"CREATE TABLE {NOTES} (id text)")
    assert "lost part of the schema" in (await fault_of(database.store())).reason


async def test_a_schema_that_was_dropped_is_made_anew(database: Database) -> None:
    store = database.store()
    await put(store, 0)
    await database.run(f"DROP SCHEMA {database.schema} CASCADE")
    assert "restore it" in (await fault_of(store)).cure
    assert await store.newest() == {}
    await put(store, 0)


async def test_a_step_that_fails_leaves_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrations()
    bad = Migration(2, "bad", "CREATE TABLE half (n int); SELECT 1 / 0", "x")
    monkeypatch.setattr(steps, "migrations", lambda: (*known, bad))
    store = database.store()
    fault = await fault_of(store)
    assert "failed: division by zero" in fault.reason
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = $1"
    assert not await database.run(tables, database.schema)
    monkeypatch.undo()
    await put(store, 0)
    # The next release brings one more step.
    good = Migration(2, "good", "CREATE TABLE more (n int)", "y")
    monkeypatch.setattr(steps, "migrations", lambda: (*known, good))
    assert (await database.store().newest()).keys() == {0}
    assert len(await database.run(tables, database.schema)) == 4


async def test_another_at_the_migrations_is_waited_for_but_not_for_ever(
    database: Database,
) -> None:
    async with database.connected() as other:
        await other.execute("SELECT pg_advisory_lock($1)", lock_key(database.schema))
        fault = await fault_of(database.store(timeout_s=0.3))
        assert "did not answer within 0.3 s" in fault.reason
        waiting = asyncio.create_task(database.store().newest())
        await database.waiting("postgres")
        await other.execute("SELECT pg_advisory_unlock($1)", lock_key(database.schema))
        assert await waiting == {}


async def test_steps_are_numbered_and_their_lock_is_the_schemas() -> None:
    assert [step.number for step in migrations()] == list(range(1, len(migrations()) + 1))
    assert all(re.fullmatch(r"[0-9a-f]{64}", step.checksum) for step in migrations())
    assert lock_key("a") != lock_key("b")
    assert -(2**63) <= lock_key("a") < 2**63


# ---------------------------------------------------------------------------- what is in the tables


async def test_meshes_share_a_schema_and_see_nothing_of_each_other(database: Database) -> None:
    mine, theirs = database.store(), database.store(mesh=b"x" * 16)
    first = await put(mine, 0, b"mine")
    assert await theirs.newest() == {}
    assert await theirs.load(first) is None
    await put(theirs, 0, b"theirs")
    lease = await theirs.acquire(0, "a", 60)
    assert lease is not None
    await theirs.discard(lease, first)
    assert await mine.load(first) == b"mine"


async def test_a_frontier_that_cannot_be_read_counts_as_empty(database: Database) -> None:
    store = database.store()
    await put(store, 0)
    await put(store, 1)
    await database.run("UPDATE checkpoints SET frontier = 'garbage' WHERE shard = 0")
    newest = await store.newest()
    assert (newest[0].frontier, newest[1].frontier) == ({}, {7: 1})


async def test_the_database_itself_refuses_what_makes_no_sense(database: Database) -> None:
    await put(database.store(), 0)
    for change in (
        "UPDATE checkpoints SET data = 'longer than its size'",
        "UPDATE checkpoints SET log_offset = -1",
        "UPDATE leases SET fence = 0",
        "UPDATE leases SET mesh = 'short'",
        "DELETE FROM leases",  # its fence would begin again
    ):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await database.run(change)


async def test_sealed_bytes_are_not_compressed_again(database: Database) -> None:
    await put(database.store(), 0, bytes(1 << 20))
    rows = await database.run("SELECT pg_column_size(data) FROM checkpoints")
    assert rows[0][0] >= 1 << 20


async def test_a_large_one_comes_back_bit_for_bit(database: Database) -> None:
    store = database.store()
    data = bytes(range(256)) * (64 << 10)
    assert await store.load(await put(store, 0, data)) == data


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.acquire(-1, "a", 1),
        lambda store: store.acquire(4096, "a", 1),
        lambda store: store.acquire(0, "", 1),
        lambda store: store.acquire(0, "a\0", 1),
        lambda store: store.acquire(0, "a", 0),
        lambda store: store.acquire(0, "a", float("nan")),
        lambda store: store.write(
            Lease(0, "a", 1), frontier={}, log_offset=-1, digest=b"", data=b"x"
        ),
        lambda store: store.write(
            Lease(0, "a", 1), frontier={}, log_offset=0, digest=b"", data=b""
        ),
        lambda store: store.write(
            Lease(0, "a", 1),
            frontier={},
            log_offset=0,
            digest=b"",
            data=bytes(MAX_SNAPSHOT_BYTES + 1),
        ),
    ],
)
async def test_mistakes_of_the_caller_are_told_as_such(
    database: Database, call: Callable[[PostgresCheckpoints], object]
) -> None:
    with pytest.raises(ValueError, match=r"."):
        await call(database.store())  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"mesh": b"short"},
        {"schema": 'x"; DROP TABLE leases; --'},
        {"schema": "Upper"},
        {"schema": ""},
        {"timeout_s": 0},
        {"connections_max": 0},
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(wrong: dict[str, object]) -> None:
    right: dict[str, object] = {
        "mesh": MESH, "schema": "x", "timeout_s": 1, "connections_max": 1
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"."):
        PostgresCheckpoints("postgresql://h/d", **(right | wrong))  # type: ignore[arg-type]


# ------------------------------------------------------------------- connections, and giving up


async def test_it_holds_no_more_connections_than_allowed(database: Database) -> None:
    await put(database.store(), 0)
    role = await database.role("SUPERUSER")
    store = database.store(user=role, connections_max=3)
    await asyncio.gather(*(store.newest() for _ in range(30)))
    assert 1 <= await database.connections(role) <= 3
    await store.close()

    async def none_left() -> None:
        for _ in iter(int, 1):
            if not await database.connections(role):
                return
            await asyncio.sleep(0.01)

    await asyncio.wait_for(none_left(), 20)


async def test_waiting_for_a_free_connection_ends_and_says_so(database: Database) -> None:
    await put(database.store(), 0)
    role = await database.role("SUPERUSER")
    store = database.store(user=role, connections_max=1, timeout_s=0.4)
    lease = await store.acquire(0, "a", 60)
    assert lease is not None
    async with database.locked("checkpoints"):
        # It is allowed more time, for its size: what ends it is the server's patience with locks.
        large = asyncio.create_task(
            store.write(lease, frontier={}, log_offset=0, digest=b"", data=bytes(16 << 20))
        )
        await database.waiting(role)
        with pytest.raises(ServiceUnavailable, match=r"none of the connections .* within 0\.4 s"):
            await store.newest()
        with pytest.raises(ServiceUnavailable, match="hold a lock"):
            await large
    assert await store.newest() != {}, "it did not recover"


async def test_who_gives_up_disturbs_nobody(database: Database) -> None:
    await put(database.store(), 0)
    role = await database.role("SUPERUSER")
    store = database.store(user=role, connections_max=1)
    await store.newest()
    async with database.locked("checkpoints"):
        given_up = asyncio.create_task(store.newest())
        await database.waiting(role)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
    assert (await store.newest()).keys() == {0}


async def test_closing_ends_what_is_under_way(database: Database) -> None:
    await put(database.store(), 0)
    role = await database.role("SUPERUSER")
    store = database.store(user=role)
    before = asyncio.all_tasks()
    async with database.locked("checkpoints"):
        pending = asyncio.create_task(store.newest())
        await database.waiting(role)
        await asyncio.wait_for(store.close(), 2)
        with pytest.raises(ServiceUnavailable, match="closed"):
            await pending
    await eventually(lambda: asyncio.all_tasks() <= before, "no task is left behind")
    with pytest.raises(ServiceUnavailable, match="closed"):
        await store.version()


async def test_the_lease_of_one_who_is_writing_is_not_waited_for(database: Database) -> None:
    """It has run out, but its row is locked: it counts as held, and nobody hangs."""
    store = database.store(timeout_s=5.0)
    lease = await store.acquire(0, "a", 0.001)
    assert lease is not None
    async with database.connected() as writer, writer.transaction():
        await writer.execute("SELECT FROM leases FOR NO KEY UPDATE")
        assert await store.acquire(0, "b", 60) is None
    taken = await store.acquire(0, "b", 60)
    assert taken == Lease(0, "b", lease.fence + 1)


async def test_a_valid_lease_of_another_takes_no_lock(database: Database) -> None:
    store = database.store(timeout_s=0.5)
    assert await store.acquire(0, "a", 60)
    async with database.connected() as writer, writer.transaction():
        await writer.execute("SELECT FROM leases FOR NO KEY UPDATE")
        assert await store.acquire(0, "b", 60) is None


# ------------------------------------------------------------------------ what an operator set


async def test_settings_of_the_database_that_would_break_a_promise(database: Database) -> None:
    """What is said to be stored is on disk, and who waits for a lock sees what its holder did."""
    user = await database.role("SUPERUSER")
    await database.run(f"ALTER ROLE {user} SET synchronous_commit = off")
    await database.run(f"ALTER ROLE {user} SET default_transaction_isolation = 'repeatable read'")
    stores = [database.store(user=user) for _ in range(8)]
    assert await asyncio.gather(*(store.newest() for store in stores)) == [{}] * 8
    found = await stores[0]._call(
        lambda connection: connection.fetchval("SELECT current_setting('synchronous_commit')")
    )
    assert found == "on"


async def test_a_stricter_durability_is_left_as_it_is(database: Database) -> None:
    user = await database.role("SUPERUSER")
    await database.run(f"ALTER ROLE {user} SET synchronous_commit = remote_apply")
    found = await database.store(user=user)._call(
        lambda connection: connection.fetchval("SELECT current_setting('synchronous_commit')")
    )
    assert found == "remote_apply"

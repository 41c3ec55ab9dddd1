"""The database schema, as numbered steps that are applied in order and never changed again.

A step is a file `NNNN_name.sql` beside this one. It runs once, in a transaction together with the
note that it ran: its number, name and checksum. Table names in it are bare: they are looked up in
the schema that the operator chose, which several meshes may share.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final

from persistence.base import ServiceUnavailable

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ("Migration", "migrate", "migrations")

NOTES: Final = "statemesh_migrations"
"""The table that says which steps were applied."""

_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_CREATE_NOTES: Final = f"""
    CREATE TABLE {NOTES} (
        number     integer     PRIMARY KEY,
        name       text        NOT NULL,
        checksum   text        NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )"""
_READ_NOTES: Final = f"SELECT number, name, checksum FROM {NOTES} ORDER BY number"  # noqa: S608
_ADD_NOTE: Final = f"INSERT INTO {NOTES} (number, name, checksum) VALUES ($1, $2, $3)"  # noqa: S608
_FIND_NOTES: Final = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = $2)"""
_FIND_SCHEMA: Final = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)"""
_FIND_TABLE: Final = """
    SELECT relname FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    ORDER BY relname LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. `checksum` is the SHA-256 of its text, in hex."""

    number: int
    name: str
    sql: str
    checksum: str


@cache
def migrations() -> tuple[Migration, ...]:
    """All steps this program knows, in order: 1, 2, 3 … without holes."""
    steps = []
    for entry in resources.files(__name__).iterdir():
        if named := _FILE_NAME.fullmatch(entry.name):
            sql = entry.read_text(encoding="utf-8")
            checksum = hashlib.sha256(sql.encode()).hexdigest()
            steps.append(Migration(int(named[1]), named[2], sql, checksum))
    steps.sort(key=lambda step: step.number)
    assert [step.number for step in steps] == list(range(1, len(steps) + 1)), "a hole in the steps"
    return tuple(steps)


async def migrate(connection: Connection[Record], schema: str) -> int:
    """Bring the schema up to what this program knows; returns how many steps were applied.

    The connection's search path must be the schema, and if this fails it must be closed. Writes
    nothing, and needs no right to, where nothing is to do. Safe while others do the same: one of
    them works, the others wait for it.

    Raises ServiceUnavailable (lasting) for a schema that a newer program made, that was made
    otherwise, or that holds somebody else's tables; and whatever the driver raises.
    """
    if await _applied(connection, schema) == len(migrations()):
        return 0
    # Plain statements: the driver's own transaction block asks the server to roll back, which takes
    # for ever where it is frozen. A failure closes the connection, and that rolls back as well.
    await connection.execute("BEGIN")
    # Others may be at it for as long as they need: the caller's own timeout bounds the wait.
    await connection.execute("SET LOCAL lock_timeout = 0")
    await connection.execute("SELECT pg_catalog.pg_advisory_xact_lock($1)", lock_key(schema))
    done = await _applied(connection, schema)
    if done is None:
        await _begin(connection, schema)
    steps = migrations()[done or 0 :]
    for step in steps:
        await connection.execute(step.sql)
        await connection.execute(_ADD_NOTE, step.number, step.name, step.checksum)
    await connection.execute("COMMIT")
    return len(steps)


def lock_key(schema: str) -> int:
    """The advisory lock under which this schema is changed: 64 bits, signed."""
    digest = hashlib.blake2b(f"statemesh migrations {schema}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


async def _applied(connection: Connection[Record], schema: str) -> int | None:
    """How many steps were applied, all of them checked; None where nothing was ever noted."""
    if not await connection.fetchval(_FIND_NOTES, schema, NOTES):
        return None
    rows = await connection.fetch(_READ_NOTES)
    known = migrations()
    for row in rows[len(known) :]:
        raise ServiceUnavailable(
            f"schema {schema!r} was made by a newer statemesh: migration "
            f"{row['number']:04}_{row['name']} is not known here (only up to {known[-1].number})",
            "install a newer statemesh",
            lasting=True,
        )
    for row, step in zip(rows, known, strict=False):
        if (row["number"], row["checksum"]) != (step.number, step.checksum):
            raise ServiceUnavailable(
                f"schema {schema!r}: migration {row['number']:04}_{row['name']} was applied with "
                f"another content than this program's {step.number:04}_{step.name}",
                "run the release that made this schema, or choose another postgres.schema_name",
                lasting=True,
            )
    return len(rows)


async def _begin(connection: Connection[Record], schema: str) -> None:
    if await connection.fetchval(_FIND_SCHEMA, schema):
        if foreign := await connection.fetchval(_FIND_TABLE, schema):
            raise ServiceUnavailable(
                f"schema {schema!r} holds tables that are not statemesh's, for example {foreign!r}",
                "choose another postgres.schema_name",
                lasting=True,
            )
    else:
        await connection.execute(f'CREATE SCHEMA "{schema}"')
    await connection.execute(_CREATE_NOTES)

"""What is checked of a journal's file, row by row and as a whole. See `persistence.sqlite`."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from persistence.base import (
    FolderError,
    FrameRecord,
    JournalDamaged,
    SnapshotRecord,
    StorageError,
)
from persistence.genesis import Genesis
from persistence.limits import FOLDER_FORMAT
from persistence.mark import read_mark, repair_cure

# Names of `meta` that belong to the journal; callers' names never start like this.
RESERVED: Final = "journal."
FORMAT: Final = "journal.format"
MESH: Final = "journal.mesh"
MESH_NAME: Final = "journal.mesh_name"
CRC_BYTES: Final = 4
_COLUMNS: Final = struct.Struct(">5Q")


def check_belongs(database: sqlite3.Connection, path: Path, genesis: Genesis) -> None:
    """Refuse a journal of another mesh or of a newer format. Raises FolderError, StorageError."""
    facts = dict(database.execute("SELECT name, value FROM meta WHERE name LIKE 'journal.%'"))
    try:
        found = int(facts[FORMAT])
        mesh, name = facts[MESH], facts[MESH_NAME].decode()
    except (KeyError, ValueError) as fault:
        raise damaged(path, "it does not say what it is") from fault
    if found > FOLDER_FORMAT:
        raise FolderError(
            f"{path} has format {found}, and this program reads up to {FOLDER_FORMAT}; "
            "install a newer statemesh"
        )
    if mesh != genesis.id:
        raise FolderError(
            f"{path} belongs to mesh {name!r} ({mesh.hex()}), not to {genesis}; use another folder"
        )


def read_frame(
    row: tuple[int, int, int, int, int, int, bytes, int], path: Path
) -> tuple[int, FrameRecord]:
    """One row of `frames` (all columns, in order), its checksum proven. Raises StorageError."""
    position, shard, session, first, last, own, data, crc = row
    if not frame_proven((shard, session, first, last, own), data, crc):
        raise damaged(path, f"the frame at position {position} has a wrong checksum")
    return position, FrameRecord(shard, session, first, last, bool(own), data)


def read_snapshots(database: sqlite3.Connection, path: Path) -> list[SnapshotRecord]:
    """All snapshots, their checksums proven. Raises StorageError."""
    rows = database.execute("SELECT shard, position, data, crc FROM snapshots ORDER BY shard")
    return [read_snapshot(row, path) for row in rows]


def read_snapshot(row: tuple[int, int, bytes, int], path: Path) -> SnapshotRecord:
    """One row of `snapshots`, its checksum proven. Raises JournalDamaged."""
    shard, position, data, crc = row
    if zlib.crc32(data) != crc:
        raise damaged(path, f"the snapshot of shard {shard} has a wrong checksum")
    return SnapshotRecord(shard, position, data)


def damaged_meta(database: sqlite3.Connection) -> list[tuple[str, bytes]]:
    """Named values whose checksum is wrong."""
    return [
        (name, value)
        for name, value in database.execute("SELECT name, value FROM meta ORDER BY name")
        if not name.startswith(RESERVED) and value[:CRC_BYTES] != meta_crc(name, value[CRC_BYTES:])
    ]


def explain(fault: sqlite3.Error | UnicodeDecodeError, path: Path) -> StorageError:
    """An error of SQLite's as ours: which file, what happened, what to do about it.

    Its messages quote damaged names, which then are no text.
    """
    if isinstance(fault, UnicodeDecodeError):
        return damaged(path, "names in it are no text")
    code = getattr(fault, "sqlite_errorcode", None)
    # The low byte is the kind, the rest says more: https://sqlite.org/rescode.html
    kind = code & 0xFF if isinstance(code, int) else None
    if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, str(fault))
    cures = {
        sqlite3.SQLITE_FULL: "the disk is full; free some space and write again",
        sqlite3.SQLITE_READONLY: "it may not be written to; check permissions and mount options",
        sqlite3.SQLITE_CANTOPEN: "check that the folder exists and who may write to it",
        sqlite3.SQLITE_IOERR: "the disk failed; check it (dmesg) and the space left on it",
        sqlite3.SQLITE_BUSY: "another program has it open; stop that program",
    }
    cure = cures.get(kind, "see https://sqlite.org/rescode.html") if kind is not None else ""
    return StorageError(f"{path}: {fault} ({cure}); nothing was written")


def damaged(path: Path, reason: str) -> JournalDamaged:
    return JournalDamaged(f"{path} is damaged: {reason}; {repair_cure(path.parent)}")


def check_mark(path: Path) -> None:
    """Refuse a journal that is not there, or ends before its mark; nothing is changed.

    Raises JournalDamaged, sqlite3.Error, OSError.
    """
    marked = read_mark(path.parent)
    if marked is None:
        return
    if not path.exists() or path.stat().st_size == 0:
        raise damaged(path, f"it was written up to position {marked}, and nothing is there")
    # Read-only: another connection would make an end of a torn write-ahead log when it is closed.
    with closing(sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)) as database:
        check_end(database, path, marked)


def check_end(database: sqlite3.Connection, path: Path, marked: int) -> None:
    """Refuse a journal that ends before `marked`. Raises JournalDamaged, sqlite3.Error."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
    if not {"meta", "frames", "snapshots"} <= tables:
        raise damaged(path, f"it was written up to position {marked}, and its tables are gone")
    found = last_position(database)
    if found < marked:
        raise damaged(
            path, f"it was written up to position {marked}, and ends at {found}: its tail is torn"
        )
    last, counted = database.execute(
        "SELECT coalesce(max(position), 0), count(*) FROM frames NOT INDEXED"
    ).fetchone()
    listed = "SELECT count(*) FROM frames INDEXED BY frames_by_seq"
    indexed = database.execute(listed).fetchone()[0]
    if last > found or counted != indexed:
        raise damaged(path, f"{counted} frames up to {last}, but it lists {indexed} up to {found}")


def frame_crc(columns: Sequence[int], data: bytes) -> int:
    """Over what a frame is found by (shard, session, first, last, own), too: no signature covers
    that.
    """
    return zlib.crc32(data, zlib.crc32(_COLUMNS.pack(*columns)))


def frame_proven(columns: Sequence[int], data: bytes, crc: object) -> bool:
    """Whether this is the checksum of the frame; also that of older versions, over `data` alone."""
    try:
        return crc in (frame_crc(columns, data), zlib.crc32(data))
    except struct.error:
        return False


def meta_crc(name: str, value: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(name.encode())).to_bytes(CRC_BYTES, "big")


def last_position(database: sqlite3.Connection) -> int:
    row = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'frames'").fetchone()
    return 0 if row is None else int(row[0])

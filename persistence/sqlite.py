"""The journal on disk: one SQLite file per data folder, one thread that touches it.

Rules of this file: 1. Everything SQLite does happens on the writer thread; the event loop only
waits for it. 2. What waits for the disk is committed together (group commit), in the order of the
calls: an fsync costs
   milliseconds whatever its size, so a hundred callers that wait for one are served like one.
3. WAL with synchronous=FULL: a commit returns once the WAL is fsynced, and a crash at any instant
leaves
   whole transactions. (https://sqlite.org/wal.html, https://sqlite.org/pragma.html#pragma_synchronous)
4. Every row carries a CRC-32 of its data: SQLite itself would hand out flipped bits as they are.
5. What is found damaged at opening is left as it is, write-ahead log included, for
`persistence.salvage` to read.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from persistence import folder as layout
from persistence.base import (
    REBUILT,
    FrameRecord,
    SnapshotRecord,
    StorageError,
)
from persistence.genesis import Genesis
from persistence.identity import open_identity
from persistence.limits import (
    FOLDER_FORMAT,
    MAX_CHECKED_BYTES,
    MAX_COMMIT_BYTES,
    MAX_SEQ,
    MAX_SESSION,
    MAX_SHARDS,
)
from persistence.mark import Mark
from persistence.memory import check_limit
from persistence.sqlite_checks import (
    CRC_BYTES,
    FORMAT,
    MESH,
    MESH_NAME,
    RESERVED,
    check_belongs,
    check_mark,
    damaged,
    explain,
    frame_crc,
    last_position,
    meta_crc,
    read_frame,
    read_snapshots,
)

T = TypeVar("T")

# AUTOINCREMENT, so that a position is never given twice, also after everything was pruned.
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE frames (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    shard INTEGER NOT NULL, session INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    own INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL
) STRICT;
CREATE INDEX frames_by_seq ON frames (shard, session, last);
CREATE TABLE snapshots (
    shard INTEGER PRIMARY KEY, position INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL
) STRICT;
"""
_REPLAY: Final = (
    "SELECT position, shard, session, first, last, own, data, crc FROM frames"
    " WHERE position > ? ORDER BY position LIMIT ?"
)
_RANGE: Final = (
    "SELECT position, shard, session, first, last, own, data, crc FROM frames"
    " WHERE shard = ? AND session = ? AND last > ? AND first <= ? ORDER BY last, first LIMIT ?"
)
_PRUNE: Final = (
    "DELETE FROM frames WHERE shard = ? AND session = ? AND last <= ? AND position <="
    " coalesce((SELECT position FROM snapshots WHERE snapshots.shard = frames.shard), 0)"
    " RETURNING length(data)"
)


class SqliteJournal:
    """`persistence.base.Journal` in `journal.sqlite` of a data folder, which it holds the lock of.

    Made by `open_journal`. Cancelling a call does not undo it: what was handed over is still
    committed, in order. May be used from one event loop at a time.
    """

    def __init__(self, path: Path, database: sqlite3.Connection, lock: layout.FolderLock) -> None:
        self._path = path
        self._database = database
        self._lock = lock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="statemesh-journal")
        self._waiting: deque[_Append] = deque()
        self._closing: asyncio.Future[None] | None = None
        self._position = last_position(database)
        self._mark = Mark.make(path.parent, self._position)
        # Kept up to date by the writer thread: asking the table again reads a row for every frame.
        self._frame_bytes = _sum_of_lengths(database, "frames")
        self.commits = 0

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    async def append(self, frames: Sequence[FrameRecord]) -> int:
        """See `Journal.append`. Raises ValueError for a record out of range, before anything is
        written.
        """
        item = _Append([_row(frame) for frame in frames])
        if self._closing is None:
            self._waiting.append(item)
        return await self._on_thread(lambda: self._committed(item))

    async def replay(self, after: int, limit: int) -> list[tuple[int, FrameRecord]]:
        """See `Journal.replay`."""
        check_limit(limit)
        return await self._on_thread(lambda: self._select(_REPLAY, (after, limit)))

    async def frames(
        self, shard: int, session: int, after: int, upto: int, limit: int
    ) -> list[FrameRecord]:
        """See `Journal.frames`."""
        check_limit(limit)
        values = (shard, session, after, upto, limit)
        rows = await self._on_thread(lambda: self._select(_RANGE, values))
        return [record for _, record in rows]

    async def save_snapshot(self, record: SnapshotRecord) -> None:
        """See `Journal.save_snapshot`."""
        values = (record.shard, record.position, record.data, zlib.crc32(record.data))
        sql = (
            "INSERT INTO snapshots VALUES (?, ?, ?, ?) ON CONFLICT (shard) DO UPDATE SET"
            " position = excluded.position, data = excluded.data, crc = excluded.crc"
            " WHERE excluded.position >= snapshots.position"
        )
        await self._on_thread(lambda: self._write(sql, [values]))

    async def snapshots(self) -> list[SnapshotRecord]:
        """See `Journal.snapshots`."""
        return await self._on_thread(self._read_snapshots)

    async def prune(self, shard: int, upto: Mapping[int, int]) -> int:
        """See `Journal.prune`."""
        values = [(shard, session, seq) for session, seq in sorted(upto.items())]
        return await self._on_thread(lambda: self._prune(values))

    async def set_meta(self, values: Mapping[str, bytes]) -> None:
        """See `Journal.set_meta`. Raises ValueError for names that are the journal's own."""
        if any(name.startswith(RESERVED) for name in values):
            raise ValueError(f"names that start with {RESERVED!r} are the journal's own")
        sql = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
        rows = [(name, meta_crc(name, value) + value) for name, value in sorted(values.items())]
        await self._on_thread(lambda: self._write(sql, rows))

    async def meta(self) -> dict[str, bytes]:
        """See `Journal.meta`."""
        return await self._on_thread(self._read_meta)

    async def size(self) -> int:
        """See `Journal.size`."""
        return await self._on_thread(self._measure)

    async def close(self) -> None:
        """See `Journal.close`: what waits is committed first; then file and lock are released."""
        if self._closing is None:
            loop = asyncio.get_running_loop()
            self._closing = loop.run_in_executor(self._thread, self._shut)
        await asyncio.shield(self._closing)
        self._thread.shutdown(wait=False)

    async def __aenter__(self) -> SqliteJournal:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closing else f"position={self._position}"
        return f"SqliteJournal({str(self._path)!r}, {state})"

    # ------------------------------------------------------------------------- on the writer thread

    async def _on_thread(self, work: Callable[[], T]) -> T:
        if self._closing is not None:
            raise StorageError(f"the journal {self._path} is closed")
        job = asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)
        # Shielded: a caller that gives up must not pull its work out of the queue, which holds the
        # order.
        return await asyncio.shield(job)

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (sqlite3.Error, UnicodeDecodeError) as fault:
            raise explain(fault, self._path) from fault

    def _committed(self, item: _Append) -> int:
        """The position of an append, committing it and all that wait with it if nobody has yet."""
        while item.position is None and item.fault is None:
            self._commit_waiting()
        if item.fault is not None:
            raise item.fault
        assert item.position is not None
        return item.position

    def _commit_waiting(self) -> None:
        group: list[_Append] = []
        size = 0
        while self._waiting and (not group or size + self._waiting[0].size <= MAX_COMMIT_BYTES):
            group.append(self._waiting.popleft())
            size += group[-1].size
        position = self._position
        ends = []
        rows = []
        for item in group:
            rows += [(position + at, *row) for at, row in enumerate(item.rows, 1)]
            position += len(item.rows)
            ends.append(position)
        try:
            if rows:
                self._write("INSERT INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        except Exception as fault:
            # All of the group was rolled back: each caller learns it, and none waits for ever.
            for item in group:
                item.fault = fault
            if not isinstance(fault, sqlite3.Error):
                raise
            return
        self._position = position
        self._mark.set(position)
        self._frame_bytes += size
        for item, end in zip(group, ends, strict=True):
            item.position = end

    def _write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        with self._transaction():
            self._database.executemany(sql, rows)

    def _prune(self, limits: Sequence[tuple[int, int, int]]) -> int:
        removed: list[tuple[int]] = []
        with self._transaction():
            for limit in limits:
                removed += self._database.execute(_PRUNE, limit).fetchall()
        self._frame_bytes -= sum(size for (size,) in removed)
        return len(removed)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is done inside, or none of it; on disk when the block is left."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself after some errors (full disk), and then refuses to do
            # it again.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self.commits += 1

    def _select(self, sql: str, values: tuple[int, ...]) -> list[tuple[int, FrameRecord]]:
        return [read_frame(row, self._path) for row in self._database.execute(sql, values)]

    def _read_snapshots(self) -> list[SnapshotRecord]:
        return read_snapshots(self._database, self._path)

    def _read_meta(self) -> dict[str, bytes]:
        rows = self._database.execute("SELECT name, value FROM meta ORDER BY name")
        return {
            name: value[CRC_BYTES:]
            for name, value in rows
            if not name.startswith(RESERVED)
            and value[:CRC_BYTES] == meta_crc(name, value[CRC_BYTES:])
        }

    def _measure(self) -> int:
        # Snapshots are one row a shard: few enough to be asked for.
        return self._frame_bytes + _sum_of_lengths(self._database, "snapshots")

    def _shut(self) -> None:
        try:
            while self._waiting:
                self._commit_waiting()
            self._database.close()
        except (sqlite3.Error, UnicodeDecodeError) as fault:
            raise explain(fault, self._path) from fault
        finally:
            self._mark.close()
            self._lock.release()


@dataclass(slots=True, eq=False)
class _Append:
    """What one caller of `append` waits for. `position` and `fault` are the writer thread's to
    set.
    """

    rows: list[tuple[int, int, int, int, int, bytes, int]]
    position: int | None = None
    fault: Exception | None = None

    @property
    def size(self) -> int:
        return sum(len(row[5]) for row in self.rows)


def open_journal(folder: Path, genesis: Genesis | None = None) -> SqliteJournal:
    """Open (or create) the journal in a replica's data folder, for this process alone.

    Blocks for some milliseconds: call it before the loop matters, or in a thread. Raises
    FolderError where the folder is in use, another mesh's (than `genesis`, by default the
    identity's in the folder) or of a newer format, JournalDamaged where the file is, and
    StorageError where it cannot be read or written.
    """
    genesis = genesis or open_identity(folder).mesh
    layout.make_private(folder)
    path = folder / layout.JOURNAL
    lock = layout.FolderLock(folder / layout.LOCK, owner=True)
    try:
        check_mark(path)
        # Made here and not by SQLite, which would let the group and others read it (and the WAL
        # with it).
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        # Made on this thread, used on the writer's only from here on.
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _prepare(database, path, genesis)
            return SqliteJournal(path, database, lock)
        except BaseException:
            database.close()
            raise
    except (sqlite3.Error, UnicodeDecodeError) as fault:
        lock.release()
        raise explain(fault, path) from fault
    except OSError as fault:
        lock.release()
        raise StorageError(f"cannot open {path}: {fault}") from fault
    except BaseException:
        lock.release()
        raise


def _prepare(database: sqlite3.Connection, path: Path, genesis: Genesis) -> None:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    # On macOS an fsync ends in the disk's own cache unless told otherwise; elsewhere a no-op.
    database.execute("PRAGMA fullfsync = ON")
    database.execute("PRAGMA checkpoint_fullfsync = ON")
    # Keeps the WAL file from staying as large as it once was.
    database.execute("PRAGMA journal_size_limit = 67108864")
    if path.stat().st_size <= MAX_CHECKED_BYTES:
        verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise damaged(path, " ".join(str(verdict).split()))
    if database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
        _create(database, genesis)
        layout.sync_folder(path.parent)
    check_belongs(database, path, genesis)
    if not any(path.parent.glob("journal.damaged-*")):
        database.execute("DELETE FROM meta WHERE name = ?", (REBUILT,))


def _create(database: sqlite3.Connection, genesis: Genesis) -> None:
    database.execute("BEGIN IMMEDIATE")
    for statement in filter(str.strip, _SCHEMA.split(";")):
        database.execute(statement)
    facts = {
        FORMAT: str(FOLDER_FORMAT).encode(),
        MESH: genesis.id,
        MESH_NAME: genesis.name.encode(),
    }
    database.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())
    database.execute("COMMIT")


def _sum_of_lengths(database: sqlite3.Connection, table: str) -> int:
    sql = f"SELECT coalesce(sum(length(data)), 0) FROM {table}"  # noqa: S608 - a constant
    return int(database.execute(sql).fetchone()[0])


def _row(frame: FrameRecord) -> tuple[int, int, int, int, int, bytes, int]:
    sound = 0 <= frame.shard < MAX_SHARDS and 0 < frame.session <= MAX_SESSION
    if not sound or not 0 < frame.first <= frame.last <= MAX_SEQ:
        raise ValueError(
            f"a frame record out of range: shard {frame.shard}, session {frame.session}"
        )
    columns = frame.shard, frame.session, frame.first, frame.last, int(frame.own)
    return *columns, frame.data, frame_crc(columns, frame.data)

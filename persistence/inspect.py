"""Reading a data folder from outside, while no replica runs in it, without changing a byte of it.

    folder = load_folder(Path("agents/a"))
    folder.shards[3].digest()
    for header, transaction, first_seq in folder.transactions(): ...

Everything is verified on the way, as if it came from the network. SQLite would write to the folder
even to read it (it recovers a WAL that a killed process left behind), so a journal with such a WAL
is read from a copy.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from crdt.lattice import Shard
from crdt.operation import Transaction
from persistence import folder as layout
from persistence.base import FolderError, FrameError, FrameRecord, StorageError
from persistence.frame import Header
from persistence.genesis import Genesis
from persistence.identity import Trust, open_identity
from persistence.journal import Recovered, read_transactions, recover
from persistence.sealing import Opener
from persistence.sqlite import check_belongs, explain, read_frame, read_snapshots


@dataclass(frozen=True, slots=True)
class LoadedFolder:
    """What a replica had on disk when it was loaded: every shard of the mesh, and its authors."""

    path: Path
    mesh: Genesis
    replica: str
    shards: dict[int, Shard] = field(repr=False)
    recovered: Recovered = field(repr=False)
    opener: Opener = field(repr=False)

    def frontier(self) -> dict[int, dict[int, int]]:
        """{shard: {session: seq}}."""
        return {number: dict(shard.frontier) for number, shard in self.shards.items()}

    def digest(self) -> dict[int, str]:
        """{shard: 32 hex digits}. Equal on replicas that have applied the same operations."""
        return {number: shard.digest().hex() for number, shard in self.shards.items()}

    def author(self, session: int) -> str:
        """The replica that ran a session; "" if the session's certificate is not in the folder."""
        info = self.opener.trust.get(session)
        return "" if info is None else info.replica

    def transactions(self) -> Iterator[tuple[Header, Transaction, int]]:
        """Every transaction whose frame is still there, in apply order, with its first seq.

        Frames that a snapshot contains may have been pruned. Void frames are passed over. The
        folder is opened anew; raises FolderError, StorageError.
        """
        with _reading(self.path, self.mesh) as (database, path):
            for position, record in _frames(database, path):
                try:
                    header, body = self.opener.open(record.data)
                except FrameError as fault:
                    raise StorageError(
                        f"{path}: frame at {position} is refused: {fault}"
                    ) from fault
                seq = header.first
                for transaction in read_transactions(header, body) or ():
                    yield header, transaction, seq
                    seq += len(transaction.operations)


def load_folder(directory: Path) -> LoadedFolder:
    """Load a data folder. Raises FolderError (none, or in use) and StorageError (damaged)."""
    identity = open_identity(directory)
    opener = Opener(identity.mesh, Trust(identity.mesh))
    with _reading(directory, identity.mesh) as (database, path):
        recovered = recover(read_snapshots(database, path), _frames(database, path), opener)
    return LoadedFolder(
        directory, identity.mesh, identity.replica, recovered.shards, recovered, opener
    )


@contextmanager
def _reading(directory: Path, mesh: Genesis) -> Iterator[tuple[sqlite3.Connection, Path]]:
    journal = directory / layout.JOURNAL
    if not journal.is_file():
        raise _never_used(directory)
    lock = directory / layout.LOCK
    # A folder restored without its lock file belongs to nobody; making one would change it.
    with layout.FolderLock(lock, owner=False) if lock.exists() else nullcontext():
        wal = journal.with_name(journal.name + "-wal")
        try:
            if wal.exists() and wal.stat().st_size > 0:
                with tempfile.TemporaryDirectory(prefix="statemesh-") as place:
                    for file in (journal, wal):
                        shutil.copyfile(file, Path(place) / file.name)
                    with closing(sqlite3.connect(Path(place) / journal.name)) as database:
                        _check_journal(database, journal, mesh)
                        yield database, journal
            else:
                # `immutable` keeps SQLite from making files, and is true: we hold the lock.
                uri = journal.resolve().as_uri() + "?mode=ro&immutable=1"
                with closing(sqlite3.connect(uri, uri=True)) as database:
                    _check_journal(database, journal, mesh)
                    yield database, journal
        except sqlite3.Error as fault:
            raise explain(fault, journal) from fault
        except OSError as fault:
            raise StorageError(f"cannot read {journal}: {fault}") from fault


def _check_journal(database: sqlite3.Connection, journal: Path, mesh: Genesis) -> None:
    # A replica that was stopped while it made its journal leaves an empty one.
    if database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
        raise _never_used(journal.parent)
    check_belongs(database, journal, mesh)


def _never_used(directory: Path) -> FolderError:
    return FolderError(f"{directory} holds no journal: no replica has run in it yet; start one")


def _frames(database: sqlite3.Connection, path: Path) -> Iterator[tuple[int, FrameRecord]]:
    rows = database.execute(
        "SELECT position, shard, session, first, last, own, data, crc FROM frames ORDER BY position"
    )
    for row in rows:
        yield read_frame(row, path)

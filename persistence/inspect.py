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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from crdt.lattice import Shard
from crdt.operation import Transaction
from persistence import folder as layout
from persistence.base import (
    FolderError,
    FrameError,
    FrameRecord,
    JournalDamaged,
    StorageError,
)
from persistence.frame import Header
from persistence.genesis import Genesis
from persistence.identity import Identity, Trust, open_identity
from persistence.journal import Recovered, Recovery, read_transactions, recover
from persistence.mark import read_mark, repair_cure
from persistence.sealing import Opener
from persistence.sqlite_checks import (
    check_belongs,
    check_end,
    damaged,
    damaged_meta,
    explain,
    read_frame,
    read_snapshot,
    read_snapshots,
)

MAX_FINDINGS: Final = 100
META_CURE: Final = "none is needed: what it said is found out anew at the next start"
_FRAMES: Final = (
    "SELECT position, shard, session, first, last, own, data, crc FROM frames ORDER BY position"
)


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
    marked = read_mark(directory)
    if not journal.is_file() or not journal.stat().st_size:
        if marked is not None:
            raise damaged(journal, f"it was written up to {marked}, and nothing is there")
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
                        _check_journal(database, journal, mesh, marked)
                        yield database, journal
            else:
                # `immutable` keeps SQLite from making files, and is true: we hold the lock.
                uri = journal.resolve().as_uri() + "?mode=ro&immutable=1"
                with closing(sqlite3.connect(uri, uri=True)) as database:
                    _check_journal(database, journal, mesh, marked)
                    yield database, journal
        except (sqlite3.Error, UnicodeDecodeError) as fault:
            raise explain(fault, journal) from fault
        except OSError as fault:
            raise StorageError(f"cannot read {journal}: {fault}") from fault


def _check_journal(
    database: sqlite3.Connection, journal: Path, mesh: Genesis, marked: int | None
) -> None:
    if marked is not None:
        check_end(database, journal, marked)
    # A replica that was stopped while it made its journal leaves an empty one.
    if database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
        raise _never_used(journal.parent)
    check_belongs(database, journal, mesh)


def _never_used(directory: Path) -> FolderError:
    return FolderError(f"{directory} holds no journal: no replica has run in it yet; start one")


def _frames(database: sqlite3.Connection, path: Path) -> Iterator[tuple[int, FrameRecord]]:
    for row in database.execute(_FRAMES):
        yield read_frame(row, path)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: in which file, where and what, and what to do about it."""

    file: str
    problem: str
    cure: str


@dataclass(slots=True)
class FolderReport:
    """What `check_folder` found. `frames` and `snapshots` are those that stood every proof."""

    path: str
    replica: str = ""
    mesh: str = ""
    frames: int = 0
    snapshots: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether a replica would start from it with all it ever acknowledged."""
        return not self.findings

    @property
    def repairable(self) -> list[Finding]:
        """Findings that keep a replica from starting."""
        return [one for one in self.findings if one.cure != META_CURE]

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "sound": self.sound}

    def note(self, file: Path, problem: object, cure: str) -> None:
        """Something is wrong."""
        self.findings.append(Finding(str(file), " ".join(str(problem).split()), cure))


def check_folder(directory: Path) -> FolderReport:
    """Prove everything in a data folder: files, checksums, signatures, chains, digests.

    Reads only. Raises FolderError: no folder, in use, another mesh's, of a newer format.
    """
    if not directory.is_dir():
        raise FolderError(f"{directory} is no folder; name a replica's data folder")
    report = FolderReport(str(directory))
    journal = directory / layout.JOURNAL
    cure = repair_cure(directory)
    try:
        identity = open_identity(directory)
    except FolderError as fault:
        report.note(
            directory / layout.IDENTITY, fault,
            "restore it from a backup, or let the replica join anew in an empty folder",
        )  # fmt: skip
        return report
    report.replica, report.mesh = identity.replica, identity.mesh.name
    try:
        marked = read_mark(directory)
        if marked is None and not journal.exists():
            return report
        with _reading(directory, identity.mesh) as (database, path):
            _check_database(report, database, path)
            _check_content(report, database, path, identity)
    except JournalDamaged as fault:
        report.note(journal, fault, cure)
    except StorageError as fault:
        report.note(journal, fault, "check the disk and who may read the file")
    return report


def _check_database(report: FolderReport, database: sqlite3.Connection, path: Path) -> None:
    for (verdict,) in database.execute("PRAGMA integrity_check(20)"):
        if verdict != "ok":
            report.note(path, verdict, repair_cure(path.parent))
    for name, value in damaged_meta(database):
        report.note(
            path, f"the value {name!r} ({len(value)} bytes) has a wrong checksum", META_CURE
        )


def _check_content(
    report: FolderReport, database: sqlite3.Connection, path: Path, identity: Identity
) -> None:
    """Every row by itself, in apply order, and the digests of snapshots; goes on after a fault."""
    cure = repair_cure(path.parent)
    recovery = Recovery(Opener(identity.mesh, Trust(identity.mesh)))
    for row in database.execute("SELECT shard, position, data, crc FROM snapshots ORDER BY shard"):
        try:
            recovery.add_snapshot(read_snapshot(row, path))
            report.snapshots += 1
        except StorageError as fault:
            report.note(path, fault, cure)
    for row in database.execute(_FRAMES):
        try:
            recovery.add_frame(*read_frame(row, path))
            report.frames += 1
        except StorageError as fault:
            report.note(path, fault, cure)
            if len(report.findings) >= MAX_FINDINGS:
                break
    for position, shard, session in recovery.result.forks:
        report.note(
            path,
            f"the frame at position {position} (shard {shard}, session {session}) does not follow "
            "the one before it: two histories of one session",
            "whoever ran the session may have had his machine copied; revoke it",
        )

"""Building a journal anew from a damaged one, so that nothing of ours that can be read is lost.

What others wrote they still have. What this replica wrote and never sent is here alone: every frame
of its own whose checksum and signature hold is kept, wherever in the file it lies, and stays owed.
A frame that comes after something unreadable can't be applied yet: it waits in the new journal
(`WAITING`) until the others have brought what is missing.

The damaged files stay beside the new ones, as `journal.damaged-N.sqlite`, with a report
`journal.damaged-N.json`. A crash at any moment leaves the old journal or the new one, and the
damaged one is read again if need be. Cursors are not taken over: everything is offered and read
again, which costs time and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Final

from crdt.errors import CodecError
from crdt.lattice import Shard
from crdt.snapshot import decode_snapshot
from crdt.structure import pack
from persistence import folder as layout
from persistence.base import (
    REBUILT,
    WAITING,
    FrameError,
    FrameRecord,
    Journal,
    JournalDamaged,
    SnapshotRecord,
    StorageError,
)
from persistence.certificates import Trust
from persistence.frame import UnknownSession
from persistence.identity import Identity, open_identity
from persistence.journal import applies, apply_frame, claims, read_transactions
from persistence.limits import MAX_FRAME_BYTES, MAX_SNAPSHOT_BYTES
from persistence.mark import read_mark
from persistence.pages import scan_rows
from persistence.sealing import OpenedFrame, Opener
from persistence.sqlite import open_journal
from persistence.sqlite_checks import frame_proven

_FRAME_COLUMNS: Final = 8
_SNAPSHOT_COLUMNS: Final = 4
_COMMIT_FRAMES: Final = 512

Row = tuple[int, tuple[Any, ...]]
"""A row of the journal's tables as it lies in the file: its number, and its columns."""


@dataclass(slots=True)
class Salvage:
    """What became of a damaged journal. `damaged`: where it is now.

    `own`, `others` and `snapshots` were taken over; `waiting` own frames lack something before
    them; `refused` looked like frames and were none. `missing` are this replica's own operations
    known to be unreadable, as [shard, session, after, upto]: lost, unless another replica has them.
    `tail`: so many frames at the end were committed and are not to be found.
    """

    replica: str
    damaged: str
    reason: str
    own: int = 0
    others: int = 0
    snapshots: int = 0
    waiting: int = 0
    refused: int = 0
    tail: int = 0
    missing: list[tuple[int, int, int, int]] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def sentence(self) -> str:
        """For people, on one line."""
        lost = sum(upto - after for _, _, after, upto in self.missing)
        text = (
            f"rebuilt after damage: {self.own} own frames and {self.snapshots} snapshots kept, "
            f"{self.waiting} own frames wait for what is missing before them"
        )
        if lost or self.tail:
            text += (
                f"; unreadable: {lost} own operations and {self.tail} frames at the end, lost "
                "unless another replica has them"
            )
        return text


@dataclass(slots=True)
class Found:
    """What is to be in the new journal. `contained` lies in a snapshot, and may be owed."""

    report: Salvage
    snapshots: list[SnapshotRecord] = field(default_factory=list)
    contained: list[FrameRecord] = field(default_factory=list)
    applied: list[FrameRecord] = field(default_factory=list)
    waiting: list[FrameRecord] = field(default_factory=list)
    certificates: dict[int, bytes] = field(default_factory=dict)


async def rebuild(folder: Path, reason: str) -> Salvage:
    """Build the journal of a replica's folder anew; nobody may have it open.

    Blocks for as long as reading it takes: run it in a thread of its own, by `asyncio.run`. Raises
    FolderError (no identity, in use) and StorageError (the disk refuses); then nothing changed.
    """
    identity = open_identity(folder)
    with layout.FolderLock(folder / layout.LOCK, owner=True):
        try:
            place = _next_place(folder)
            with tempfile.TemporaryDirectory(prefix=".rebuild-", dir=folder) as draft:
                report = Salvage(identity.replica, place.name, reason)
                found = sort_out(_rows(folder), _marked(folder), identity, report)
                async with open_journal(Path(draft), identity.mesh) as journal:
                    await refill(journal, found)
                _publish(folder, Path(draft), place, found.report)
        except OSError as fault:
            raise StorageError(f"cannot rebuild the journal in {folder}: {fault}") from fault
    return found.report


def damaged_journals(folder: Path) -> list[Path]:
    """What is left of journals that were rebuilt."""
    return sorted(folder.glob("journal.damaged-*.sqlite"))


def _next_place(folder: Path) -> Path:
    number = 1
    while any(folder.glob(f"journal.damaged-{number}.*")):
        number += 1
    return folder / f"journal.damaged-{number}.sqlite"


# ---------------------------------------------------------------------------------- what is there


def sort_out(rows: Iterable[Row], marked: int | None, identity: Identity, report: Salvage) -> Found:
    """What of these rows is to be in the new journal; `report` is filled in. `marked`: how far the
    old one was written, None where nothing says so. Pure.
    """
    opener = Opener(identity.mesh, Trust(identity.mesh))
    frames, snapshots, last = _proven_rows(rows, report)
    shards = {number: Shard(identity.mesh.digest_key) for number in range(identity.mesh.shards)}
    found = Found(report)
    for record in sorted(snapshots, key=lambda one: one.position, reverse=True):
        if record.shard in shards and not shards[record.shard].frontier:
            joined = _joined(record, opener, shards[record.shard], identity)
            if joined is not None:
                shards[record.shard] = joined
                found.snapshots.append(record)
    _apply(found, frames, opener, shards, identity.replica)
    report.snapshots = len(found.snapshots)
    report.missing = _missing(found.waiting, shards)
    report.tail = max(0, (marked or 0) - last)
    return found


def _marked(folder: Path) -> int | None:
    try:
        return read_mark(folder)
    except JournalDamaged:
        return None


def _proven_rows(
    rows: Iterable[Row], report: Salvage
) -> tuple[dict[bytes, bool], list[SnapshotRecord], int]:
    """{frame: whether it is kept as our own}, in the order they were journaled in, and snapshots,
    checksums proven; the last position.
    """
    frames: dict[bytes, tuple[int, bool]] = {}
    snapshots: dict[bytes, SnapshotRecord] = {}
    last = 0
    for rowid, columns in rows:
        if len(columns) == _FRAME_COLUMNS:
            found_by, (own, data, crc) = columns[1:6], columns[5:]
            sound = isinstance(data, bytes) and all(type(one) is int for one in found_by)
            if not sound or not frame_proven(found_by, data, crc):
                report.refused += 1
                continue
            frames.setdefault(data, (rowid, bool(own)))
            last = max(last, rowid)
        elif len(columns) == _SNAPSHOT_COLUMNS:
            position, data, crc = columns[1:]
            if isinstance(position, int) and isinstance(data, bytes) and crc == zlib.crc32(data):
                snapshots[data] = SnapshotRecord(rowid, position, data)
    ordered = sorted(frames.items(), key=lambda one: one[1])
    return {data: own for data, (_, own) in ordered}, list(snapshots.values()), last


def _rows(folder: Path) -> Iterator[Row]:
    """Whatever looks like a row, in the journal and in those that were rebuilt before."""
    for path in [*damaged_journals(folder), folder / layout.JOURNAL]:
        with ExitStack() as stack:
            views = []
            for file in (path, path.with_name(path.name + "-wal")):
                if not file.exists() or not file.stat().st_size:
                    views.append(memoryview(b""))
                    continue
                opened = stack.enter_context(file.open("rb"))
                mapped = stack.enter_context(mmap(opened.fileno(), 0, access=ACCESS_READ))
                views.append(stack.enter_context(memoryview(mapped)))
            rows = list(scan_rows(views[0], views[1], MAX_SNAPSHOT_BYTES + MAX_FRAME_BYTES))
        yield from rows


def _joined(
    record: SnapshotRecord, opener: Opener, shard: Shard, identity: Identity
) -> Shard | None:
    """The shard in a snapshot; None if it is not what its maker sealed."""
    try:
        opened = opener.open_snapshot(record.data)
        snapshot = decode_snapshot(opened.body)
        if opened.shard != record.shard:
            return None
        shard = Shard(identity.mesh.digest_key)
        shard.join(snapshot)
        opener.trust.keep_all(opened.certificates, shard.frontier)
    except (FrameError, CodecError):
        return None
    return shard if shard.digest() == snapshot.digest else None


def _apply(
    found: Found,
    frames: Mapping[bytes, bool],
    opener: Opener,
    shards: Mapping[int, Shard],
    replica: str,
) -> None:
    """Apply all that can be, in the order it was applied in before; keep what is ours and can't."""
    ours = {raw for raw, own in frames.items() if own}
    pending = list(frames)
    while True:
        left: list[bytes] = []
        for raw in pending:
            try:
                opened = opener.unseal(raw)
            except UnknownSession:
                left.append(raw)
                continue
            except FrameError:
                found.report.refused += 1
                continue
            if not _take(found, raw, opened, shards[opened.header.shard], replica):
                left.append(raw)
            opener.trust.keep(opened.header.session)
        if len(left) == len(pending):
            break
        pending = left
    for raw in left:
        try:
            opened = opener.unseal(raw)
        except FrameError:
            # Its certificate is nowhere in the file; where it was kept as ours, others have it.
            header = opener.header(raw)
            if raw in ours:
                found.waiting.append(
                    FrameRecord(header.shard, header.session, header.first, header.last, True, raw)
                )
            continue
        if opened.replica == replica:
            found.waiting.append(_record(raw, opened, own=True))
            for certificate in opener.trust.certificates([opened.header.session]):
                found.certificates[opened.header.session] = certificate
    found.report.waiting = len(found.waiting)


def _take(found: Found, raw: bytes, opened: OpenedFrame, shard: Shard, replica: str) -> bool:
    header = opened.header
    own = opened.replica == replica
    if shard.seen(header.session, header.last):
        found.contained.append(_record(raw, opened, own=own))
    else:
        if not applies(shard, header):
            return False
        transactions = read_transactions(header, opened.body)
        if not all(shard.seen(*dot) for dot in claims(header, transactions)):
            return False
        apply_frame(shard, header, transactions)
        found.applied.append(_record(raw, opened, own=own))
    found.report.own += own
    found.report.others += not own
    return True


def _record(raw: bytes, opened: OpenedFrame, *, own: bool) -> FrameRecord:
    header = opened.header
    return FrameRecord(header.shard, header.session, header.first, header.last, own, raw)


def _missing(
    waiting: list[FrameRecord], shards: dict[int, Shard]
) -> list[tuple[int, int, int, int]]:
    """The holes before own frames that wait."""
    holes = []
    reached: dict[tuple[int, int], int] = {}
    for frame in sorted(waiting, key=lambda one: (one.shard, one.session, one.first)):
        key = frame.shard, frame.session
        before = reached.get(key, shards[frame.shard].frontier.get(frame.session, 0))
        if frame.first > before + 1:
            holes.append((*key, before, frame.first - 1))
        reached[key] = max(before, frame.last)
    return holes


# -------------------------------------------------------------------------------- the new journal


async def refill(journal: Journal, found: Found) -> None:
    """Write what was found into a new and empty journal. Raises StorageError."""
    for start in range(0, len(found.contained), _COMMIT_FRAMES):
        await journal.append(found.contained[start : start + _COMMIT_FRAMES])
    covered = await journal.append([])
    for record in found.snapshots:
        await journal.save_snapshot(SnapshotRecord(record.shard, covered, record.data))
    for start in range(0, len(found.applied), _COMMIT_FRAMES):
        await journal.append(found.applied[start : start + _COMMIT_FRAMES])
    notes = {
        f"{WAITING}{at}": pack([found.certificates.get(frame.session, b""), frame.data])
        for at, frame in enumerate(found.waiting)
    }
    notes[REBUILT] = found.report.sentence().encode()
    await journal.set_meta(notes)


def _publish(folder: Path, draft: Path, place: Path, report: Salvage) -> None:
    """Put the new journal in the place of the old one, which stays under another name.

    At every moment there is a journal under its name, and the damaged one is linked elsewhere
    before its log goes. The mark comes last: an old one, with the new journal, is damage once more.
    """
    journal = folder / layout.JOURNAL
    wal, shm = (journal.with_name(journal.name + end) for end in ("-wal", "-shm"))
    if journal.exists():
        _link(journal, place)
    if wal.exists():
        _link(wal, place.with_name(place.name + "-wal"))
    layout.replace_file(
        place.with_suffix(".json"), (json.dumps(report.plain(), indent=2) + "\n").encode()
    )
    wal.unlink(missing_ok=True)
    shm.unlink(missing_ok=True)
    (draft / layout.JOURNAL).replace(journal)
    (draft / layout.MARK).replace(folder / layout.MARK)
    layout.sync_folder(folder)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
        target.chmod(0o600)

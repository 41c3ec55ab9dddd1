"""The journal on disk: what it promises survives crashes, damage, full disks and other
processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import sys
import threading
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from persistence.base import FolderError, FrameRecord, Journal, SnapshotRecord, StorageError
from persistence.folder import FolderLock
from persistence.identity import create_genesis, provision
from persistence.limits import MAX_READ_FRAMES
from persistence.memory import MemoryJournal
from persistence.sqlite import SqliteJournal, open_journal
from tests.persistence.world import make_mesh, running

MESH = make_mesh().mesh


def frame(seq: int, size: int = 10, session: int = 5) -> FrameRecord:
    return FrameRecord(0, session, seq, seq, True, bytes([seq % 256]) * size)


def seqs(rows: list[tuple[int, FrameRecord]]) -> list[int]:
    return [record.first for _, record in rows]


async def test_what_was_appended_is_there_after_reopening(tmp_path: Path) -> None:
    async with open_journal(tmp_path, MESH) as journal:
        position = await journal.append([frame(1), frame(2)])
        await journal.save_snapshot(SnapshotRecord(0, 1, b"state"))
        await journal.set_meta({"cursor": b"x"})
    async with open_journal(tmp_path, MESH) as journal:
        assert seqs(await journal.replay(0, 10)) == [1, 2]
        assert await journal.snapshots() == [SnapshotRecord(0, 1, b"state")]
        assert await journal.meta() == {"cursor": b"x"}
        assert await journal.append([frame(3)]) == position + 1


async def test_positions_are_never_given_twice_across_restarts(tmp_path: Path) -> None:
    async with open_journal(tmp_path, MESH) as journal:
        last = await journal.append([frame(1), frame(2)])
        await journal.save_snapshot(SnapshotRecord(0, last, b"state"))
        assert await journal.prune(0, {5: 2}) == 2
    async with open_journal(tmp_path, MESH) as journal:
        assert await journal.append([]) == last
        assert await journal.append([frame(3)]) == last + 1


async def test_appends_that_wait_are_committed_together(tmp_path: Path) -> None:
    async with open_journal(tmp_path, MESH) as journal:
        before = journal.commits
        await asyncio.gather(*(journal.append([frame(seq)]) for seq in range(1, 201)))
        assert journal.commits - before < 100, "one fsync must serve many"
        assert seqs(await journal.replay(0, 1000)) == list(range(1, 201))


async def test_closing_commits_what_waits_first(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, MESH)
    appends = [asyncio.ensure_future(journal.append([frame(seq)])) for seq in range(1, 51)]
    await asyncio.sleep(0)
    await journal.close()
    assert await asyncio.gather(*appends) == list(range(1, 51))
    with pytest.raises(StorageError, match="closed"):
        await journal.replay(0, 1)


async def test_the_event_loop_is_never_blocked(tmp_path: Path) -> None:
    mesh = provision_mesh(tmp_path)
    journal = await asyncio.to_thread(open_journal, mesh)
    detector = BlockBuster()
    detector.activate()
    try:
        await journal.append([frame(1)])
        await journal.replay(0, 10)
        await journal.save_snapshot(SnapshotRecord(0, 1, b"x"))
        await journal.prune(0, {5: 1})
        await journal.close()
    finally:
        detector.deactivate()


def provision_mesh(tmp_path: Path) -> Path:
    create_genesis(tmp_path / "authority", "fleet", 4)
    provision(tmp_path / "authority", tmp_path / "a", "agent-a")
    return tmp_path / "a"


async def test_a_folder_is_open_in_one_process_only(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, MESH)
    with pytest.raises(FolderError, match=f"is open in process {os.getpid()}"):
        open_journal(tmp_path, MESH)
    await journal.close()
    await open_journal(tmp_path, MESH).close()


async def test_a_folder_of_another_mesh_names_both(tmp_path: Path) -> None:
    await open_journal(tmp_path, MESH).close()
    other = make_mesh(9, "lab").mesh
    with pytest.raises(FolderError, match=r"mesh 'fleet' \(\w+\), not to mesh 'lab' \(\w+\)"):
        open_journal(tmp_path, other)
    await open_journal(tmp_path, MESH).close()


async def test_a_newer_format_names_the_cure(tmp_path: Path) -> None:
    await open_journal(tmp_path, MESH).close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        database.execute("UPDATE meta SET value = x'32' WHERE name = 'journal.format'")
    database.close()
    with pytest.raises(FolderError, match=r"format 2.*install a newer statemesh"):
        open_journal(tmp_path, MESH)


async def test_commits_reach_the_disk_and_not_only_its_cache(tmp_path: Path) -> None:
    async with open_journal(tmp_path, MESH) as journal:
        full = 2  # https://sqlite.org/pragma.html#pragma_synchronous
        assert journal._database.execute("PRAGMA synchronous").fetchone() == (full,)
        assert journal._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        # Without these macOS leaves what was fsynced in the disk's own cache.
        assert journal._database.execute("PRAGMA fullfsync").fetchone() == (1,)
        assert journal._database.execute("PRAGMA checkpoint_fullfsync").fetchone() == (1,)


def test_a_forked_child_does_not_keep_the_folder_locked(tmp_path: Path) -> None:
    """A child shares its parent's locks; multiprocessing forks, and its workers live on."""
    lock = FolderLock(tmp_path / "lock", owner=True)
    until, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.read(until, 1)
        os._exit(0)
    try:
        with pytest.raises(FolderError, match=f"is open in process {os.getpid()}"):
            FolderLock(tmp_path / "lock", owner=True)
        lock.release()
        FolderLock(tmp_path / "lock", owner=True).release()
    finally:
        os.close(end)
        os.waitpid(child, 0)
        os.close(until)
        lock.release()


async def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "a", MESH) as journal:
        await journal.append([frame(1)])
        for path in (tmp_path / "a").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


async def fill(folder: Path, frames: int = 50, size: int = 4000) -> Path:
    async with open_journal(folder, MESH) as journal:
        await journal.append([frame(seq, size) for seq in range(1, frames + 1)])
    return folder / "journal.sqlite"


async def test_a_torn_file_names_itself_and_the_cure(tmp_path: Path) -> None:
    path = await fill(tmp_path)
    data = bytearray(path.read_bytes())
    data[4096 : 4096 * 6] = bytes(4096 * 5)
    path.write_bytes(data)
    with pytest.raises(
        StorageError, match=r"journal.sqlite is damaged.*provision the replica anew"
    ):
        open_journal(tmp_path, MESH)
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(
        StorageError, match=r"journal.sqlite is damaged.*provision the replica anew"
    ):
        open_journal(tmp_path, MESH)


async def test_flipped_bits_that_sqlite_does_not_see(tmp_path: Path) -> None:
    path = await fill(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(bytes([30]) * 1000) + 500
    data[at] ^= 4
    path.write_bytes(data)
    async with open_journal(tmp_path, MESH) as journal:
        assert seqs(await journal.replay(0, 29)) == list(range(1, 30))
        with pytest.raises(StorageError, match="damaged: the frame at position 30"):
            await journal.replay(29, 1)
        with pytest.raises(StorageError, match="damaged: the frame at position 30"):
            await journal.frames(0, 5, 0, 50, 100)


async def test_a_full_disk_applies_nothing_half(tmp_path: Path) -> None:
    async with open_journal(tmp_path, MESH) as journal:
        await journal.append([frame(1)])
        pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
        journal._database.execute(f"PRAGMA max_page_count = {pages + 5}")
        results = await asyncio.gather(
            journal.append([frame(2), frame(3, 100_000)]),
            journal.append([frame(4)]),
            return_exceptions=True,
        )
        assert isinstance(results[0], StorageError)
        assert "disk is full; free some space" in str(results[0])
        kept = [1, 4] if isinstance(results[1], int) else [1]
        assert seqs(await journal.replay(0, 10)) == kept, "neither half of a flush"
        with pytest.raises(StorageError, match="full"):
            await journal.save_snapshot(SnapshotRecord(0, 1, bytes(100_000)))
        assert await journal.snapshots() == []
        assert await journal.size() == 10 * len(kept)
        journal._database.execute("PRAGMA max_page_count = 1000000")
        assert await journal.append([frame(2), frame(3, 100_000)]) == len(kept) + 2


async def test_a_read_only_disk_is_a_storage_error(tmp_path: Path) -> None:
    async with open_journal(tmp_path, MESH) as journal:
        journal._database.execute("PRAGMA query_only = 1")
        for write in (
            journal.append([frame(1)]),
            journal.set_meta({"a": b""}),
            journal.save_snapshot(SnapshotRecord(0, 1, b"x")),
        ):
            with pytest.raises(StorageError, match="may not be written to"):
                await write
        assert await journal.replay(0, 1) == []


async def test_a_programmers_mistakes_are_not_written(tmp_path: Path) -> None:
    async with open_journal(tmp_path, MESH) as journal:
        for bad in (
            frame(0),
            FrameRecord(-1, 5, 1, 1, True, b""),
            FrameRecord(0, 5, 2, 1, True, b""),
        ):
            with pytest.raises(ValueError, match="out of range"):
                await journal.append([frame(1), bad])
        with pytest.raises(ValueError, match="journal's own"):
            await journal.set_meta({"journal.mesh": b"x"})
        for limit in (0, MAX_READ_FRAMES + 1):
            with pytest.raises(ValueError, match="limit"):
                await journal.replay(0, limit)
        assert await journal.replay(0, 1) == []


async def test_giving_up_on_an_append_does_not_undo_it(tmp_path: Path) -> None:
    async with open_journal(tmp_path, MESH) as journal:
        gate = threading.Event()
        journal._thread.submit(gate.wait, 30)
        task = asyncio.ensure_future(journal.append([frame(1)]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gate.set()
        assert seqs(await journal.replay(0, 10)) == [1], "handed over, so kept, and in its turn"
        assert await journal.append([frame(2)]) == 2


CHILD = """
import asyncio, sys
from pathlib import Path
from persistence.base import FrameRecord
from persistence.sqlite import open_journal

async def main() -> None:
    journal = open_journal(Path(sys.argv[1]))
    async def write(session: int) -> None:
        for seq in range(1, 100_000):
            await journal.append([FrameRecord(0, session, seq, seq, True, b"x" * 500)])
            print(session, seq, flush=True)
    await asyncio.gather(*(write(session) for session in range(1, 9)))

asyncio.run(main())
"""


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    folder = provision_mesh(tmp_path)
    acknowledged: dict[int, int] = {}
    with running([sys.executable, "-c", CHILD, str(folder)]) as (child, output):
        for count, line in enumerate(output):
            if not line.endswith("\n"):
                break  # the kill tore it: nobody was told
            session, seq = map(int, line.split())
            acknowledged[session] = seq
            if count == 400:
                child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert len(acknowledged) == 8
    asyncio.run(check_kept(folder, acknowledged))


async def check_kept(folder: Path, acknowledged: dict[int, int]) -> None:
    async with open_journal(folder) as journal:
        for session, seq in acknowledged.items():
            kept = await journal.frames(0, session, 0, 2**50, MAX_READ_FRAMES)
            assert [record.first for record in kept] == list(range(1, len(kept) + 1))
            assert len(kept) >= seq, f"session {session}: {seq} acknowledged, {len(kept)} kept"


def test_a_journal_says_what_it_is(tmp_path: Path) -> None:
    async def run() -> None:
        journal = open_journal(tmp_path, MESH)
        assert "position=0" in repr(journal)
        assert journal.path == tmp_path / "journal.sqlite"
        await journal.close()
        assert "closed" in repr(journal)

    asyncio.run(run())


def test_types_fit_the_port(tmp_path: Path) -> None:
    journals: list[type[Journal]] = [MemoryJournal, SqliteJournal]
    assert len(journals) == 2


async def test_its_size_costs_no_look_at_every_frame(tmp_path: Path) -> None:
    """It is asked for every ten seconds, of journals of a gigabyte."""
    async with open_journal(tmp_path, MESH) as journal:
        last = await journal.append([frame(at, at) for at in (1, 2, 3)])
        await journal.save_snapshot(SnapshotRecord(0, last, b"state"))
        await journal.prune(0, {5: 1})
        asked: list[str] = []
        journal._database.set_trace_callback(asked.append)
        assert await journal.size() == 10
        assert not [sql for sql in asked if "frames" in sql]
    async with open_journal(tmp_path, MESH) as journal:
        assert await journal.size() == 10

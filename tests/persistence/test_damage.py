"""Damage at random places: found and named, or without effect. Never wrong data."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from persistence.base import FolderError, JournalDamaged, StorageError
from persistence.inspect import check_folder, load_folder
from persistence.sqlite import open_journal
from persistence.sqlite_checks import explain
from tests.persistence.damage_world import FILES, Left, cut_power, hurt, make_folder, read, use

ROUNDS = 150


async def try_damages(left: Left, seed: int, tmp_path: Path) -> tuple[int, int]:
    """(how often it was found, how often it had no effect)."""
    rng = random.Random(seed)
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "authority").symlink_to(tmp_path / "authority")
    found = named = silent = 0
    files = [name for name in FILES if (left.folder / name).exists()]
    for number in range(ROUNDS):
        folder = left.copy(tmp_path / "trial" / str(number))
        what = hurt(folder / rng.choice(files), rng)
        try:
            recovered, frames, meta = await read(folder)
        except (StorageError, FolderError) as error:
            found += 1
            named += "journal" in str(error)
        else:
            assert {record.data for record in left.acknowledged} <= {
                record.data for record in frames
            }, f"{what}: acknowledged frames are missing"
            allowed = left.acknowledged + left.later
            assert all(record in allowed for record in frames), f"{what}: wrong frames"
            for record in left.acknowledged:
                assert recovered.shards[record.shard].seen(record.session, record.last), what
            assert meta in ({}, {"bus.cursor": b"17"}), f"{what}: {meta}"
            silent += 1
        await asyncio.to_thread(shutil.rmtree, folder)
    assert named == found, "every complaint names the file"
    return found, silent


async def test_any_damage_to_a_folder_closed_in_order(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    found, _ = await try_damages(left, 1, tmp_path)
    assert found > ROUNDS / 2, "most of the file means something"


async def test_any_damage_after_a_power_cut(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    cut = await cut_power(writer, left, tmp_path / "cut")
    assert (cut.folder / "journal.sqlite-wal").stat().st_size > 100_000
    found, _, _ = await read(cut.copy(tmp_path / "sound"))
    assert found.frames + found.voids > 0, "the power cut itself loses nothing"
    found_often, _ = await try_damages(cut, 2, tmp_path)
    assert found_often > ROUNDS / 2


async def test_files_that_are_gone(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    cut = await cut_power(writer, left, tmp_path / "cut")
    for name, complaint in (
        ("journal.sqlite", "nothing is there"),
        ("journal.sqlite-wal", "its tail is torn"),
        ("identity/replica.key", "cannot read .*replica.key"),
        ("identity", "holds no identity"),
    ):
        folder = cut.copy(tmp_path / "x")
        if name == "identity":
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink()
        with pytest.raises((StorageError, FolderError), match=complaint):
            open_journal(folder)
        with pytest.raises((StorageError, FolderError), match=complaint):
            load_folder(folder)
        report = check_folder(folder)
        assert not report.sound
        assert name.partition("/")[0].removesuffix("-wal") in report.findings[0].file
        assert report.findings[0].cure
        shutil.rmtree(folder)


async def test_an_empty_journal_is_no_new_one(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    (left.folder / "journal.sqlite").write_bytes(b"")
    with pytest.raises(JournalDamaged, match=r"journal.sqlite is damaged.*mesh repair"):
        open_journal(left.folder)
    assert (left.folder / "journal.sqlite").stat().st_size == 0, "left as it was"


async def test_a_torn_log_is_left_for_the_repair(tmp_path: Path) -> None:
    """SQLite would cut it off for good as soon as the file is closed again."""
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    cut = await cut_power(writer, left, tmp_path / "cut")
    wal = cut.folder / "journal.sqlite-wal"
    data = bytearray(wal.read_bytes())
    data[len(data) // 2] ^= 1
    wal.write_bytes(data)
    with pytest.raises(JournalDamaged, match="its tail is torn"):
        open_journal(cut.folder)
    assert wal.read_bytes() == data


async def test_a_snapshot_that_claims_too_much_hides_no_frame(tmp_path: Path) -> None:
    """Its position is covered by no signature: what it passes over must be in it."""
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    with sqlite3.connect(left.folder / "journal.sqlite") as database:
        database.execute("UPDATE snapshots SET position = 40")
    database.close()
    found, _, _ = await read(left.folder)
    for record in left.acknowledged:
        assert found.shards[record.shard].seen(record.session, record.last)


async def test_a_frame_of_ours_is_not_taken_for_anothers(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    with sqlite3.connect(left.folder / "journal.sqlite") as database:
        database.execute("UPDATE frames SET own = 0 WHERE position = 7")
    database.close()
    with pytest.raises(JournalDamaged, match="position 7"):
        await read(left.folder)


async def test_damaged_cursors_are_unknown_cursors(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    with sqlite3.connect(left.folder / "journal.sqlite") as database:
        (value,) = database.execute("SELECT value FROM meta WHERE name = 'bus.cursor'").fetchone()
        database.execute(
            "UPDATE meta SET value = ? WHERE name = 'bus.cursor'", (value[:-1] + b"9",)
        )
    database.close()
    _, frames, meta = await read(left.folder)
    assert meta == {}
    assert len(frames) == len(left.acknowledged)
    report = check_folder(left.folder)
    assert ["bus.cursor" in finding.problem for finding in report.findings] == [True]
    assert not report.repairable, "the next start finds out anew"


async def test_a_check_proves_a_sound_folder_and_changes_nothing(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    cut = await cut_power(writer, left, tmp_path / "cut")
    for folder in (left.folder, cut.folder):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        report = check_folder(folder)
        assert report.sound, report.findings
        assert (report.replica, report.snapshots) == ("agent-a", 1)
        assert report.frames >= len(left.acknowledged)
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_a_check_finds_every_bad_frame(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left, snapshot=False)
    with sqlite3.connect(left.folder / "journal.sqlite") as database:
        for position in (39, 40):
            database.execute("UPDATE frames SET crc = crc + 1 WHERE position = ?", (position,))
    database.close()
    report = check_folder(left.folder)
    problems = [finding.problem for finding in report.findings]
    assert len(problems) == 2
    assert "position 39" in problems[0]
    assert "position 40" in problems[1]


FULL = """
import asyncio, resource, sys
from pathlib import Path
from persistence.base import FrameRecord, StorageError
from persistence.sqlite import open_journal

async def main() -> None:
    journal = open_journal(Path(sys.argv[1]))
    kept = 0
    limit = 400_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for seq in range(1, 1000):
        try:
            await journal.append([FrameRecord(0, 9, seq, seq, True, b"f" * 4000)])
        except StorageError as error:
            print(kept, error, flush=True)
            break
        kept = seq
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await journal.append([FrameRecord(0, 9, kept + 1, kept + 1, True, b"f" * 4000)])
    rows = await journal.frames(0, 9, 0, 10_000, 10_000)
    print([row.first for row in rows] == list(range(1, kept + 2)))
    await journal.close()

asyncio.run(main())
"""


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """A limit of the system on file sizes: the write-ahead log can't grow."""
    make_folder(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "a")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert int(first.split()[0]) > 10, done.stderr
    assert "journal.sqlite" in first
    assert second == "True", "what was acknowledged is there, and it goes on when there is room"


def test_errors_of_the_disk_name_the_file_and_the_cure() -> None:
    for code, cure in (
        (sqlite3.SQLITE_IOERR_FSYNC, "check it"),
        (sqlite3.SQLITE_IOERR_WRITE, "check it"),
        (sqlite3.SQLITE_FULL, "free some space"),
        (sqlite3.SQLITE_READONLY, "permissions"),
    ):
        fault = sqlite3.OperationalError("no")
        fault.sqlite_errorcode = code
        told = explain(fault, Path("x/journal.sqlite"))
        assert "x/journal.sqlite" in str(told)
        assert cure in str(told)
        assert not isinstance(told, JournalDamaged), "it may pass: nothing is damaged"


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    make_folder(tmp_path)
    journal = open_journal(tmp_path / "a")
    program = "import sys; from pathlib import Path; from persistence.sqlite import open_journal; "
    other = subprocess.run(
        [sys.executable, "-c", program + "open_journal(Path(sys.argv[1]))", str(tmp_path / "a")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert other.returncode
    assert "is open in process" in other.stderr
    asyncio.run(journal.close())

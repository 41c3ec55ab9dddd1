"""A journal built anew: nothing of ours that can be read is lost, and what is lost is said."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from pathlib import Path

import pytest

from crdt.operation import Operation, Removal, Transaction
from crdt.structure import unpack
from mesh.cli import run
from persistence.base import REBUILT, WAITING, FolderError, FrameRecord, StorageError
from persistence.inspect import check_folder
from persistence.pages import scan_rows
from persistence.salvage import damaged_journals, rebuild
from persistence.sqlite import open_journal
from tests.persistence.damage_world import Left, cut_power, hurt, make_folder, read, use
from tests.persistence.world import TITLE, SeededEntropy, adopt


def spoil(folder: Path, *positions: int) -> None:
    """Frames of a closed journal become unreadable."""
    with sqlite3.connect(folder / "journal.sqlite") as database:
        for position in positions:
            database.execute("UPDATE frames SET crc = crc + 1 WHERE position = ?", (position,))
    database.close()


async def test_frames_before_and_after_an_unreadable_one_are_kept(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left, snapshot=False)
    spoil(left.folder, 18)  # the fifth frame of its shard
    with pytest.raises(StorageError, match="position 18"):
        await read(left.folder)
    salvage = await rebuild(left.folder, "position 18")
    lost = left.acknowledged[17]
    assert (salvage.own, salvage.waiting, salvage.others) == (34, 5, 0)
    assert salvage.missing == [(lost.shard, lost.session, lost.first - 1, lost.last)]
    found, frames, meta = await read(left.folder)
    waiting = {unpack(value)[1] for name, value in meta.items() if name.startswith(WAITING)}
    kept = {record.data for record in frames} | waiting
    assert kept == {record.data for record in left.acknowledged if record != lost}
    assert all(record.own for record in frames), "still owed to everybody"
    assert found.frames == 34
    assert b"lost unless another replica has them" in meta[REBUILT]


async def test_a_removal_waits_for_what_it_claims_though_its_deps_do_not(tmp_path: Path) -> None:
    """Applied without it, it would pass by what others bring later."""
    honest, folder = make_folder(tmp_path), tmp_path / "a"
    liar = adopt(honest.identity, SeededEntropy(6))
    (added,) = honest.write((1, "Task/1", "x"))
    removal = Removal(TITLE, False, ((added.session, 1),))
    nothing = Operation("Task/1", TITLE, None, (removal,))
    (raw,) = liar.sealer.seal([liar.draft(1, [Transaction("edit", "x", 1, "", (nothing,))])])
    async with open_journal(folder) as journal:
        await journal.append([added, FrameRecord(1, liar.sealer.session, 1, 1, True, raw)])
    spoil(folder, 1)
    salvage = await rebuild(folder, "why")
    assert (salvage.own, salvage.waiting) == (0, 1)


async def test_the_damaged_files_stay_with_a_report(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    spoil(left.folder, 40)
    before = (left.folder / "journal.sqlite").read_bytes()
    await rebuild(left.folder, "why")
    (damaged,) = damaged_journals(left.folder)
    assert damaged.read_bytes() == before
    report = json.loads(damaged.with_suffix(".json").read_bytes())
    assert (report["replica"], report["reason"]) == ("agent-a", "why")
    assert not list(left.folder.glob(".rebuild-*"))
    assert check_folder(left.folder).sound


async def test_the_note_goes_with_the_damaged_files(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    spoil(left.folder, 40)
    await rebuild(left.folder, "why")
    assert REBUILT in (await read(left.folder))[2]
    for path in left.folder.glob("journal.damaged-*"):
        path.unlink()
    assert REBUILT not in (await read(left.folder))[2]


async def test_a_log_with_a_flipped_bit_gives_what_lies_behind_it(tmp_path: Path) -> None:
    """SQLite itself takes the log to end there."""
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    cut = await cut_power(writer, left, tmp_path / "cut")
    wal = cut.folder / "journal.sqlite-wal"
    data = bytearray(wal.read_bytes())
    data[32 + 24 + 60] ^= 1
    wal.write_bytes(data)
    salvage = await rebuild(cut.folder, "torn")
    _, frames, meta = await read(cut.folder)
    kept = {record.data for record in frames}
    kept |= {unpack(value)[1] for name, value in meta.items() if name.startswith(WAITING)}
    own = {record.data for record in cut.acknowledged}
    assert len(own - kept) <= 1, "at most what the bit was in"
    assert salvage.own + salvage.waiting >= len(own) - 1


async def test_a_lost_log_is_said(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    cut = await cut_power(writer, left, tmp_path / "cut")
    (cut.folder / "journal.sqlite-wal").unlink()
    salvage = await rebuild(cut.folder, "torn")
    assert salvage.tail == 30
    assert salvage.own == 40
    assert "30 frames at the end" in salvage.sentence()


async def test_a_lost_file_is_said(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    (left.folder / "journal.sqlite").unlink()
    salvage = await rebuild(left.folder, "gone")
    assert (salvage.own, salvage.snapshots, salvage.tail) == (0, 0, 40)
    found, frames, _ = await read(left.folder)
    assert (found.frames, frames) == (0, [])


async def test_a_snapshot_is_used_and_its_owed_frames_stay(tmp_path: Path) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    async with open_journal(left.folder) as journal:
        # Frames of shard 1 up to the snapshot, but for the last two, were delivered and went.
        of_shard = [record for record in left.acknowledged[:21] if record.shard == 1]
        pruned = of_shard[:-2]
        await journal.prune(1, {pruned[-1].session: pruned[-1].last})
        await journal.append([])
    spoil(left.folder, 40)
    salvage = await rebuild(left.folder, "why")
    assert salvage.snapshots == 1
    found, frames, _ = await read(left.folder)
    assert {record.data for record in of_shard[-2:]} <= {record.data for record in frames}
    for record in left.acknowledged[:39]:
        assert found.shards[record.shard].seen(record.session, record.last)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_damage_a_rebuilt_folder_starts(tmp_path: Path, seed: int) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left)
    cut = await cut_power(writer, left, tmp_path / "cut")
    rng = random.Random(seed)
    for number in range(10):
        folder = cut.copy(tmp_path / f"x{number}")
        for name in ("journal.sqlite", "journal.sqlite-wal", "journal.mark"):
            if rng.random() < 0.7:
                hurt(folder / name, rng)
        await rebuild(folder, "any")
        assert check_folder(folder).sound
        found, frames, _ = await read(folder)
        allowed = {record.data for record in cut.acknowledged + cut.later}
        assert {record.data for record in frames} <= allowed
        assert found.position == len(frames)


async def test_a_crash_at_any_step_leaves_all_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    await use(writer, left, snapshot=False)
    spoil(left.folder, 40)
    rename = Path.replace
    for allowed in range(3):
        folder = left.copy(tmp_path / f"x{allowed}")
        steps = iter(range(allowed))

        def crash(path: Path, target: Path, steps: object = steps) -> Path:
            if next(steps, None) is None:  # type: ignore[call-overload]
                raise OSError("the power went")
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", crash)
            if allowed < 2:
                with pytest.raises(StorageError, match="the power went"):
                    await rebuild(folder, "first")
        salvage = await rebuild(folder, "again")
        assert salvage.own == 39, "also what lies in the file of the first attempt"
        assert (await read(folder))[0].frames == 39


async def test_a_folder_in_use_or_without_identity_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path)
    async with open_journal(tmp_path / "a"):
        with pytest.raises(FolderError, match="is open in process"):
            await rebuild(tmp_path / "a", "why")
    with pytest.raises(FolderError, match="holds no identity"):
        await rebuild(tmp_path / "authority", "why")


def test_pages_of_garbage_give_no_rows_and_end() -> None:
    rng = random.Random(7)
    for _ in range(50):
        pages = bytes([0x0D]) + rng.randbytes(3 * 4096)
        for _, columns in scan_rows(pages, rng.randbytes(9_000), 1 << 20):
            assert len(columns) <= 16


def test_check_and_repair_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer, left = make_folder(tmp_path), Left(tmp_path / "a")
    asyncio.run(use(writer, left))
    folder = str(left.folder)
    assert run(["check", folder]) == 0
    assert "40 frames, 1 snapshots, sound" in capsys.readouterr().out
    assert run(["repair", folder]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    spoil(left.folder, 40)
    assert run(["check", folder, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["sound"]
    assert "position 40" in report["findings"][0]["problem"]
    assert "mesh repair" in report["findings"][0]["cure"]
    assert run(["repair", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["own"] == 39
    assert run(["check", folder]) == 0
    assert run(["check", str(tmp_path / "nothing")]) == 2

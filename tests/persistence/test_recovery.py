"""What a journal's content amounts to, and reading a folder from outside."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.lattice import Shard
from persistence.base import FolderError, FrameRecord, Journal, StorageError
from persistence.frame import frame_hash
from persistence.identity import create_genesis, open_identity, provision
from persistence.inspect import load_folder
from persistence.journal import apply_frame, read_transactions, recover, recover_journal
from persistence.limits import MAX_FRAME_OPERATIONS
from persistence.memory import MemoryJournal
from persistence.sealing import Draft
from persistence.sqlite import open_journal
from tests.persistence.world import (
    NOW,
    SeededEntropy,
    Writer,
    adopt,
    make_mesh,
    make_opener,
    make_writer,
    running,
    transaction,
)

MESH = make_mesh()


async def exchange(journal: Journal, a: Writer, b: Writer, rounds: int = 6) -> None:
    """Both write by turns; `journal` is a's, and gets what a applies, in that order."""
    for at in range(rounds):
        await journal.append(a.write((at % 4, f"Task/{at}", at), ((at + 1) % 4, "Task/x", at)))
        for record in b.write((at % 4, f"Task/{at}", -at)):
            await journal.append([a.receive(record)])


def digests(writer: Writer) -> dict[int, bytes]:
    return {number: shard.digest() for number, shard in writer.shards.items()}


async def test_recovery_gives_the_state_back(tmp_path: Path) -> None:
    a, b = make_writer(MESH, "agent-a", 2), make_writer(MESH, "agent-b", 3)
    journal = MemoryJournal()
    await exchange(journal, a, b)
    found = await recover_journal(journal, make_opener(MESH))
    assert {number: shard.digest() for number, shard in found.shards.items()} == digests(a)
    assert {n: shard.frontier for n, shard in found.shards.items()} == {
        n: shard.frontier for n, shard in a.shards.items()
    }
    assert {n: shard.heads for n, shard in found.shards.items()} == {
        n: shard.heads for n, shard in a.shards.items()
    }
    assert found.chain == {n: a.chain.get(n, {}) for n in range(4)}
    assert (found.frames, found.voids) == (18, 0)
    assert found.position == 18


async def test_recovery_from_snapshots_and_what_came_after() -> None:
    a, b = make_writer(MESH, "agent-a", 2), make_writer(MESH, "agent-b", 3)
    journal = MemoryJournal()
    await exchange(journal, a, b)
    position = await journal.append([])
    for shard in (0, 1, 2):
        await journal.save_snapshot(a.snapshot(shard, position))
        await journal.prune(shard, a.shards[shard].frontier)
    left = await journal.replay(0, 100)
    assert {record.shard for _, record in left} == {3}, "pruned what the snapshots contain"
    await exchange(journal, a, b, 3)
    found = await recover_journal(journal, make_opener(MESH))
    assert {number: shard.digest() for number, shard in found.shards.items()} == digests(a)
    assert {n: shard.heads for n, shard in found.shards.items()} == {
        n: shard.heads for n, shard in a.shards.items()
    }
    assert found.chain == {n: a.chain.get(n, {}) for n in range(4)}


async def test_frames_that_a_snapshot_contains_are_not_applied_again() -> None:
    a, b = make_writer(MESH, "agent-a", 2), make_writer(MESH, "agent-b", 3)
    journal = MemoryJournal()
    await exchange(journal, a, b)
    await journal.save_snapshot(a.snapshot(0, await journal.append([])))
    held = [record for _, record in await journal.replay(0, 100)]
    found = await recover_journal(journal, make_opener(MESH))
    assert found.frames == sum(record.shard != 0 for record in held)
    assert {number: shard.digest() for number, shard in found.shards.items()} == digests(a)


def test_a_snapshot_may_be_ahead_of_frames_that_come_after_it() -> None:
    """It was joined from a peer while frames it contains were still on their way to the disk."""
    a, b = make_writer(MESH, "agent-a", 2), make_writer(MESH, "agent-b", 3)
    (one,), (two,), (three,) = (b.write((0, "Task/1", at)) for at in range(3))
    for record in (one, two):
        a.receive(record)
    ahead = a.snapshot(0, 7)
    a.receive(three)
    found = recover([ahead], [(8, one), (9, three)], make_opener(MESH))
    assert found.shards[0].digest() == a.shards[0].digest()
    assert found.frames == 1
    found = recover([ahead], [(8, one)], make_opener(MESH))
    assert found.chain[0] == {b.sealer.session: frame_hash(two.data)}
    assert (found.frames, found.position) == (0, 8)


async def test_a_hole_is_told_and_not_jumped_over() -> None:
    a = make_writer(MESH, "agent-a")
    (first,), (_,), (third,) = (a.write((0, "Task/1", at)) for at in range(3))
    with pytest.raises(StorageError, match=r"position 2.*comes before what it depends on"):
        recover([], [(1, first), (2, third)], make_opener(MESH))
    b = make_writer(MESH, "agent-b", 3)
    b.receive(first)
    (depends,) = b.write((0, "Task/1", "after"))
    with pytest.raises(StorageError, match=r"position 1.*comes before what it depends on"):
        recover([], [(1, depends)], make_opener(MESH))


async def test_forged_or_misplaced_records_are_told() -> None:
    a = make_writer(MESH, "agent-a")
    (record,) = a.write((0, "Task/1", 1))
    moved = FrameRecord(1, record.session, 1, 1, True, record.data)
    with pytest.raises(StorageError, match="kept under shard 1 and belongs to 0"):
        recover([], [(1, moved)], make_opener(MESH))
    for wrong in (replace(record, session=1), replace(record, last=2)):
        with pytest.raises(StorageError, match="position 1 is kept as"):
            recover([], [(1, wrong)], make_opener(MESH))
    forged = FrameRecord(0, record.session, 1, 1, True, record.data[:-1] + b"!")
    with pytest.raises(StorageError, match="position 1 is refused"):
        recover([], [(1, forged)], make_opener(MESH))
    snapshot = a.snapshot(0, 1)
    torn = type(snapshot)(0, 1, snapshot.data[:-1])
    with pytest.raises(StorageError, match="snapshot of shard 0 is refused"):
        recover([torn], [], make_opener(MESH))


@pytest.mark.parametrize("body", [b"no body at all", b"", b"\xc0"], ids=["garbage", "empty", "nil"])
def test_a_void_frame_uses_its_seqs_up(body: bytes) -> None:
    """Signed by its session, refused by everybody alike: later frames of the session must still
    apply.
    """
    a, b = make_writer(MESH, "agent-a", 2), make_writer(MESH, "agent-b", 3)
    (raw,) = a.sealer.seal([Draft(0, 1, 5, (), NOW << 16, None, body)])
    a.seqs[0] = 5
    void = b.receive(FrameRecord(0, a.sealer.session, 1, 5, False, raw))
    assert b.shards[0].frontier == {a.sealer.session: 5}
    assert b.shards[0].heads == {a.sealer.session: 5}
    assert b.shards[0].entry_count == 0
    (good,) = a.sealer.seal([a.draft(0, [transaction("Task/1", "x")])])
    record = b.receive(FrameRecord(0, a.sealer.session, 6, 6, False, good))
    found = recover([], [(1, void), (2, record)], make_opener(MESH))
    assert found.voids == 1
    assert found.shards[0].digest() == b.shards[0].digest()


def test_a_body_with_another_number_of_operations_is_void() -> None:
    a = make_writer(MESH, "agent-a")
    draft = a.draft(0, [transaction("Task/1", "x", operations=2)])
    (raw,) = a.sealer.seal([draft._replace(last=3)])
    header, body = make_opener(MESH).open(raw)
    assert read_transactions(header, body) is None


def test_a_void_frame_costs_no_more_than_its_bytes() -> None:
    """However many operations its header claims: nobody may make others work by a claim."""
    a = make_writer(MESH, "agent-a")
    (raw,) = a.sealer.seal([Draft(0, 1, MAX_FRAME_OPERATIONS, (), 1, None, b"x")])
    header, body = make_opener(MESH).open(raw)
    shard = Shard()
    performed: list[int] = []
    shard.apply_transactions = (  # type: ignore[method-assign]
        lambda *_: performed.append(1)
    )
    apply_frame(shard, header, read_transactions(header, body))
    assert performed == []
    assert shard.frontier == shard.heads == {a.sealer.session: MAX_FRAME_OPERATIONS}
    apply_frame(shard, header, None)
    assert shard.frontier == {a.sealer.session: MAX_FRAME_OPERATIONS}


# ---------------------------------------------------------------------------- folders from outside


def fingerprint(folder: Path) -> dict[str, tuple[int, int, str]]:
    found = {}
    for path in sorted((folder, *folder.rglob("*"))):
        facts = path.stat()
        digest = "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = (facts.st_mtime_ns, facts.st_mode, digest)
    return found


def open_folder(tmp_path: Path) -> tuple[Path, Writer, Writer]:
    create_genesis(tmp_path / "authority", "fleet", 4)
    a = provision(tmp_path / "authority", tmp_path / "a", "agent-a")
    b = provision(tmp_path / "authority", tmp_path / "b", "agent-b")
    return tmp_path / "a", adopt(a, SeededEntropy(2)), adopt(b, SeededEntropy(3))


async def test_a_folder_is_read_without_being_changed(tmp_path: Path) -> None:
    folder, a, b = open_folder(tmp_path)
    async with open_journal(folder) as journal:
        await exchange(journal, a, b)
    before = fingerprint(folder)
    loaded = load_folder(folder)
    assert (loaded.replica, loaded.mesh.name) == ("agent-a", "fleet")
    assert loaded.digest() == {n: digest.hex() for n, digest in digests(a).items()}
    assert loaded.frontier() == {n: shard.frontier for n, shard in a.shards.items()}
    assert loaded.author(b.sealer.session) == "agent-b"
    assert loaded.author(12345) == ""
    rows = list(loaded.transactions())
    assert len(rows) == 18
    last: dict[tuple[int, int], int] = {}
    for header, each, first_seq in rows:
        assert first_seq == last.get((header.shard, header.session), 0) + 1
        last[header.shard, header.session] = first_seq + len(each.operations) - 1
    assert [each.operations[0].document for _, each, _ in rows[:3]] == [
        "Task/0",
        "Task/x",
        "Task/0",
    ]
    assert fingerprint(folder) == before


async def test_a_folder_with_snapshots_and_pruned_frames(tmp_path: Path) -> None:
    folder, a, b = open_folder(tmp_path)
    async with open_journal(folder) as journal:
        await exchange(journal, a, b)
        position = await journal.append([])
        for shard in range(4):
            await journal.save_snapshot(a.snapshot(shard, position))
            await journal.prune(shard, a.shards[shard].frontier)
        await exchange(journal, a, b, 1)
    loaded = load_folder(folder)
    assert loaded.digest() == {n: digest.hex() for n, digest in digests(a).items()}
    assert [header.session for header, _, _ in loaded.transactions()].count(b.sealer.session) == 1


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from persistence.identity import open_identity
from persistence.sqlite import open_journal
from tests.persistence.world import SeededEntropy, adopt

async def main() -> None:
    folder = Path(sys.argv[1])
    writer = adopt(open_identity(folder), SeededEntropy(2))
    journal = open_journal(folder)
    for at in range(20):
        await journal.append(writer.write((at % 4, f"Task/{at}", at)))
    print(*(shard.digest().hex() for shard in writer.shards.values()), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_killed_replicas_folder_is_read_from_a_copy(tmp_path: Path) -> None:
    folder, _, _ = open_folder(tmp_path)
    environ = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with running([sys.executable, "-c", KILLED, str(folder)], environ) as (child, output):
        expected = output.readline().split()
        with pytest.raises(FolderError, match=f"is open in process {child.pid}"):
            load_folder(folder)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert (folder / "journal.sqlite-wal").stat().st_size > 0, "the case this test is about"
    before = fingerprint(folder)
    loaded = load_folder(folder)
    assert list(loaded.digest().values()) == expected
    assert len(list(loaded.transactions())) == 20
    assert fingerprint(folder) == before


def test_folders_that_hold_nothing_to_read(tmp_path: Path) -> None:
    folder, _, _ = open_folder(tmp_path)
    with pytest.raises(FolderError, match="no replica has run in it"):
        load_folder(folder)
    with pytest.raises(FolderError, match="holds no identity"):
        load_folder(tmp_path / "nowhere")
    # What a replica leaves that was stopped before its journal was made.
    (folder / "journal.sqlite").touch()
    with pytest.raises(FolderError, match="no replica has run in it"):
        load_folder(folder)
    asyncio.run(open_journal(folder).close())
    assert list(load_folder(folder).transactions()) == []
    (folder / "lock").unlink()
    before = fingerprint(folder)
    assert load_folder(folder).replica == "agent-a"
    assert fingerprint(folder) == before


async def test_a_damaged_or_foreign_journal_is_told(tmp_path: Path) -> None:
    folder, a, b = open_folder(tmp_path)
    async with open_journal(folder) as journal:
        await exchange(journal, a, b)
    other = make_mesh(9, "lab").mesh
    await open_journal(tmp_path / "other", other).close()
    (tmp_path / "b" / "journal.sqlite").write_bytes(
        (tmp_path / "other" / "journal.sqlite").read_bytes()
    )
    with pytest.raises(FolderError, match="belongs to mesh 'lab'"):
        load_folder(tmp_path / "b")
    (folder / "journal.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match="damaged"):
        load_folder(folder)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 5)), max_size=12))
def test_recovering_any_prefix_with_any_snapshot_gives_the_same(
    writes: list[tuple[int, int, int]],
) -> None:
    """Wherever the snapshot was taken, snapshot + rest = all frames from the beginning."""
    a, b = make_writer(MESH, "agent-a", 2), make_writer(MESH, "agent-b", 3)
    rows: list[tuple[int, FrameRecord]] = []
    snapshots = []
    for by, shard, value in writes:
        (record,) = (a, b)[by].write((shard, f"Task/{value}", value))
        (b, a)[by].receive(record)
        rows.append((len(rows) + 1, record))
        snapshots.append(a.snapshot(shard, len(rows)))
    whole = recover([], rows, make_opener(MESH))
    for snapshot in snapshots:
        rest = [row for row in rows if row[0] > snapshot.position or row[1].shard != snapshot.shard]
        found = recover([snapshot], rest, make_opener(MESH))
        for number, expected in whole.shards.items():
            assert found.shards[number].digest() == expected.digest() == a.shards[number].digest()
            assert found.shards[number].frontier == expected.frontier
            assert found.shards[number].heads == expected.heads
        assert found.chain == whole.chain
    for _, record in rows:
        assert frame_hash(record.data)


def test_an_identity_says_where_its_files_are(tmp_path: Path) -> None:
    folder, a, _ = open_folder(tmp_path)
    identity = open_identity(folder)
    assert identity.key_path.is_file()
    assert a.identity.certificate == identity.certificate

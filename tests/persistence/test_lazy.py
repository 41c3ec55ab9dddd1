"""Shards that are read when somebody asks for what they hold: as if they had been all the time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from crdt.codec import encode_stamped
from crdt.digest import MODULUS
from crdt.lattice import Shard
from crdt.operation import Operation
from crdt.snapshot import ShardSnapshot, SnapshotHead, decode_snapshot, encode_snapshot
from persistence.base import JournalDamaged, SnapshotRecord
from persistence.journal import recover, recover_journal
from persistence.lazy import LazyShard
from persistence.memory import MemoryJournal
from tests.persistence.world import TITLE, Writer, make_mesh, make_opener, make_writer

MESH = make_mesh()
KEY = MESH.mesh.digest_key
PATIENCE_S = 10.0


def written(*, texts: int = 5) -> Writer:
    """A session that has written a few documents to shard 0, and one to each of the others."""
    writer = make_writer(MESH, "agent-a")
    for number in range(texts):
        writer.write((0, f"Task/{number}", f"text {number}"))
    writer.write((1, "Task/1", "x"), (2, "Task/2", "y"), (3, "Task/3", "z"))
    return writer


def lazy(snapshot: ShardSnapshot, read: Callable[[], Shard] | None = None) -> LazyShard:
    def content() -> Shard:
        shard = Shard(KEY)
        shard.join(decode_snapshot(encode_snapshot(snapshot)))
        return shard

    head = SnapshotHead(snapshot.floor, snapshot.frontier, snapshot.heads, snapshot.digest)
    return LazyShard(KEY, head, read or content)


def unasked() -> Shard:
    raise AssertionError("nobody asked for what it holds")


READERS: dict[str, Callable[[Shard], object]] = {
    "entry_count": lambda shard: shard.entry_count,
    "entries": lambda shard: shard.entries("Task/1", TITLE),
    "last_entries": lambda shard: shard.last_entries("Task/1", TITLE),
    "under": lambda shard: sorted(shard.under("Task/1", b"")),
    "exists": lambda shard: shard.exists("Task/1"),
    "documents": lambda shard: sorted(shard.documents("Task")),
    "generation": lambda shard: shard.generation("Task/1"),
    "text": lambda shard: shard.text("Task/1", TITLE),
    "text_paths": lambda shard: shard.text_paths("Task/1"),
    "document_digest": lambda shard: shard.document_digest("Task/1"),
    "snapshot": lambda shard: encode_snapshot(shard.snapshot()),
    "join": lambda shard: shard.join(ShardSnapshot()),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_whoever_asks_for_what_it_holds_gets_all_of_it(read: Callable[[Shard], object]) -> None:
    writer = written()
    shard = lazy(writer.shards[0].snapshot())
    assert read(shard) == read(writer.shards[0])
    assert type(shard) is Shard
    assert shard.digest() == writer.shards[0].digest()


def test_what_it_is_and_what_touches_nothing_is_there_without_it() -> None:
    writer = written()
    plain = writer.shards[0]
    session = writer.sealer.session
    shard = lazy(plain.snapshot(), unasked)
    assert not shard.is_empty
    assert shard.seen(session, 5)
    assert not shard.seen(session, 6)
    for one in (plain, shard):
        one.use_up(session, 6, 9)
        one.frame_applied(session, 6, 9, ())
    assert (shard.frontier, shard.heads, shard.digest()) == (
        plain.frontier, plain.heads, plain.digest()
    )  # fmt: skip
    assert "not read" in repr(shard)
    with pytest.raises(AttributeError, match="no colour"):
        _ = shard.colour


def test_what_was_applied_before_it_was_read_stays() -> None:
    writer = written()
    snapshot, session = writer.shards[0].snapshot(), writer.sealer.session
    shard = lazy(snapshot)
    for one in (shard, writer.shards[0]):
        one.use_up(session, 6, 7)
        one.apply(session, 8, Operation("Task/new", TITLE, encode_stamped(9, "new"), ()))
        one.frame_applied(session, 6, 8, ())
    assert type(shard) is Shard, "the operation touched it"
    assert encode_snapshot(shard.snapshot()) == encode_snapshot(writer.shards[0].snapshot())


def test_it_is_read_once_and_let_go() -> None:
    reads = []

    def content() -> Shard:
        reads.append(1)
        shard = Shard(KEY)
        shard.join(snapshot)
        return shard

    snapshot = written().shards[0].snapshot()
    shard = lazy(snapshot, content)
    unread = shard.unread
    assert unread.shard() is unread.shard()
    assert type(shard) is LazyShard, "a thread may read it; it is taken by who uses the shard"
    shard.load()
    assert shard.exists("Task/1")
    assert reads == [1]
    assert not vars(shard).keys() - vars(Shard(KEY)).keys(), "nothing is kept beside the state"


def test_of_many_threads_one_reads_it_and_the_others_wait() -> None:
    snapshot = written().shards[0].snapshot()
    readers: list[int] = []
    together = threading.Barrier(8)

    def content() -> Shard:
        readers.append(threading.get_ident())
        shard = Shard(KEY)
        shard.join(snapshot)
        return shard

    def ask() -> Shard:
        together.wait(PATIENCE_S)
        return unread.shard()

    unread = lazy(snapshot, content).unread
    with ThreadPoolExecutor(8) as pool:
        found = [asked.result(PATIENCE_S) for asked in [pool.submit(ask) for _ in range(8)]]
    assert len(readers) == 1
    assert all(one is found[0] for one in found)
    assert found[0].exists("Task/1")


# ---------------------------------------------------------------------------- from a journal


async def kept(writer: Writer, *shards: int) -> MemoryJournal:
    journal = MemoryJournal()
    for shard in shards:
        await journal.save_snapshot(writer.snapshot(shard, 0))
    return journal


async def test_only_shards_with_frames_after_their_snapshots_are_read_at_once() -> None:
    writer = written()
    journal = await kept(writer, 0, 1, 2, 3)
    await journal.append(writer.write((1, "Task/1", "later")))
    found = await recover_journal(journal, make_opener(MESH))
    assert [type(found.shards[number]) for number in range(4)] == [
        LazyShard, Shard, LazyShard, LazyShard
    ]  # fmt: skip
    for number, shard in writer.shards.items():
        assert found.shards[number].frontier == shard.frontier
        assert found.shards[number].heads == shard.heads
        assert found.shards[number].digest() == shard.digest()
        assert sorted(found.shards[number].documents()) == sorted(shard.documents())
        assert found.shards[number].digest() == shard.digest(), "as it is counted, too"


def resealed(writer: Writer, body: bytes, shard: int = 0) -> SnapshotRecord:
    """A snapshot with this body, signed as it should be."""
    certificates = writer.opener.trust.certificates(sorted(writer.shards[shard].frontier))
    raw = writer.sealer.seal_snapshot(shard, body, certificates, {}, 1 << 16)
    return SnapshotRecord(shard, 0, raw)


BODY = encode_snapshot(written().shards[0].snapshot())


def flipped(record: SnapshotRecord, at: int) -> SnapshotRecord:
    data = bytearray(record.data)
    data[at] ^= 1
    return SnapshotRecord(record.shard, record.position, bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        lambda writer: flipped(writer.snapshot(0, 0), 20),
        lambda writer: flipped(writer.snapshot(0, 0), -20),
        lambda writer: flipped(writer.snapshot(0, 0), len(writer.snapshot(0, 0).data) // 2),
        lambda writer: SnapshotRecord(0, 0, writer.snapshot(0, 0).data[:-1]),
        lambda writer: SnapshotRecord(0, 0, b""),
        lambda writer: SnapshotRecord(0, 0, writer.snapshot(1, 0).data),
        lambda writer: resealed(writer, b""),
        lambda writer: resealed(writer, b"\x99\x03" + BODY[2:]),
        lambda writer: resealed(writer, BODY[:-1]),
        lambda writer: resealed(writer, b"\x99\x02\x00\x93" + BODY[4:]),
    ],
    ids=["header", "end", "middle", "torn", "empty", "other", "none", "newer", "short", "frontier"],
)
async def test_damage_is_found_when_the_journal_is_opened(
    damage: Callable[[Writer], SnapshotRecord],
) -> None:
    writer = written()
    journal = await kept(writer, 0, 1, 2, 3)
    record = damage(writer)
    await journal.save_snapshot(record)
    with pytest.raises(JournalDamaged, match="snapshot of shard 0"):
        await recover_journal(journal, make_opener(MESH))
    with pytest.raises(JournalDamaged, match="snapshot of shard 0"):
        recover([record], [], make_opener(MESH))


def other_digest(snapshot: ShardSnapshot) -> bytes:
    wrong = (int.from_bytes(snapshot.digest) + 1) % MODULUS
    return encode_snapshot(snapshot)[:-16] + wrong.to_bytes(16)


def test_what_only_its_maker_can_have_spoilt_is_told_whoever_asks() -> None:
    """Its signature holds: an error of the program, which nobody may take for the state."""
    writer = written()
    snapshot = writer.shards[0].snapshot()
    at = BODY.index(b"text 3")
    for body, complaint in (
        (other_digest(snapshot), "has digest"),
        (BODY[:at] + b"TEXT" + BODY[at + 4 :], "has digest"),
        (BODY.replace(b"Task/3", b"Task\xff3"), "is refused"),
    ):
        with pytest.raises(JournalDamaged, match=rf"snapshot of shard 0 {complaint}.*mesh repair"):
            recover([resealed(writer, body)], [], make_opener(MESH))


async def test_and_a_replica_that_opens_hears_of_it_when_it_asks() -> None:
    writer = written()
    journal = await kept(writer, 0, 1, 2, 3)
    await journal.save_snapshot(resealed(writer, other_digest(writer.shards[0].snapshot())))
    found = await recover_journal(journal, make_opener(MESH))
    for _ in range(2):
        with pytest.raises(JournalDamaged, match=r"shard 0 has digest .*mesh repair"):
            found.shards[0].exists("Task/1")
    assert found.shards[1].exists("Task/1")
    # What must be applied to it must be read: then it is found at once.
    (late,) = writer.write((0, "Task/1", "late"))
    await journal.append([late])
    with pytest.raises(JournalDamaged, match="shard 0 has digest"):
        await recover_journal(journal, make_opener(MESH))

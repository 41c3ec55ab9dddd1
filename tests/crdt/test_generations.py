"""Deleting for good: a document's older generations never come back, whatever arrives when."""

from __future__ import annotations

import itertools

import pytest

from crdt.access import Overlay, commit
from crdt.clock import HybridClock
from crdt.codec import encode_stamped
from crdt.errors import OutOfBounds
from crdt.lattice import Shard
from crdt.limits import MAX_GENERATION
from crdt.operation import Operation, Transaction, decode_body, encode_body
from crdt.paths import TypeCode, child_path, field_path
from crdt.snapshot import decode_snapshot, encode_snapshot
from crdt.types.text import Insert, TextState

ID = "Task/1"
TITLE = field_path("title", TypeCode.REGISTER)
MAP = field_path("m", TypeCode.MAP)
CHILD = child_path(MAP, "k", TypeCode.COUNTER)
NOTES = field_path("notes", TypeCode.TEXT)
A, B, C = 1, 2, 3

OLD = Operation(ID, TITLE, encode_stamped(1 << 60, "old"))
OLD_CHILD = Operation(ID, CHILD, b"\x05")
OLD_TEXT = Operation(ID, NOTES, TextState().edit(B, [Insert(0, "old")]))
DELETION = Operation(ID, b"", None, (), 1)
NEW = Operation(ID, TITLE, encode_stamped(1, "new"), (), 1)


def everything(shard: Shard) -> tuple[object, ...]:
    snapshot = shard.snapshot()
    texts = {
        d: {p: TextState.load(t).value() for p, t in f.items()} for d, f in snapshot.texts.items()
    }
    return snapshot.entries, texts, dict(snapshot.generations), snapshot.digest


def test_every_order_of_arrival_ends_in_the_new_generation() -> None:
    """B wrote without having seen A's deletion."""
    by_a, by_b = [DELETION, NEW], [OLD, OLD_CHILD, OLD_TEXT]
    found = []
    for order in set(itertools.permutations("aabbb")):
        shard, seqs = Shard(b"key"), {A: 0, B: 0}
        queues = {"a": iter(by_a), "b": iter(by_b)}
        for who in order:
            session = A if who == "a" else B
            seqs[session] += 1
            shard.apply(session, seqs[session], next(queues[who]))
        assert shard.frontier == {A: 2, B: 3}  # what came too late still used its seqs up
        assert shard.text(ID, NOTES) is None
        found.append(everything(shard))
    assert len(found) == 10
    assert all(each == found[0] for each in found)
    assert found[0][0] == {ID: {TITLE: ((A, 2, NEW.payload),)}}


def test_joins_agree_with_arrivals() -> None:
    here, there = Shard(b"key"), Shard(b"key")
    for seq, operation in enumerate([OLD, OLD_CHILD, OLD_TEXT], 1):
        here.apply(B, seq, operation)
    there.apply(A, 1, DELETION)
    there.apply(A, 2, NEW)
    old, new = here.snapshot(), decode_snapshot(encode_snapshot(there.snapshot()))
    assert here.join(new) == {ID}
    assert there.join(old) == set()  # it only knows what is gone
    assert everything(here) == everything(there)
    assert here.join(there.snapshot()) == set()
    applied = Shard(b"key")
    for session, operations in ((B, [OLD, OLD_CHILD, OLD_TEXT]), (A, [DELETION, NEW])):
        for seq, operation in enumerate(operations, 1):
            applied.apply(session, seq, operation)
    assert everything(applied) == everything(here)


def test_joins_agree_also_where_a_session_was_cloned() -> None:
    """One side has seen a dot of a generation that it does not know: another run's of that id."""
    here, there = Shard(b"key"), Shard(b"key")
    here.apply(A, 1, OLD)
    here.apply(A, 2, OLD_CHILD)
    there.apply(A, 1, DELETION)
    there.apply(A, 2, NEW)
    mine, theirs = here.snapshot(), there.snapshot()
    here.join(theirs)
    there.join(mine)
    assert everything(here) == everything(there)


def test_a_deleted_document_does_not_exist_and_is_told_from_one_that_never_did() -> None:
    shard = Shard(b"key")
    shard.apply(A, 1, OLD)
    shard.apply(A, 2, Operation(ID, b"", None, (), 1))
    assert not shard.exists(ID)
    assert list(shard.documents()) == []
    assert shard.entry_count == 0
    assert shard.generation(ID) == 1
    assert shard.digest() != Shard(b"key").digest()
    assert shard.document_digest(ID) != Shard(b"key").document_digest(ID)


def test_a_late_duplicate_of_an_older_generation_is_no_conflict() -> None:
    shard = Shard(b"key")
    shard.apply(A, 1, OLD)
    shard.apply(A, 2, Operation(ID, b"", None, (), 1))
    shard.apply(B, 1, NEW)
    before = everything(shard)
    shard.apply(A, 1, OLD._replace(payload=encode_stamped(1 << 61, "other")))
    assert everything(shard) == before
    assert shard.conflicts == []


def test_generations_travel_in_bodies() -> None:
    body = [Transaction("t", "a", 5, "", (OLD, DELETION, NEW))]
    assert decode_body(encode_body(body)) == body
    void = Transaction("t", "a", 5, "", (NEW._replace(payload=b"\xc1"),))
    (decoded,) = decode_body(encode_body([void]))
    assert decoded.operations == (Operation(ID, b"", None, ()),)  # it deletes nothing either


def overlay_on(shard: Shard) -> Overlay:
    return Overlay(shard, C, HybridClock(lambda: 1_780_000_000_000))


def test_inside_a_transaction_a_deleted_document_reads_as_empty() -> None:
    shard = Shard(b"key")
    for seq, operation in enumerate([OLD, OLD_CHILD, OLD_TEXT], 1):
        shard.apply(B, seq, operation)
    overlay = overlay_on(shard)
    overlay.edit_text(ID, NOTES, Insert(0, "lost "))
    overlay.write(ID, CHILD, b"\x07")
    overlay.retire(ID)
    assert overlay.entries(ID, TITLE) == overlay.last_entries(ID, TITLE) == ()
    assert list(overlay.under(ID, b"")) == []
    assert overlay.text(ID, NOTES) == ""
    overlay.replace(ID, TITLE, encode_stamped(7, "again"))
    overlay.edit_text(ID, NOTES, Insert(0, "fresh"))
    shown = [(path, entries[0][2]) for path, entries in overlay.under(ID, b"")]
    assert shown == [(TITLE, encode_stamped(7, "again"))]
    transaction = commit(shard, overlay, "edit", "a", "")
    assert transaction is not None
    assert [each.generation for each in transaction.operations] == [0, 1, 1, 1]
    text = shard.text(ID, NOTES)
    assert text is not None
    assert text.value() == "fresh"
    assert shard.entry_count == 1
    other = Shard(b"key")
    for seq, operation in enumerate([OLD, OLD_CHILD, OLD_TEXT], 1):
        other.apply(B, seq, operation)
    other.apply_transactions(C, 1, decode_body(encode_body([transaction])))
    assert everything(other) == everything(shard)


def test_a_transaction_that_is_given_up_deleted_nothing() -> None:
    shard = Shard(b"key")
    shard.apply(B, 1, OLD)
    before = everything(shard)
    overlay = overlay_on(shard)
    overlay.retire(ID)
    overlay.close()
    assert everything(shard) == before


def test_there_is_a_last_generation() -> None:
    shard = Shard(b"key")
    shard.apply(B, 1, Operation(ID, b"", None, (), MAX_GENERATION))
    before = everything(shard)
    with pytest.raises(OutOfBounds, match="use another id"):
        overlay_on(shard).retire(ID)
    shard.apply(B, 2, Operation(ID, b"", None, (), MAX_GENERATION + 1))  # void
    assert everything(shard) == before

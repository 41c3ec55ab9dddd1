"""The shard, case by case. The laws in general are in `laws/`."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt.codec import encode, encode_stamped
from crdt.errors import CodecError
from crdt.lattice import Shard
from crdt.limits import MAX_CONFLICTS
from crdt.operation import Operation, Removal, Transaction
from crdt.paths import TypeCode, child_path, element_path, field_path, parse_path
from crdt.snapshot import ShardSnapshot
from crdt.types.rules import PRESENCE, PRESENT, path_rule
from crdt.types.text import Insert, TextState

TITLE = field_path("title", TypeCode.REGISTER)
COUNT = field_path("count", TypeCode.COUNTER)
LOG = field_path("log", TypeCode.FEED)
LABELS = field_path("labels", TypeCode.SET)
MAP = field_path("m", TypeCode.MAP)
TEXT = field_path("t", TypeCode.TEXT)
WEEK = 1 << 42


def write(
    value: object, *removals: Removal, path: bytes = TITLE, document: str = "Task/1"
) -> Operation:
    return Operation(document, path, encode_stamped(1, value), removals)


def removal(path: bytes, *seen: tuple[int, int], prefix: bool = False) -> Removal:
    return Removal(path, prefix, seen)


def test_a_write_replaces_exactly_what_its_author_had_seen() -> None:
    shard = Shard()
    shard.apply(1, 1, write("a"))
    shard.apply(2, 1, write("b"))
    shard.apply(3, 1, write("c", removal(TITLE, (1, 1))))
    assert [entry[:2] for entry in shard.entries("Task/1", TITLE)] == [(2, 1), (3, 1)]
    shard.apply(1, 2, write("d", removal(TITLE, (2, 1), (3, 1))))
    assert shard.entries("Task/1", TITLE) == ((1, 2, encode_stamped(1, "d")),)
    assert shard.entry_count == 1


def test_a_removal_says_up_to_where_and_not_which() -> None:
    shard = Shard()
    for seq in range(1, 6):
        shard.apply(1, seq, write(seq, path=LOG))
    shard.apply(2, 1, Operation("Task/1", LOG, None, (removal(LOG, (1, 3)),)))
    assert [seq for _, seq, _ in shard.entries("Task/1", LOG)] == [4, 5]


def test_a_prefix_removes_the_whole_and_spares_its_neighbours() -> None:
    shard = Shard()
    paths = [element_path(LABELS, name) for name in ("a", "ab", "b")]
    child = child_path(MAP, "k", TypeCode.SET)
    paths += [child, element_path(child, "x"), child_path(MAP, "kk", TypeCode.SET)]
    for seq, path in enumerate(paths, 1):
        shard.apply(1, seq, Operation("Task/1", path, PRESENT, ()))
    assert {path for path, _ in shard.under("Task/1", LABELS)} == set(paths[:3])
    assert {path for path, _ in shard.under("Task/1", child)} == set(paths[3:5])
    assert {path for path, _ in shard.under("Task/1", paths[0])} == {paths[0]}
    assert list(shard.under("Task/1", paths[0][:-1])) == [], "no component ends there"
    shard.apply(2, 1, Operation("Task/1", child, None, (removal(child, (1, 5), prefix=True),)))
    assert {path for path, _ in shard.under("Task/1", b"")} == {*paths[:3], paths[5]}
    shard.apply(2, 2, Operation("Task/1", b"", None, (removal(b"", (1, 2), prefix=True),)))
    assert {path for path, _ in shard.under("Task/1", b"")} == {paths[2], paths[5]}


def test_a_document_exists_while_anything_of_it_lives() -> None:
    shard = Shard()
    assert not shard.exists("Task/1")
    shard.apply(1, 1, write("a"))
    shard.apply(1, 2, write("a", document="Tasks/1"))
    assert list(shard.documents("Task")) == list(shard.documents("Task/")) == ["Task/1"]
    assert sorted(shard.documents()) == ["Task/1", "Tasks/1"]
    shard.apply(2, 1, Operation("Task/1", b"", None, (removal(b"", (1, 2), prefix=True),)))
    assert not shard.exists("Task/1")
    assert list(shard.documents()) == ["Tasks/1"]
    assert (
        shard.digest()
        == only(Operation("Tasks/1", TITLE, encode_stamped(1, "a"), ()), seq=2).digest()
    )


def only(operation: Operation, seq: int) -> Shard:
    """A shard of one operation of session 1, which had done nothing else."""
    shard = Shard()
    for number in range(1, seq):
        shard.apply(1, number, Operation(operation.document, b"", None, ()))
    shard.apply(1, seq, operation)
    return shard


def test_void_operations_use_up_their_seq_and_nothing_else() -> None:
    shard = Shard()
    shard.apply(1, 1, write("a"))
    before = shard.digest()
    voids = [
        Operation("Task/1", TITLE, b"\xc1", (removal(TITLE, (1, 1)),)),
        Operation("Task/1", TITLE, encode(5), (removal(TITLE, (1, 1)),)),
        Operation("Task/1", b"\xff", encode(5), ()),
        Operation("Task/1", TEXT, b"no yrs update", (removal(TITLE, (1, 1)),)),
        write("b", removal(b"\xff", (1, 1))),
        write("b", removal(b"", (1, 1))),
        write("b", removal(TITLE, (2, 1), (1, 1))),
        write("b", removal(TITLE)),
    ]
    for seq, operation in enumerate(voids, 2):
        shard.apply(1, seq, operation)
    assert shard.frontier == {1: 1 + len(voids)}
    assert shard.digest() == before
    assert shard.text("Task/1", TEXT) is None


def test_a_frame_that_overlaps_what_is_here_brings_its_new_part() -> None:
    body = [Transaction("edit", "a", 1, "", tuple(write(n, path=LOG) for n in range(4)))]
    shard, whole = Shard(), Shard()
    whole.apply_transactions(1, 1, body)
    shard.apply_transactions(1, 1, [body[0]._replace(operations=body[0].operations[:2])])
    shard.apply_transactions(1, 1, body, skip_upto=2)
    assert shard.snapshot() == whole.snapshot()
    shard.apply_transactions(1, 1, body)
    assert shard.snapshot() == whole.snapshot()


def test_a_gap_is_the_callers_mistake() -> None:
    shard = Shard()
    with pytest.raises(AssertionError, match="inbox"):
        shard.apply(1, 2, write("a"))
    with pytest.raises(AssertionError, match="inbox"):
        shard.apply_transactions(1, 2, [Transaction("t", "a", 1, "", (write("a"),))])
    assert shard.frontier == {}


def test_heads_are_the_frames_nothing_depends_on() -> None:
    shard = Shard()
    for session in (1, 2, 3):
        shard.apply(session, 1, write(session))
        shard.frame_applied(session, 1, 1, ())
    assert shard.heads == {1: 1, 2: 1, 3: 1}
    shard.apply(1, 2, write("x"))
    shard.frame_applied(1, 2, 2, ((2, 1),))
    assert shard.heads == {1: 2, 3: 1}


def test_the_larger_payload_wins_under_one_dot_on_every_path_and_is_told() -> None:
    low, high = write("a"), write("b")
    expected = ((1, 1, high.payload),)
    for first, second in ((low, high), (high, low)):
        applied, skipped, joined, other = Shard(), Shard(), Shard(), Shard()
        for shard in (applied, skipped, joined):
            shard.apply(1, 1, first)
            shard.digest()
        other.apply(1, 1, second)
        applied.apply(1, 1, second)
        skipped.apply_transactions(1, 1, [Transaction("t", "a", 1, "", (second,))], skip_upto=1)
        joined.join(other.snapshot())
        for shard in (applied, skipped, joined):
            assert shard.entries("Task/1", TITLE) == expected
            assert shard.conflicts == [("Task/1", TITLE, (1, 1))]
            assert shard.digest() == only(high, 1).digest()


def test_a_conflict_does_not_change_the_order_of_a_sessions_items() -> None:
    shard = Shard()
    for seq in range(1, 5):
        shard.apply(1, seq, write("a", path=LOG))
    shard.digest()
    shard.apply(1, 2, write("b", path=LOG))
    assert shard.last_entries("Task/1", LOG) == ((1, 4, encode_stamped(1, "a")),)
    assert [seq for _, seq, _ in shard.entries("Task/1", LOG)] == [1, 2, 3, 4]
    fresh = Shard()
    fresh.join(shard.snapshot())
    assert shard.digest() == fresh.digest()


def test_evidence_of_conflicts_is_bounded() -> None:
    shard = Shard()
    for seq in range(1, MAX_CONFLICTS + 10):
        shard.apply(1, seq, write("a", document=f"Task/{seq}"))
        shard.apply(1, seq, write("b", document=f"Task/{seq}"))
    assert len(shard.conflicts) == MAX_CONFLICTS


def test_closed_sessions_leave_the_frontier_and_their_entries_stay() -> None:
    old, new = 3 * WEEK + 1, 5 * WEEK + 1
    shard, behind = Shard(), Shard()
    for each in (shard, behind):
        each.apply(old, 1, write("kept"))
        each.apply(old, 2, write("gone later", path=LOG))
        each.frame_applied(old, 1, 2, ())
        each.apply(new, 1, write("x", document="Task/2"))
    shard.apply(new, 2, Operation("Task/1", LOG, None, (removal(LOG, (old, 2)),)))
    shard.raise_floor(5)
    shard.raise_floor(4)
    assert (shard.floor, shard.frontier, shard.heads) == (5, {new: 2}, {})
    assert shard.seen(old, 99)
    shard.apply(old, 3, write("too late"))
    shard.apply_transactions(old, 3, [Transaction("t", "a", 1, "", (write("too late"),))])
    assert shard.entry_count == 2
    assert behind.join(shard.snapshot()) == {"Task/1"}
    assert shard.join(behind.snapshot()) == set()
    assert behind.snapshot() == shard.snapshot()


def test_text_lives_beside_the_entries_and_survives_removals() -> None:
    shard = Shard()
    update = TextState().edit(1, [Insert(0, "hello")])
    shard.apply(1, 1, Operation("Task/1", TEXT, update, ()))
    shard.apply(2, 1, Operation("Task/1", b"", None, (removal(b"", (1, 1), prefix=True),)))
    text = shard.text("Task/1", TEXT)
    assert text is not None
    assert text.value() == "hello"
    assert shard.entry_count == 0
    assert shard.exists("Task/1")
    assert list(shard.documents("Task")) == ["Task/1"]
    assert shard.digest() != Shard().digest()
    assert shard.document_digest("Task/1") != shard.document_digest("Task/2")
    other = Shard()
    assert other.join(shard.snapshot()) == {"Task/1"}
    assert other.digest() == shard.digest()


def test_a_snapshot_with_a_bad_text_changes_nothing() -> None:
    shard = Shard()
    shard.apply(1, 1, write("a"))
    update = TextState().edit(2, [Insert(0, "x")])
    good = TextState()
    good.apply(2, update)
    shard.apply(1, 2, Operation("Task/1", TEXT, TextState().edit(1, [Insert(0, "y")]), ()))
    before = shard.snapshot()
    bad = ShardSnapshot(
        frontier={1: 1, 2: 1},
        texts={"Task/1": {TEXT: good.encode()}, "Task/2": {TEXT: b"\xff\xff"}},
    )
    with pytest.raises(CodecError):
        shard.join(bad)
    assert shard.snapshot() == before


def test_a_digest_is_the_same_in_pieces() -> None:
    shard, whole = Shard(), Shard()
    seq = 0
    for round_ in range(3):
        for number in range(7):
            seq += 1
            removals = (removal(TITLE, (1, seq - 1)),) if round_ else ()
            operation = write(round_, *removals, document=f"Task/{number}")
            shard.apply(1, seq, operation)
            whole.apply(1, seq, operation)
        # What is hashed already changes again before the rest is.
        assert shard.hash_some(3) == 4
        shard.hash_some(2)
    assert shard.hash_some(100) == 0
    assert shard.digest() == whole.digest()


def test_digests_tell_every_part_apart() -> None:
    seen = {Shard().digest()}
    operations = [
        write("a"), write("b"), write("a", document="Task/2"), write("a", path=LOG),
        write("a", path=child_path(MAP, "k", TypeCode.REGISTER)),
        Operation("Task/1", child_path(MAP, "k", TypeCode.SET), PRESENCE, ()),
    ]  # fmt: skip
    for operation in operations:
        seen.add(only(operation, 1).digest())
        seen.add(only(operation, 2).digest())
    assert len(seen) == 1 + 2 * len(operations)
    keyed = Shard(b"key")
    keyed.apply(1, 1, write("a"))
    assert keyed.digest() not in seen


def test_a_counter_with_many_rows_is_changed_in_constant_steps() -> None:
    shard = Shard()
    for session in range(1, 2001):
        shard.apply(session, 1, Operation("Task/1", COUNT, b"\x01", ()))
    shard.digest()
    for seq in range(2, 200):
        shard.apply(5, seq, Operation("Task/1", COUNT, b"\x02", (removal(COUNT, (5, seq - 1)),)))
    assert shard.entry_count == 2000
    shard.apply(
        1,
        2,
        Operation("Task/1", COUNT, None, (removal(COUNT, *((s, 500) for s in range(2, 2001))),)),
    )
    assert shard.entries("Task/1", COUNT) == ((1, 1, b"\x01"),)
    assert shard.digest() == only(Operation("Task/1", COUNT, b"\x01", ()), 1).digest()


def test_overwriting_leaves_nothing_behind() -> None:
    shard = Shard()
    shard.apply(1, 1, write(0))

    def overwrite(first: int, count: int) -> None:
        for seq in range(first, first + count):
            path = (TITLE, LOG)[seq % 2]
            shard.apply(1, seq, write(seq, removal(path, (1, seq - 1)), path=path))

    overwrite(2, 2000)
    gc.collect()
    tracemalloc.start()
    overwrite(2002, 10_000)
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 4_000
    assert shard.entry_count == 2


def forget_paths() -> None:
    """Two caches, bounded, that are not the lattice's."""
    parse_path.cache_clear()
    path_rule.cache_clear()


def test_neither_do_counter_rows_nor_map_children_that_come_and_go() -> None:
    """With no digest asked for in between: what is remembered for it is bounded by what it last
    saw.
    """
    shard = Shard()
    for session in (1, 2):
        shard.apply(session, 1, Operation("Task/1", COUNT, b"\x01", ()))
    shard.digest()

    def change(first: int, count: int) -> None:
        for seq in range(first, first + count, 3):
            gone = (removal(COUNT, (1, seq - 1)),)
            shard.apply(1, seq, Operation("Task/1", COUNT, b"\x02", gone))
            inner = child_path(MAP, seq, TypeCode.MAP)
            child = child_path(inner, 1, TypeCode.COUNTER)
            document = f"Task/{seq if seq % 2 else 1}"
            shard.apply(1, seq + 1, Operation(document, child, b"\x02", ()))
            gone = (removal(inner, (1, seq + 1), prefix=True),)
            shard.apply(1, seq + 2, Operation(document, inner, None, gone))

    change(2, 3000)
    forget_paths()
    gc.collect()
    tracemalloc.start()
    change(3002, 3000)
    forget_paths()
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 8_000
    assert shard.entry_count == 2


def test_single_entries_cost_the_garbage_collector_nothing() -> None:
    shard = Shard()
    shard.apply(1, 1, write("a"))
    gc.collect()
    (entry,) = shard.entries("Task/1", TITLE)
    assert not gc.is_tracked(entry)


def test_a_path_that_is_down_to_one_entry_is_flat_again() -> None:
    shard = Shard()
    for seq in (1, 2, 3):
        shard.apply(1, seq, write(seq, path=LOG))
    shard.apply(2, 1, Operation("Task/1", LOG, None, (removal(LOG, (1, 2)),)))
    (first,), (again,) = shard.entries("Task/1", LOG), shard.entries("Task/1", LOG)
    assert first is again, "handed out as it is held, not built for every reader"


short = st.lists(
    st.tuples(st.integers(1, 2), st.sampled_from("awrs"), st.booleans()), min_size=5, max_size=30
)


@given(short)
def test_the_digest_follows_every_form_a_path_takes(script: list[tuple[int, str, bool]]) -> None:
    """One path, from many entries to one to none and back, the digest asked for now and then."""
    shard = Shard()
    for session, what, ask in script:
        seq = shard.frontier.get(session, 0) + 1
        seen = {s: n for s, n, _ in shard.entries("Task/1", LOG)}
        if what == "s":
            seen = dict(list(seen.items())[:1])
        dots = tuple(sorted(seen.items()))
        removals = (removal(LOG, *dots),) if dots and what != "a" else ()
        payload = None if what == "r" else encode_stamped(seq, what)
        operation = Operation("Task/1", LOG, payload, removals)
        shard.apply_transactions(session, seq, [Transaction("t", "a", 1, "", (operation,))])
        if ask:
            shard.digest()
    fresh = Shard()
    fresh.join(shard.snapshot())
    assert fresh.digest() == shard.digest()


def test_what_is_handed_out_cannot_change_the_shard() -> None:
    shard = Shard()
    shard.apply(1, 1, write("a"))
    snapshot = shard.snapshot()
    shard.apply(1, 2, write("b", path=LOG))
    assert snapshot.frontier == {1: 1}
    assert list(snapshot.entries["Task/1"]) == [TITLE]
    assert repr(shard).startswith("<Shard of 1 documents, 2 entries")

"""Snapshots as bytes: one encoding, fully proven when read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.codec import encode_stamped
from crdt.errors import CodecError
from crdt.frontier import covers, decode, encode, frontier_hash, missing
from crdt.lattice import Shard
from crdt.operation import Operation, Removal
from crdt.paths import TypeCode, field_path
from crdt.snapshot import (
    ShardSnapshot,
    SnapshotHead,
    decode_head,
    decode_snapshot,
    encode_chunks,
    encode_snapshot,
)
from crdt.stream import CHUNK_BYTES
from crdt.structure import pack, unpack
from crdt.types.text import Insert, TextState

TITLE = field_path("title", TypeCode.REGISTER)
COUNT = field_path("count", TypeCode.COUNTER)
FEED = field_path("l", TypeCode.FEED)
TEXT = field_path("t", TypeCode.TEXT)
SESSION = (100 << 42) + 7


def example() -> ShardSnapshot:
    shard = Shard(b"key")
    shard.apply(SESSION, 1, Operation("Task/1", TITLE, encode_stamped(1 << 60, "a"), ()))
    shard.apply(SESSION, 2, Operation("Task/1", COUNT, b"\x05", ()))
    shard.apply(SESSION + 1, 1, Operation("Task/1", COUNT, b"\x07", ()))
    shard.apply(SESSION + 1, 2, Operation("Note/1", COUNT, b"\x00", ()))
    shard.apply(SESSION + 1, 3, Operation("Note/2", b"", None, (), 4))
    shard.frame_applied(SESSION, 1, 2, ())
    shard.raise_floor(99)
    return shard.snapshot()


def test_golden_snapshot() -> None:
    """In every journal and checkpoint: it may never change."""
    assert encode_snapshot(example()).hex() == GOLDEN
    assert decode_snapshot(bytes.fromhex(GOLDEN)) == example()
    assert decode_snapshot(encode_snapshot(ShardSnapshot())) == ShardSnapshot()


def test_the_head_says_what_a_snapshot_is() -> None:
    whole = example()
    head = decode_head(encode_snapshot(whole))
    assert head == SnapshotHead(whole.floor, whole.frontier, whole.heads, whole.digest)
    assert (head.floor, head.frontier) == (99, {SESSION: 2, SESSION + 1: 3})


def agreed(data: bytes) -> ShardSnapshot | None:
    """What these bytes are, None if nothing. Their head is the same, or refused as they are."""
    try:
        head = decode_head(data)
    except CodecError:
        head = None
    try:
        whole = decode_snapshot(data)
    except CodecError:
        return None
    assert head == SnapshotHead(whole.floor, whole.frontier, whole.heads, whole.digest)
    return whole


@pytest.mark.parametrize("cut", [0, 1, 8, 40, -17, -1])
def test_a_head_of_less_than_a_snapshot_is_refused(cut: int) -> None:
    with pytest.raises(CodecError, match="snapshot"):
        decode_head(bytes.fromhex(GOLDEN)[:cut])


def test_texts_travel_as_their_states() -> None:
    shard = Shard(b"key")
    update = TextState().edit(SESSION, [Insert(0, "hé")])
    shard.apply(SESSION, 1, Operation("Task/1", TEXT, update, ()))
    other = Shard(b"key")
    assert other.join(decode_snapshot(encode_snapshot(shard.snapshot()))) == {"Task/1"}
    text = other.text("Task/1", TEXT)
    assert text is not None
    assert text.value() == "hé"
    assert other.digest() == shard.digest()


PARTS: list[Any] = list(unpack(encode_snapshot(example())))


def changed(at: int, value: object) -> list[Any]:
    return [*PARTS[:at], value, *PARTS[at + 1 :]]


@pytest.mark.parametrize(
    "parts",
    [
        None,
        [],
        PARTS[:8],
        [*PARTS, 0],
        changed(0, 1),
        changed(0, True),
        changed(1, -1),
        changed(1, 5000),
        changed(1, True),
        changed(2, [1]),
        changed(2, [2, 1, 1, 1]),
        changed(2, [1, 0]),
        changed(2, [1, 1, *PARTS[2]]),  # of a session that the floor has closed
        changed(2, [SESSION, 1]),
        changed(2, "ab"),
        changed(2, [1, 1, 1, 1]),
        changed(3, [SESSION, 3]),
        changed(3, [1 << 53, 1]),
        changed(4, [SESSION]),
        changed(4, [SESSION + 1, SESSION]),
        changed(4, 5),
        changed(5, 5),
        changed(5, [["Task/1"]]),
        changed(5, [["x", [TITLE, 0, 1, b""]]]),
        changed(5, [["Task/1", [TITLE]]]),
        changed(5, [["Task/1", [COUNT, 0, 1, b"\xc3"]]]),
        changed(5, [["Task/1", [COUNT, 0, 9, b"\x01"]]]),
        changed(5, [["Task/1", [COUNT, 0, 1, b"\x01", 0, 1, b"\x01"]]]),
        changed(5, [["Task/1", [COUNT, 1, 1, b"\x01", 0, 1, b"\x01"]]]),
        changed(5, [["Task/1", [COUNT, 0, 1, b"\x01", 0]]]),
        changed(5, [["Task/1", [COUNT, 0, 1, b"\x01"], [COUNT, 0, 1, b"\x01"]]]),
        changed(5, [["Task/1", [COUNT, 5, 1, b"\x01"]]]),
        changed(5, [["Task/1", [COUNT, -1, 1, b"\x01"]]]),
        changed(5, [["Task/1", [b"\xa1", 0, 1, b"\x01"]]]),
        changed(5, [["Task/1", [TEXT, 0, 1, b"\x01"]]]),
        changed(5, [["Task/1", ["x", 0, 1, b"\x01"]]]),
        changed(5, [["Task/1", [COUNT, 0, 1, "x"]]]),
        changed(5, [["Task/1", [COUNT, 0, True, b"\x01"]]]),
        changed(5, [PARTS[5][1], PARTS[5][0]]),
        changed(6, [["Task/1"]]),
        changed(6, [["Task/1", TEXT]]),
        changed(6, [["Task/1", COUNT, b"x"]]),
        changed(6, [["Task/1", TEXT, "x"]]),
        changed(6, [[5, TEXT, b"x"]]),
        changed(7, b""),
        changed(7, ["Note/2"]),
        changed(7, ["Note/2", 0]),
        changed(7, ["Note/2", True]),
        changed(7, ["Note/2", 1 << 53]),
        changed(7, ["x", 1]),
        changed(7, ["Note/2", 1, "Note/2", 2]),
        changed(7, ["Note/2", 1, "Note/1", 2]),
        changed(8, b""),
        changed(8, "x" * 16),
        changed(8, None),
    ],
)
def test_anything_else_is_refused(parts: object) -> None:
    with pytest.raises(CodecError):
        decode_snapshot(pack(parts))


nested = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.binary(max_size=3)
    | st.sampled_from([TITLE, COUNT, "Task/1"]),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=1), inner, max_size=2)
    ),
    max_leaves=12,
)


@given(st.integers(0, 8), nested, st.binary(max_size=80))
@settings(max_examples=400)
def test_decoding_is_total(at: int, part: object, noise: bytes) -> None:
    for data in (noise, pack(changed(at, part)), pack(changed(5, [["Task/1", part]]))):
        agreed(data)


@given(st.integers(0, 500), st.integers(0, 255))
def test_a_damaged_snapshot_is_refused_or_another_good_one(at: int, to: int) -> None:
    data = bytearray(bytes.fromhex(GOLDEN))
    data[at % len(data)] = to
    found = agreed(bytes(data))
    if found is None:
        return
    assert decode_snapshot(encode_snapshot(found)) == found
    Shard().join(found)


def test_both_directions_stream() -> None:
    """Chunks of any size are the same snapshot, and none of the writer's is large."""
    shard = Shard(b"key")
    for number in range(20_000):
        shard.apply(
            SESSION, number + 1, Operation(f"Task/{number}", TITLE, encode_stamped(1, "a" * 40))
        )
    snapshot = shard.snapshot()
    chunks = list(encode_chunks(snapshot))
    whole = b"".join(chunks)
    assert len(chunks) > 3
    assert max(map(len, chunks)) < CHUNK_BYTES + 1000
    assert encode_snapshot(snapshot) == whole
    for size in (1 << 14, 77_777, len(whole)):
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        assert decode_snapshot(iter(pieces)) == snapshot
    with pytest.raises(CodecError):
        decode_snapshot(iter(chunks[:-1]))


def test_a_snapshot_never_changes() -> None:
    """What comes after it is copied then, also where several entries lie at one path."""
    shard = Shard(b"key")
    for session in (SESSION, SESSION + 1):
        shard.apply(session, 1, Operation("Task/1", FEED, encode_stamped(session, "x")))
        shard.apply(session, 2, Operation("Task/1", FEED, encode_stamped(session, "y")))
    shard.apply(SESSION, 3, Operation("Task/2", TITLE, encode_stamped(1 << 60, "a")))
    snapshot = shard.snapshot()
    before = encode_snapshot(snapshot)
    seen = ((SESSION, 3),)
    for seq, operation in enumerate(
        [
            Operation("Task/1", FEED, encode_stamped(5, "z")),
            Operation("Task/1", FEED, None, (Removal(FEED, False, ((SESSION, 1),)),)),
            Operation("Task/2", TITLE, encode_stamped(2, "b"), (Removal(TITLE, False, seen),)),
            Operation("Task/3", TITLE, encode_stamped(3, "c")),
            Operation("Task/2", b"", None, (), 1),
            Operation("Task/1", b"", None, (Removal(b"", True, ((SESSION + 1, 2),)),)),
        ],
        4,
    ):
        shard.apply(SESSION, seq, operation)
        assert encode_snapshot(snapshot) == before
        assert encode_snapshot(shard.snapshot()) != before


frontiers = st.dictionaries(st.integers(0, 9), st.integers(1, 5))


@given(frontiers, frontiers)
def test_frontiers(a: dict[int, int], b: dict[int, int]) -> None:
    both = {session: max(a.get(session, 0), b.get(session, 0)) for session in a.keys() | b.keys()}
    assert covers(both, a)
    assert covers(both, b)
    for session, after, upto in missing(a, b):
        assert a.get(session, 0) == after < upto == b[session]
    assert covers(a, b) == (missing(a, b) == []) == (both == a)
    assert decode(encode(a)) == a
    assert (frontier_hash(a, 0) == frontier_hash(b, 0)) == (a == b)
    assert frontier_hash(a, 0) != frontier_hash(a, 1)


GOLDEN = (
    "99026394cf000190000000000702cf00019000000000080392cf00019000000000070292cf000190"
    "0000000007cf00019000000000089292a64e6f74652f3194c407a5636f756e74030102c4010093a6"
    "5461736b2f3197c407a5636f756e74030002c401050101c4010794c407a57469746c65010001c40c"
    "92cf1000000000000000a1619092a64e6f74652f3204c410b183dce4824f4055d6f9dc8f36582512"
)

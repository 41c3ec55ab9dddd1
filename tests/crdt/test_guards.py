"""What receivers keep although an operation removes it: a dishonest author turns nothing back."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from crdt.codec import encode, encode_stamped
from crdt.lattice import Shard
from crdt.operation import Operation, Removal
from crdt.paths import TypeCode, child_path, field_path
from crdt.types.guards import outranks, rank

ID = "Task/1"
BEST = field_path("best", TypeCode.MAXIMUM)
LEAST = field_path("least", TypeCode.MINIMUM)
DECIDED = field_path("state", TypeCode.DECIDED)
BUDGET = field_path("budget", TypeCode.BOUNDED)
INNER = child_path(field_path("m", TypeCode.MAP), "k", TypeCode.MAXIMUM)
A, B, C = 1, 2, 3


def replacing(path: bytes, payload: bytes, *seen: tuple[int, int]) -> Operation:
    return Operation(ID, path, payload, (Removal(path, False, seen),))


def payloads(shard: Shard, path: bytes) -> list[bytes]:
    return [payload for _, _, payload in shard.entries(ID, path)]


@pytest.mark.parametrize(
    ("path", "high", "low"),
    [
        (BEST, encode(9), encode(5)),
        (INNER, encode(9), encode(5)),
        (LEAST, encode(5), encode(9)),
        (DECIDED, encode_stamped(7, "new"), encode_stamped(6, "old")),
    ],
)
def test_an_assignment_takes_only_what_does_not_outrank_it(
    path: bytes, high: bytes, low: bytes
) -> None:
    shard = Shard()
    shard.apply(A, 1, Operation(ID, path, high))
    shard.apply(B, 1, replacing(path, low, (A, 1)))
    assert payloads(shard, path) == [high, low]
    shard.apply(C, 1, replacing(path, high, (A, 1), (B, 1)))
    assert payloads(shard, path) == [high]


@pytest.mark.parametrize(("path", "stays"), [(BEST, False), (DECIDED, True), (BUDGET, True)])
def test_decisions_and_rows_outlast_what_is_removed_around_them(path: bytes, stays: bool) -> None:
    payload = {
        BEST: encode(3),
        DECIDED: encode_stamped(1, "x"),
        BUDGET: encode([5, 0, [], []]),
    }[path]
    removals = (
        Removal(b"", True, ((A, 1),)),
        Removal(path, True, ((A, 1),)),
        Removal(path, False, ((A, 1),)),
    )
    for removal in removals:
        shard = Shard()
        shard.apply(A, 1, Operation(ID, path, payload))
        shard.apply(B, 1, Operation(ID, b"", None, (removal,)))
        assert payloads(shard, path) == ([payload] if stays else [])
        shard.apply(A, 2, Operation(ID, b"", None, (), 1))
        assert payloads(shard, path) == []  # a new generation ends all of it


def test_a_row_is_replaced_by_its_own_session_only_and_only_grows() -> None:
    shard = Shard()
    first = encode([5, 1, [B, 2], []])
    shard.apply(A, 1, Operation(ID, BUDGET, first))
    for seq, row in enumerate(
        [
            [4, 1, [B, 2], []],
            [5, 0, [B, 2], []],
            [5, 1, [B, 1], []],
            [5, 1, [], []],
            [9, 9, [C, 9], []],
        ],
        2,
    ):
        shard.apply(A, seq, replacing(BUDGET, encode(row), (A, seq - 1)))
        assert payloads(shard, BUDGET) == [first], row
    other = encode([0, 0, [], []])
    shard.apply(B, 1, replacing(BUDGET, other, (A, 6)))
    assert payloads(shard, BUDGET) == [first, other]
    grown = encode([6, 2, [B, 2, C, 1], [C, 1]])
    shard.apply(A, 7, replacing(BUDGET, grown, (A, 6), (B, 1)))
    assert payloads(shard, BUDGET) == [grown, other]
    shard.apply(A, 8, replacing(BUDGET, encode([6, 2, [B, 2, C, 1], []]), (A, 7)))
    assert payloads(shard, BUDGET) == [grown, other]


def test_what_is_kept_does_not_depend_on_the_order_of_arrival() -> None:
    """A's 9 is removed by C's 20, which B, whose 5 says to remove the 9 too, had not seen."""
    told = {
        "b": (B, replacing(BEST, encode(5), (A, 1))),
        "c": (C, replacing(BEST, encode(20), (A, 1))),
    }
    found = []
    for order in itertools.permutations("bc"):
        shard = Shard(b"key")
        shard.apply(A, 1, Operation(ID, BEST, encode(9)))
        for who in order:
            session, operation = told[who]
            shard.apply(session, 1, operation)
        found.append((payloads(shard, BEST), shard.digest()))
    assert found[0] == found[1]
    assert found[0][0] == [encode(5), encode(20)]


def test_all_values_have_one_order() -> None:
    ascending = [
        float("-inf"), -(2**70), -1.5, 0, 0.5, 1, 1.0, 2.0**53, 2**53, 2**53 + 1, 2**70,
        datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC), "", "a", "é", b"", b"a",
    ]  # fmt: skip
    encoded = [encode(value) for value in ascending]
    assert sorted(encoded, key=rank) == encoded
    for low, high in itertools.pairwise(encoded):
        assert outranks(TypeCode.MAXIMUM, high, low)
        assert not outranks(TypeCode.MAXIMUM, low, high)
        assert outranks(TypeCode.MINIMUM, low, high)
        assert not outranks(TypeCode.MINIMUM, low, low)

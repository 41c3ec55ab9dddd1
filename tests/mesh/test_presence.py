"""Presence as pure state: which row counts, for how long, and what is refused."""

from __future__ import annotations

import random
from types import MappingProxyType
from typing import Any

import pytest

from crdt import codec
from crdt.errors import CallerError, CodecError
from crdt.structure import pack
from mesh.presence import (
    GONE,
    MAX_WAITERS,
    News,
    PresenceTable,
    Said,
    answers,
    decode_data,
    decode_said,
    encode_data,
    encode_said,
)
from mesh.wire import decode, encode
from mesh.wire.presence import MAX_LEFT_MS, MAX_PRESENCE_BYTES, MAX_ROWS, Presence, PresenceRow

OWN = 77


def body(**said: Any) -> bytes:
    data = encode_data(said.pop("data", {}))
    return encode_said(Said(**{"ttl_ms": 8000, "address": "h:1", **said, "data": data}))


def row(
    name: str = "b", *, since: int = 5, session: int = 9, version: int = 1, left: int = 8000,
    body: bytes = body(),
) -> PresenceRow:  # fmt: skip
    return PresenceRow(name, since, session, version, left, body)


def table(**limits: int) -> PresenceTable:
    return PresenceTable("me", OWN, **limits)


def test_words_come_back() -> None:
    message = Presence((row(), row("c", body=GONE)))
    assert decode(encode(message)) == message
    said = Said(8000, "h:1", (0, 3), {0: 5}, {9: {0: 1, 3: 7}}, encode_data({"x": [1]}))
    assert decode_said(encode_said(said)) == said
    assert decode_said(pack([*_fields(said), "of a later version"])) == said


def _fields(said: Said) -> list[Any]:
    return [said.ttl_ms, said.address, [0, 3], [0, 5], [[9, [0, 1, 3, 7]]], said.data]


@pytest.mark.parametrize(
    "bad",
    [
        [[]], [[["b", 5, 9, 1, 8000]]], [[["b", 5, 0, 1, 8000, b""]]], [[["b", 5, 9, 0, 1, b""]]],
        [[["b", -1, 9, 1, 8000, b""]]], [[["b", 5, 9, 1, MAX_LEFT_MS + 1, b""]]],
        [[["x" * 300, 5, 9, 1, 8000, b""]]], [[[b"b", 5, 9, 1, 8000, b""]]],
        [[["b", 5, 9, 1, 8000, bytes(MAX_PRESENCE_BYTES + 1)]]],
        [[list(row())] * (MAX_ROWS + 1)], [5], [], [[], []],
    ],
    ids=str,
)  # fmt: skip
def test_bad_rows_are_refused(bad: list[Any]) -> None:
    if bad == [[]]:
        assert decode(pack([20, *bad])) == Presence(())
        return
    with pytest.raises(CodecError):
        decode(pack([20, *bad]))


def test_bad_bodies_are_refused_and_change_nothing() -> None:
    good = _fields(Said(8000, "h:1", data=encode_data({})))
    here = table()
    assert here.merge(row(), 0.0) is News.CHANGED
    for at, wrong in [
        (0, -1), (0, MAX_LEFT_MS + 1), (1, b"h"), (2, [-1]), (2, "all"), (3, [1]),
        (3, [5, 1, 0, 1]),
        (4, [[9]]), (4, [[0, []]]), (4, [[one, []] for one in range(1, MAX_WAITERS + 2)]),
        (5, b"\xc1"), (5, codec.encode([1])), (5, "text"),
    ]:  # fmt: skip
        parts = [*good[:at], wrong, *good[at + 1 :]]
        with pytest.raises(CodecError):
            here.merge(row(version=2, body=pack(parts)), 1.0)
    rng = random.Random(4)
    for _ in range(2000):
        damaged = bytearray(row().body)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            table().merge(row(body=bytes(damaged)), 0.0)
        except CodecError:
            continue
    assert here.version("b") == (9, 1)


def test_rows_may_come_in_any_order_any_number_of_times() -> None:
    rows = [
        row(name, since=since, session=session, version=version, body=body(data={"v": version}))
        for name in "bc"
        for since, session in ((5, 900), (6, 20))
        for version in (1, 2, 3)
    ]
    for seed in range(50):
        rng = random.Random(seed)
        mixed = [rng.choice(rows) for _ in range(20)] + rows
        rng.shuffle(mixed)
        here = table()
        for one in mixed:
            here.merge(one, 0.0)
        for name in "bc":
            present = here.get(name, 0.0)
            assert present is not None
            assert (present.session, present.data["v"]) == (20, 3), "the later birth, the newest"


def test_a_row_counts_for_what_is_left_of_its_time() -> None:
    here = table()
    assert here.merge(row(left=3000), 10.0) is News.CHANGED
    assert here.get("b", 12.0).expires_in_s == 1.0  # type: ignore[union-attr]
    assert here.row("b", 12.0).left_ms == 1000  # type: ignore[union-attr]
    assert here.merge(row(version=2, left=3000), 12.0) is News.BEAT
    assert here.expire(14.9) == []
    assert here.get("b", 15.0) is None
    assert here.row("b", 15.0) is None, "nobody is told of it any more"
    assert here.expire(15.0) == ["b"]
    assert here.merge(row(version=2), 16.0) is News.NOTHING, "a slower way does not bring it back"
    assert here.merge(row(version=3), 16.0) is News.CHANGED, "a sign of life does"


def test_who_left_is_not_there_and_does_not_come_back() -> None:
    here = table()
    assert here.merge(row(body=GONE), 0.0) is News.NOTHING, "nobody we know"
    here.merge(row(), 0.0)
    assert here.merge(row(version=2, body=GONE), 1.0) is News.CHANGED
    assert here.get("b", 1.0) is None
    assert here.registered(1.0, ()) == []
    assert here.row("b", 1.0) is not None, "to be passed on"
    assert here.merge(row(), 2.0) is News.NOTHING
    assert here.expire(99.0) == [], "it was gone before"
    assert here.merge(row(version=2), 99.0) is News.NOTHING
    assert here.merge(row(since=6, session=8), 99.0) is News.CHANGED, "its next session"


def test_the_table_is_bounded_in_number_and_size() -> None:
    few = table(limit=2)
    assert [few.merge(row(name), 0.0) for name in "abc"] == [
        News.CHANGED, News.CHANGED, News.NO_ROOM,
    ]  # fmt: skip
    assert few.merge(row("a", version=2), 0.0) is News.BEAT, "those held go on"
    few.expire(99.0)
    assert few.merge(row("c"), 99.0) is News.CHANGED
    small = table(limit_bytes=2000)
    assert small.merge(row(body=body(data={"x": "x" * 1500})), 0.0) is News.CHANGED
    assert small.merge(row("c", body=body(data={"x": "x" * 1500})), 0.0) is News.NO_ROOM
    assert small.merge(row(version=2, body=body()), 0.0) is News.CHANGED
    assert small.merge(row("c", body=body(data={"x": "x" * 1500})), 0.0) is News.CHANGED


def test_own_rows_from_others_are_nothing() -> None:
    here = table()
    here.put(row("me", session=OWN))
    assert here.merge(row("me", since=99, session=OWN + 1, version=9), 0.0) is News.NOTHING
    assert here.version("me") == (OWN, 1)
    assert here.expire(1e9) == []


def test_data_is_plain_frozen_and_bounded() -> None:
    value = decode_data(encode_data({"a": {"b": [1, {"c": None}]}}))
    assert value["a"]["b"][0] == 1
    assert isinstance(value["a"], MappingProxyType)
    assert isinstance(value["a"]["b"], tuple)
    with pytest.raises(CallerError, match="called"):
        encode_data({"x" * 65: 1})


def test_acknowledgements_outlive_the_rows_that_brought_them() -> None:
    here = table()
    here.merge(row(body=body(holds={OWN: {0: 5, 2: 1}})), 0.0)
    assert here.holders({0: 5}) == ["b"]
    assert here.holders({0: 5, 2: 2}) == []
    here.merge(row(version=2, body=body(holds={OWN: {2: 2}})), 0.0)
    here.merge(row(version=3, body=body()), 0.0)
    assert here.holders({0: 5, 2: 2}) == ["b"]
    here.merge(row(since=6, session=10, body=body()), 0.0)
    assert here.holders({0: 5}) == [], "a new session may have lost its disk"


def test_who_counts_for_a_majority() -> None:
    here = table()
    here.put(row("me", session=OWN))
    here.merge(row("all"), 0.0)
    here.merge(row("some", body=body(keeps=(0, 2))), 0.0)
    here.merge(row("none", body=body(keeps=())), 0.0)
    assert here.registered(1.0, [0]) == ["all", "me", "some"]
    assert here.registered(1.0, [0, 1]) == ["all", "me"]
    assert here.registered(9.0, [0, 1]) == ["me"], "expired"


def test_answers_say_how_far_where_that_is_enough() -> None:
    here = table()
    here.merge(row("b", session=4, body=body(waits={0: 5, 1: 3})), 0.0)
    here.merge(row("c", session=6, body=body(waits={1: 9})), 0.0)
    here.merge(row("d", session=8), 0.0)
    assert here.awaited() == {4: {0: 5, 1: 3}, 6: {1: 9}}
    journaled = [{4: 7, 6: 1}, {4: 2, 6: 8}]
    assert answers(here.awaited(), journaled) == {4: {0: 7}}
    journaled[1][6] = 9
    assert answers(here.awaited(), journaled) == {4: {0: 7}, 6: {1: 9}}
    here.merge(row("b", session=4, version=2), 0.0)
    assert here.awaited() == {6: {1: 9}}
    assert answers({4: {9: 1}}, journaled) == {}, "a shard of another mesh"

"""Frame bodies: what goes in comes out, bad operations are void, bad bodies are refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.codec import encode, encode_stamped
from crdt.errors import CodecError
from crdt.limits import MAX_GENERATION, MAX_OPERATIONS, MAX_SEQ, MAX_STAMP
from crdt.operation import (
    Operation,
    Removal,
    Transaction,
    decode_body,
    encode_body,
    is_valid,
    operation_count,
    void,
)
from crdt.paths import TypeCode, child_path, element_path, field_path
from crdt.structure import pack, unpack

TITLE = field_path("title", TypeCode.REGISTER)
COUNT = field_path("count", TypeCode.COUNTER)
LABELS = field_path("labels", TypeCode.SET)
MAP = field_path("m", TypeCode.MAP)
SESSION = (100 << 42) + 7
STAMP = 1_700_000_000_000 << 16

sessions = st.integers(0, 3).map(lambda n: SESSION + n)
dots = st.tuples(sessions, st.integers(0, MAX_SEQ + 1) | st.sampled_from([0, 1, MAX_SEQ + 1]))
paths = st.sampled_from(
    [
        TITLE,
        COUNT,
        LABELS,
        MAP,
        element_path(LABELS, "x"),
        child_path(MAP, 1, TypeCode.REGISTER),
        b"",
        b"\xa1",
    ]
)
removals = st.builds(
    Removal, paths, st.booleans(), st.lists(dots, max_size=3).map(lambda each: tuple(sorted(each)))
).filter(lambda each: each.seen != ())
payloads = (
    st.none()
    | st.integers().map(encode)
    | st.text().map(lambda text: encode_stamped(STAMP, text))
    | st.sampled_from([b"\xc3", b"\xc1"])
)
operations = st.builds(
    Operation,
    st.sampled_from(["Task/1", "Task/2", "Note/{t}/ü"]),
    paths,
    payloads,
    st.lists(removals, max_size=2).map(tuple),
    st.sampled_from([0, 0, 1, MAX_GENERATION]),
)
transactions = st.builds(
    Transaction,
    st.text(max_size=9),
    st.text(max_size=9),
    st.integers(0, MAX_STAMP),
    st.text(max_size=9),
    st.lists(operations, min_size=1, max_size=4).map(tuple),
)
bodies = st.lists(transactions, max_size=4)


def proven(transaction: Transaction) -> Transaction:
    """What a receiver makes of a transaction."""
    found = tuple(
        each if is_valid(each) else void(each.document) for each in transaction.operations
    )
    return transaction._replace(operations=found)


@given(bodies)
def test_a_body_comes_back_with_invalid_operations_void(body: list[Transaction]) -> None:
    data = encode_body(body)
    found = decode_body(data)
    assert found == [proven(each) for each in body]
    assert [type(each) for each in found] == [Transaction] * len(body)
    assert operation_count(found) == operation_count(body)
    assert decode_body(encode_body(found)) == found


def test_all_parts_are_what_their_names_say() -> None:
    removal = Removal(TITLE, False, ((SESSION, 4),))
    operation = Operation("Task/1", TITLE, encode_stamped(STAMP, "a"), (removal,))
    (found,) = decode_body(encode_body([Transaction("edit", "ada", STAMP, "why", (operation,))]))
    assert (found.type, found.actor, found.stamp, found.caused_by) == ("edit", "ada", STAMP, "why")
    assert found.operations[0].removals[0].seen == ((SESSION, 4),)
    assert type(found.operations[0]) is Operation
    assert type(found.operations[0].removals[0]) is Removal


def overwrites(count: int) -> list[Transaction]:
    """The common case: each operation replaces the last one of its own session."""
    return [
        Transaction(
            "edit",
            "agent",
            STAMP + n,
            "",
            (
                Operation(
                    f"Task/{n % 10}",
                    TITLE,
                    encode_stamped(STAMP + n, "v"),
                    (Removal(TITLE, False, ((SESSION, 1000 + n),)),),
                ),
            ),
        )
        for n in range(count)
    ]


def test_an_overwrite_takes_few_bytes() -> None:
    # 12 of payload, 9 of stamp; the rest is what the format adds.
    assert len(encode_body(overwrites(100))) / 100 < 38


def test_golden_body() -> None:
    """On the wire and in every journal: it may never change."""
    removal = Removal(MAP, True, ((SESSION, 3), (SESSION + 1, 5)))
    body = [
        Transaction(
            "t",
            "a",
            STAMP,
            "",
            (Operation("T/1", COUNT, b"\x05", ()), *overwrites(1)[0].operations),
        ),
        Transaction("t", "b", STAMP, "t", (Operation("T/1", MAP, None, (removal,)),)),
    ]
    assert encode_body(body).hex() == GOLDEN
    assert decode_body(bytes.fromhex(GOLDEN)) == body


GOOD: list[Any] = [2, ["t", ""], ["T/1"], [COUNT], [SESSION], [[0, 1, 5, 1, [0, 0, b"\x05"]]]]


def changed(at: int, value: object) -> list[Any]:
    return [*GOOD[:at], value, *GOOD[at + 1 :]]


def with_operation(*operation: object) -> list[Any]:
    return changed(5, [[0, 1, 5, 1, list(operation)]])


def test_the_body_that_the_refused_ones_are_made_of_is_good() -> None:
    assert decode_body(pack(GOOD)) == [
        Transaction("t", "", 5, "", (Operation("T/1", COUNT, b"\x05", ()),))
    ]


@pytest.mark.parametrize(
    "body",
    [
        None,
        5,
        [],
        GOOD[:5],
        [*GOOD, 1],
        changed(0, 1),
        changed(0, True),
        changed(1, "ab"),
        changed(1, [b"t", ""]),
        changed(1, ["t" * 257, ""]),
        changed(2, ["nothing"]),
        changed(2, [1]),
        changed(2, {"T/1": 1}),
        changed(2, [["T/1", 0]]),
        changed(2, [["T/1", True]]),
        changed(2, [["T/1", 1 << 53]]),
        changed(2, [["T/1"]]),
        changed(2, [["T", 1]]),
        changed(3, [5]),
        changed(3, [bytes(1025)]),
        changed(4, [-1]),
        changed(4, [1 << 53]),
        changed(4, ["x"]),
        changed(4, [True]),
        changed(5, 5),
        changed(5, [5]),
        changed(5, [b"\x00\x00\x00\x00\x00"]),
        changed(5, ["abcde"]),
        changed(5, [[0, 1, 5, 1]]),
        changed(5, [[0, 1, 5]]),
        changed(5, [[0, 1, -5, 1, [0, 0, b"\x05"]]]),
        changed(5, [[0, 1, True, 1, [0, 0, b"\x05"]]]),
        changed(5, [[9, 1, 5, 1, [0, 0, b"\x05"]]]),
        changed(5, [[-1, 1, 5, 1, [0, 0, b"\x05"]]]),
        changed(5, [[0.0, 1, 5, 1, [0, 0, b"\x05"]]]),
        changed(5, [{"a": 1}]),
        with_operation(),
        with_operation(0, 0),
        with_operation(1, 0, b"\x05"),
        with_operation(0, 1, b"\x05"),
        with_operation(-1, 0, b"\x05"),
        with_operation(0, -1, b"\x05"),
        with_operation(0, 0, "x"),
        with_operation(0, 0, 5),
        with_operation("0", 0, b"\x05"),
        with_operation(0, 0, b"\x05", 0, 1.0),
        with_operation(0, 0, b"\x05", 1, 1),
        with_operation(0, 0, b"\x05", -1, 1),
        with_operation(0, 0, b"\x05", 0, True),
        with_operation(0, 0, 5, 0, 1),
        with_operation(0, 0, b"\x05", 0, 1, 1),
        with_operation(0, 0, b"\x05", []),
        with_operation(0, 0, b"\x05", 5),
        with_operation(0, 0, b"\x05", [[0, 1, 0, 1]]),
        with_operation(0, 0, b"\x05", [[0, True]]),
        with_operation(0, 0, b"\x05", [[0, True, 0]]),
        with_operation(0, 0, b"\x05", [[1, True, 0, 1]]),
        with_operation(0, 0, b"\x05", [[0, True, 1, 1]]),
        with_operation(0, 0, b"\x05", [[0, True, 0, "1"]]),
        with_operation(0, 0, b"\x05", [[0, True, -1, 1]]),
        with_operation(0, 0, b"\x05", ["abcd"]),
    ],
)
def test_a_malformed_body_is_refused_as_a_whole(body: object) -> None:
    with pytest.raises(CodecError):
        decode_body(pack(body))


@pytest.mark.parametrize(
    "operation",
    [
        (0, 0, b"\xc3"),
        (0, 0, b"\x05", 0, 0),
        (0, 0, b"\x05", 0, 1 << 53),
        (0, 0, b"\x05\x05"),
        (0, 0, b"\x05", [[0, False, 0, 0]]),
        (0, 0, b"\x05", [[0, False, 0, 1, 0, 2]]),
        (0, 0, b"\x05", [[0, False, 0, 1 << 53]]),
    ],
)
def test_an_invalid_operation_is_void_and_keeps_its_seq(operation: tuple[object, ...]) -> None:
    (found,) = decode_body(pack(with_operation(*operation)))
    assert found.operations == (void("T/1"),)


@pytest.mark.parametrize("path", [b"", b"\xa1", b"\xff", MAP, TITLE])
@pytest.mark.parametrize("payload", [None, encode_stamped(STAMP, 1)])
@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("seq", [0, 1, MAX_SEQ, MAX_SEQ + 1])
def test_both_forms_of_a_removal_are_proven_alike(
    path: bytes, payload: bytes | None, prefix: bool, seq: int
) -> None:
    removal = Removal(path, prefix, ((SESSION, seq),))
    for removals in ((removal,), (removal, removal)):
        body = [Transaction("t", "a", 1, "", (Operation("Task/1", path, payload, removals),))]
        assert decode_body(encode_body(body)) == [proven(body[0])]


def test_too_many_operations_are_refused() -> None:
    row = [0, 1, 5, 1, *[[0, 0, None]] * (MAX_OPERATIONS + 1)]
    with pytest.raises(CodecError, match="operations"):
        decode_body(pack(changed(5, [row])))


@given(st.binary(max_size=100))
def test_decoding_noise_is_total(data: bytes) -> None:
    try:
        decode_body(data)
    except CodecError:
        return


nested = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats()
    | st.binary(max_size=3)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=1), inner, max_size=2)
    ),
    max_leaves=12,
)


@given(st.integers(1, 5), nested, nested)
@settings(max_examples=400)
def test_decoding_is_total_whatever_lies_in_the_parts(
    at: int, part: object, operation: object
) -> None:
    for body in (changed(at, part), changed(5, [[0, 1, 5, 1, operation]]), changed(5, [part])):
        try:
            decode_body(pack(body))
        except CodecError:
            continue


@given(bodies.filter(bool), st.integers(0, 1 << 16), st.integers(0, 255))
def test_decoding_is_total_on_damaged_bodies(body: list[Transaction], at: int, to: int) -> None:
    data = bytearray(encode_body(body))
    data[at % len(data)] = to
    try:
        found = decode_body(bytes(data))
    except CodecError:
        return
    assert decode_body(encode_body(found)) == found


def test_memory_of_decoding_is_proportional_to_the_input() -> None:
    operation = [0, 0, None, [[0, True, 0, 1]]]
    data = pack(changed(5, [[0, 1, 5, 1, *[operation] * 20_000]]))
    tracemalloc.start()
    assert operation_count(decode_body(data)) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * len(data)
    assert len(unpack(data)) == 6


GOLDEN = (
    "960294a174a161a0a16292a3542f31a65461736b2f3093c407a5636f756e7403c407a57469746c65"
    "01c403a16d0892cf0001900000000007cf000190000000000892960001cf018bcfe5680000000293"
    "0000c40105950101c40c92cf018bcfe568000000a17600cd03e8950003cf018bcfe5680000000094"
    "0002c0919602c300030105"
)

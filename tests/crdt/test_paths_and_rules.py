"""Which paths there are, and what may lie at them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt.codec import encode, encode_stamped
from crdt.errors import CodecError, InvalidId, InvalidValue
from crdt.ids import MAX_SESSION
from crdt.limits import MAX_DEPTH, MAX_STAMP, MAX_TEXT_UPDATE_BYTES
from crdt.paths import (
    CHILD_CODES,
    TypeCode,
    child_path,
    element_path,
    field_path,
    leaf_code,
    parse_path,
)
from crdt.structure import pack
from crdt.types.rules import (
    ABSENT,
    DISABLED,
    ENABLED,
    PRESENCE,
    PRESENT,
    valid_assignment,
)

MAP = field_path("m", TypeCode.MAP)
STAMP = 1_700_000_000_000 << 16
stored = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()


def test_type_codes_are_frozen() -> None:
    assert [(code.name, int(code)) for code in TypeCode] == [
        ("REGISTER", 1),
        ("MULTIVALUE", 2),
        ("COUNTER", 3),
        ("MAXIMUM", 4),
        ("MINIMUM", 5),
        ("FLAG", 6),
        ("SET", 7),
        ("MAP", 8),
        ("FEED", 9),
        ("BOUNDED", 10),
        ("DECIDED", 11),
        ("TEXT", 12),
        ("SEQUENCE", 13),
    ]


def test_golden_paths() -> None:
    inner = child_path(MAP, 7, TypeCode.MAP)
    path = element_path(child_path(inner, "k", TypeCode.SET), [True])
    assert path.hex() == "a16d08" + "0708" + "a16b07" + "91c3"
    parsed = parse_path(path)
    assert parsed.prefixes == (MAP, inner, path[:8])
    assert parsed.code is leaf_code(path) is TypeCode.SET
    assert parsed.element == encode([True])
    assert parse_path(inner).element is None


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"\xa1m",
        b"\xa1m\x00",
        b"\xa1m\x0e",
        b"\xa0\x01",
        b"\x01\x01",
        b"\xd9\x01m\x01",
        b"\xa1",
        b"\xa1r\x01\xa1x",
        b"\xa1s\x07\x01\x01",
        b"\xa1m\x08\xa1k",
        b"\xa1m\x08\xa1k\x0c",
        b"\xa1m\x08\xa1k\x0a",
        b"\xa1m\x08\xa1k\x0b",
        b"\xa1m\x08\xa1k\x0d",
        b"\xa1m\x08" + b"\xa1k\x08" * 8,
        b"\xa1s\x07" + encode("x" * 2000),
        encode("n" * 129) + b"\x01",
        b"\xa1s\x07\xcc\x01",
    ],
)
def test_everything_else_is_no_path(path: bytes) -> None:
    with pytest.raises(CodecError):
        parse_path(path)
    assert not valid_assignment(path, encode_stamped(STAMP, 1))


@given(st.binary(max_size=40))
def test_parsing_is_total(path: bytes) -> None:
    try:
        parsed = parse_path(path)
    except CodecError:
        return
    codes = [b"" if part.code is None else bytes((part.code,)) for part in parsed.components]
    assert (
        b"".join(part.key + code for part, code in zip(parsed.components, codes, strict=True))
        == path
    )


@given(stored, stored, st.sampled_from(sorted(CHILD_CODES)))
def test_a_whole_is_a_byte_prefix_of_its_parts_and_of_nothing_else(
    a: Any, b: Any, code: TypeCode
) -> None:
    left, right = child_path(MAP, a, code), child_path(MAP, b, code)
    assert left.startswith(MAP)
    assert left.startswith(right) == (left == right) == (encode(a) == encode(b))


def test_writers_are_told_when_names_and_keys_are_too_large() -> None:
    for name in ("", "n" * 129, "ü" * 65):
        with pytest.raises(InvalidId):
            field_path(name, TypeCode.REGISTER)
    with pytest.raises(InvalidValue, match="keep the large part in a value"):
        element_path(field_path("s", TypeCode.SET), "x" * 1024)
    path = MAP
    for _ in range(7):
        path = child_path(path, "k", TypeCode.MAP)
    parse_path(path)
    with pytest.raises(InvalidValue, match="flatter"):
        child_path(path, "k", TypeCode.MAP)


GOOD: list[tuple[bytes, bytes]] = [
    (field_path("r", TypeCode.REGISTER), encode_stamped(STAMP, {"a": [1, None]})),
    (field_path("r", TypeCode.REGISTER), encode_stamped(0, None)),
    (field_path("r", TypeCode.REGISTER), encode_stamped(MAX_STAMP, 1 << 70)),
    (field_path("v", TypeCode.MULTIVALUE), encode_stamped(5, "x")),
    (field_path("l", TypeCode.FEED), encode_stamped(5, "x")),
    (field_path("c", TypeCode.COUNTER), encode(-(1 << 90))),
    (field_path("x", TypeCode.MAXIMUM), encode(1)),
    (field_path("x", TypeCode.MAXIMUM), encode(float("-inf"))),
    (field_path("x", TypeCode.MINIMUM), encode(datetime(2026, 1, 1, tzinfo=UTC))),
    (child_path(MAP, 1, TypeCode.MINIMUM), encode("x")),
    (child_path(MAP, 1, TypeCode.MAXIMUM), encode(b"")),
    (child_path(MAP, 1, TypeCode.MULTIVALUE), encode_stamped(5, None)),
    (field_path("b", TypeCode.BOUNDED), encode([0, 0, [], []])),
    (field_path("b", TypeCode.BOUNDED), encode([1 << 70, 3, [1, 5, 2, 0], [MAX_SESSION, 1]])),
    (field_path("f", TypeCode.FLAG), DISABLED),
    (field_path("f", TypeCode.FLAG), ENABLED),
    (field_path("s", TypeCode.SET) + encode("e"), PRESENT),
    (field_path("s", TypeCode.SET) + encode({"a": 1}), ABSENT),
    (field_path("d", TypeCode.DECIDED), encode([0, "x"])),
    (field_path("t", TypeCode.TEXT), b"anything"),
    (child_path(MAP, 1, TypeCode.SET), PRESENCE),
    (child_path(MAP, 1, TypeCode.MAP), PRESENCE),
    (child_path(MAP, 1, TypeCode.FEED), PRESENCE),
    (child_path(MAP, 1, TypeCode.FEED), encode_stamped(1, 2)),
]
BAD: list[tuple[bytes, bytes]] = [
    (field_path("r", TypeCode.REGISTER), payload)
    for payload in (
        b"",
        b"\xc0",
        encode(5),
        encode([1]),
        encode([1, 2, 3]),
        encode([-1, 2]),
        encode([True, 2]),
        encode([1.0, 2]),
        encode([1 << 64, 2]),
        encode([STAMP, 2]) + b"\x00",
        encode([STAMP, 2])[:-1],
        b"\x92\xcf\x00\x00\x00\x00\x00\x00\x00\x05\x01",
        b"\x92\xcf" + b"\x01" * 8 + b"\xa2\xc3\x28",
        b"\x92\xcf" + b"\x01" * 8,
        b"\x92\xcf" + b"\x01" * 8 + b"\xa2a",
        b"\x92\xcf" + b"\x01" * 8 + b"\xc1",
        encode({"a": 1}),
        pack([STAMP, {"b": 1, "a": 2}]),
    )
] + [
    (field_path("c", TypeCode.COUNTER), encode(True)),
    (field_path("c", TypeCode.COUNTER), encode(1.0)),
    (field_path("c", TypeCode.COUNTER), b"\xcc\x05"),
    (field_path("f", TypeCode.FLAG), encode(1)),
    (field_path("f", TypeCode.FLAG), b"\xc0"),
    (field_path("s", TypeCode.SET), PRESENT),
    (field_path("s", TypeCode.SET) + encode("e"), encode(1)),
    (MAP, PRESENCE),
    (field_path("l", TypeCode.FEED), PRESENCE),
    (child_path(MAP, 1, TypeCode.REGISTER), PRESENCE),
    (field_path("d", TypeCode.DECIDED), encode([-1, "x"])),
    (field_path("d", TypeCode.DECIDED), encode([1 << 63, "x"])),
    *[
        (field_path("x", code), encode(value))
        for code in (TypeCode.MAXIMUM, TypeCode.MINIMUM)
        for value in (float("nan"), True, None, [1], {"a": 1})
    ],
    *[
        (field_path("b", TypeCode.BOUNDED), encode(value))
        for value in (
            0,
            [0, 0, []],
            [0, 0, [], [], 0],
            [-1, 0, [], []],
            [0, True, [], []],
            [0, 1.0, [], []],
            [0, 0, {}, []],
            [0, 0, [1], []],
            [0, 0, [1, -1], []],
            [0, 0, [], [1, False]],
            [0, 0, [2, 1, 1, 1], []],
            [0, 0, [], [1, 1, 1, 1]],
            [0, 0, [-1, 1], []],
            [0, 0, [True, 1], []],
            [0, 0, [], [MAX_SESSION + 1, 1]],
        )
    ],
    (field_path("b", TypeCode.BOUNDED), encode([0, 0, [], []]) + b"\x00"),
    (field_path("t", TypeCode.TEXT), b""),
    (field_path("t", TypeCode.TEXT), bytes(MAX_TEXT_UPDATE_BYTES + 1)),
    (field_path("x", TypeCode.SEQUENCE), b""),
]


@pytest.mark.parametrize(("path", "payload"), GOOD)
def test_what_may_lie_where(path: bytes, payload: bytes) -> None:
    assert valid_assignment(path, payload)


@pytest.mark.parametrize(("path", "payload"), BAD)
def test_what_may_not(path: bytes, payload: bytes) -> None:
    assert not valid_assignment(path, payload)


REGISTER = field_path("x", TypeCode.REGISTER)
COUNTER = field_path("x", TypeCode.COUNTER)


@given(stored, st.integers(0, MAX_STAMP))
def test_the_quick_proof_agrees_with_the_thorough_one(value: Any, stamp: int) -> None:
    payload = encode_stamped(stamp, value)
    assert valid_assignment(REGISTER, payload)
    assert valid_assignment(COUNTER, encode(value)) == (type(value) is int)
    assert not valid_assignment(REGISTER, payload + b"\x00")


@given(st.binary(max_size=16), st.sampled_from(list(TypeCode)))
def test_rules_are_total(payload: bytes, code: TypeCode) -> None:
    assert valid_assignment(field_path("x", code), payload) in (True, False)
    assert valid_assignment(REGISTER, b"\x92\xcf" + b"\x01" * 8 + payload) in (True, False)


def test_the_deepest_value_is_valid_in_a_register() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = {"k": value}
    assert valid_assignment(REGISTER, encode_stamped(STAMP, value))
    assert not valid_assignment(REGISTER, pack([STAMP, [value]]))

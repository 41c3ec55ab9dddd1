"""Values as bytes: exact, canonical, total."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import enum
import math
import struct
import tracemalloc
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crdt import codec, structure
from crdt.errors import CodecError, InvalidValue
from crdt.limits import MAX_DEPTH, MAX_VALUE_BYTES

UTC = datetime.UTC
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 300), 1 << 300)
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.timezones()).filter(lambda each: 1 < each.year < 9999)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


def exact(value: Any) -> Any:
    """A value with its types spelled out, so that == tells 1, True and 1.0 apart, and NaN is
    itself.
    """
    if isinstance(value, list | tuple):
        return ["list", *map(exact, value)]
    if isinstance(value, dict):
        return ["dict", *((key, exact(value[key])) for key in sorted(value))]
    if isinstance(value, float):
        return ["float", "nan" if math.isnan(value) else struct.pack(">d", value)]
    if isinstance(value, datetime.datetime):
        return ["datetime", value.astimezone(UTC).isoformat()]
    return [type(value).__name__, value]


@given(values)
def test_what_was_stored_comes_back_with_its_types(value: Any) -> None:
    data = codec.encode(value)
    assert exact(codec.decode(data)) == exact(value)
    assert exact(codec.decode_stored(data)) == exact(value)
    assert codec.encode(codec.decode(data)) == data
    assert structure.piece_end(b"\xc0" + data + b"\xc0", 1) == 1 + len(data)
    stamped = codec.encode_stamped(1 << 60, value)
    assert stamped == codec.encode([1 << 60, value])
    assert exact(list(codec.decode_stamped(stamped))) == exact([1 << 60, value])


@given(values, values)
@example(1, True)
@example(1, 1.0)
@example(0.0, -0.0)
@example("a", b"a")
@example({"a": 1, "b": 2}, {"b": 2, "a": 1})
@example((1, 2), [1, 2])
def test_encodings_are_equal_exactly_if_values_are(left: Any, right: Any) -> None:
    assert (codec.encode(left) == codec.encode(right)) == (exact(left) == exact(right))


def test_there_is_one_nan() -> None:
    other = struct.unpack(">d", b"\x7f\xf8\x00\x00\x00\x00\x00\x01")[0]
    negative = struct.unpack(">d", b"\xff\xf8\x00\x00\x00\x00\x00\x00")[0]
    nan = codec.encode(math.nan)
    assert codec.encode(other) == codec.encode(negative) == nan
    assert codec.encode([{"a": other}]) == codec.encode([{"a": math.nan}])


def test_equal_instants_are_equal_whatever_their_zone() -> None:
    there = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
    here = datetime.datetime(2026, 3, 1, 12, 30, tzinfo=there)
    assert codec.encode(here) == codec.encode(here.astimezone(UTC))
    assert codec.decode(codec.encode(here)).tzinfo is UTC


class Colour(enum.StrEnum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int = 1


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"meta": {"files": [0, 1, 2, {3}]}}, "at .meta.files[3]: set is not storable, use a list"),
        ({1: 2}, "key 1 is not a str"),
        ({"a": {"b c": {2: 3}}}, "at .a['b c']: key 2 is not a str"),
        (Colour.RED, "convert it to a plain str"),
        ([Point()], "at [0]: Point is not storable, use dataclasses.asdict"),
        (decimal.Decimal(1), "use str"),
        (bytearray(b"x"), "use bytes"),
        (object(), "use None, bool, int"),
        (datetime.date(2026, 1, 1), "use an aware datetime"),
        (datetime.datetime(2026, 1, 1), "a naive datetime is not storable, give it a time zone"),
        ({"a": ["x\ud800"]}, "at .a[0]: the str has a lone surrogate at index 1"),
        ("\udfff", "lone surrogate"),
        ({"\ud800": 1}, "lone surrogate"),
        (LOOP, "nested deeper than 32 levels (or within itself)"),
        ("x" * (MAX_VALUE_BYTES + 1), "at most 1048576 are storable: split it"),
        (["x" * 600_000, "y" * 600_000], "at most 1048576 are storable: split it"),
        (datetime.datetime.max.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=-5))),
         "outside the years 1 to 9999"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_refused_with_place_and_cure(value: Any, said: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        codec.encode(value)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_integer_larger_than_any_value_is_refused() -> None:
    with pytest.raises(InvalidValue, match="split it"):
        codec.encode(1 << (8 * MAX_VALUE_BYTES + 8))
    assert codec.decode(codec.encode(1 << 100_000)) == 1 << 100_000


def test_a_refused_value_leaves_nothing_behind_for_the_next() -> None:
    for bad in ({"a": {1}}, "\ud800", ["x", object()]):
        with pytest.raises(InvalidValue):
            codec.encode(bad)
        assert codec.encode("next") == b"\xa4next"


def test_the_deepest_value_fits_a_register_too() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert codec.decode(codec.encode(value)) == value
    stamped = codec.encode_stamped(1 << 60, value)
    assert codec.decode(stamped, max_depth=MAX_DEPTH + 1) == [1 << 60, value]
    with pytest.raises(CodecError):
        codec.decode(stamped)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "c1",
        "cc01",
        "d001",
        "d97f00",
        "d90161",
        "c500016a",
        "dc000101",
        "de0001a16101",
        "ca3f800000",
        "cb7ff8000000000001",
        "cbfff8000000000000",  # other NaNs
        "82a16201a16102",
        "82a16101a16102",  # keys out of order, twice
        "8101c0",
        "81c40161c0",  # keys that are not str
        "a1ff",
        "a3eda080",  # not UTF-8, a surrogate
        "0000",
        "9201",
        "81a161",  # something after it, cut off
        "d6ff00000000",
        "c70801" + "00" * 7 + "01",
        "c70901" + "00" * 9,
        "c70901ff80" + "00" * 7,
        "c70a010001" + "00" * 8,
        "c70a01fffe" + "00" * 8,
        "d7020400000000000000",
        "d7027fffffffffffffff",
        "c70102",
        "c70001",
        "c7090300" + "00" * 8,
        "dd" + "ff" * 4,
        "df" + "ff" * 4,
        "c6" + "ff" * 4,
        "91" * 5000 + "c0",
        "91" * 40 + "c0",
    ],
)
def test_bytes_that_are_not_the_one_encoding_of_a_value_are_refused(data: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec.decode(bytes.fromhex(data))
    assert len(str(caught.value)) < 300


@given(st.binary(max_size=60))
@settings(max_examples=500)
def test_decoding_is_total_and_never_finds_a_second_encoding(data: bytes) -> None:
    try:
        value = codec.decode(data)
    except CodecError:
        return
    assert codec.encode(value) == data


@given(values, st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_gives_another_value_or_none(value: Any, at: int, to: int) -> None:
    data = bytearray(codec.encode(value))
    data[at % len(data)] = to
    try:
        found = codec.decode(bytes(data))
    except CodecError:
        return
    assert codec.encode(found) == data


@given(st.binary(max_size=60))
def test_unpack_and_piece_end_are_total(data: bytes) -> None:
    for read in (structure.unpack, lambda each: structure.piece_end(each, 0)):
        try:
            read(data)
        except CodecError:
            continue


def test_unpack_refuses_too_much() -> None:
    assert structure.unpack(structure.pack([1, ["a", b"b", None]])) == (1, ("a", b"b", None))
    with pytest.raises(CodecError):
        structure.unpack(structure.pack([1, 2, 3]), max_items=2)
    with pytest.raises(CodecError):
        structure.unpack(structure.pack([1, 2, 3]), max_bytes=3)


def test_memory_of_decoding_is_proportional_to_the_input() -> None:
    size = 200_000
    for data in (
        b"\xdd" + size.to_bytes(4) + b"\x80" * size,
        b"\xdd\x7f\xff\xff\xff" + b"\x90" * size,
    ):
        tracemalloc.start()
        with contextlib.suppress(CodecError):
            codec.decode(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 200 * len(data)


GOLDEN = {
    "c0": None, "c2": False, "c3": True, "00": 0, "ff": -1, "cc80": 128, "d0df": -33,
    "cfffffffffffffffff": 2**64 - 1, "d38000000000000000": -(2**63),
    "c70901010000000000000000": 2**64, "c70901ff7fffffffffffffff": -(2**63) - 1,
    "cb3ff0000000000000": 1.0, "cb8000000000000000": -0.0, "cb7ff8000000000000": math.nan,
    "a3c3a978": "éx", "c4020001": b"\x00\x01", "9201c0": [1, None],
    "82a16101a1629102": {"b": [2], "a": 1},
    "d702" + "000647476f8c9c00": datetime.datetime(2025, 12, 31, 23, 0, tzinfo=UTC),
}  # fmt: skip


@pytest.mark.parametrize(("hexed", "value"), GOLDEN.items())
def test_golden_bytes(hexed: str, value: Any) -> None:
    """On the wire and in every journal: these may never change."""
    assert codec.encode(value).hex() == hexed
    assert exact(codec.decode(bytes.fromhex(hexed))) == exact(value)


@given(values)
def test_msgpack_readers_of_others_can_read_it(value: Any) -> None:
    msgpack.unpackb(codec.encode(value), strict_map_key=True)

"""Values as bytes, one way only: canonical MessagePack.

Two values are the same exactly if their encodings are: 1, True and 1.0 are three values, -0.0 and
0.0 are two, and there is one NaN. Canonical means the shortest form of every integer, string and
container header, floats as float64, dict keys distinct and in code point order. Integers beyond 64
bits are extension 1 (two's complement, big-endian, shortest); datetimes are extension 2 (signed
64-bit microseconds since 1970 UTC).

`decode` is total: it returns or raises CodecError, in time and memory proportional to the input.
"""

from __future__ import annotations

import datetime
import struct
from typing import Any, Final, Never

import msgpack  # type: ignore[import-untyped]

from crdt.errors import CodecError, InvalidValue
from crdt.limits import MAX_DEPTH, MAX_VALUE_BYTES
from crdt.structure import UNDECODABLE, bounded

__all__ = (
    "MAX_DEPTH",
    "MAX_VALUE_BYTES",
    "decode",
    "decode_stamped",
    "decode_stored",
    "encode",
    "encode_stamped",
    "stamp_of",
)

EXT_INTEGER: Final = 1
EXT_DATETIME: Final = 2

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_FIRST_MICROSECOND: Final = (
    datetime.datetime.min.replace(tzinfo=datetime.UTC) - _EPOCH
) // _MICROSECOND
_LAST_MICROSECOND: Final = (
    datetime.datetime.max.replace(tzinfo=datetime.UTC) - _EPOCH
) // _MICROSECOND
_NAN: Final = b"\x7f\xf8\x00\x00\x00\x00\x00\x00"
_SHORT: Final = 1 << 10
_THE_NAN: Final = struct.unpack(">d", _NAN)[0]

# One packer for all small values: building one costs more than packing. It calls no Python code
# while it packs, so it cannot be entered twice; large structures get one of their own, so that
# this one's buffer stays small.
_pack: Final = msgpack.Packer(autoreset=True, strict_types=True, buf_size=4096).pack
_unpackb: Final = msgpack.unpackb


# ----------------------------------------------------------------------------------------- writing


def encode(value: object) -> bytes:
    """The canonical encoding of a value.

    Storable: None, bool, int, float, str, bytes, aware datetime, and lists (or tuples, which come
    back as lists) and dicts with str keys of those. Raises InvalidValue, naming the place inside
    the value and the cure.
    """
    kind = type(value)
    if kind is str or kind is bytes:
        if len(value) > MAX_VALUE_BYTES:  # type: ignore[arg-type]
            _refuse_size(len(value))  # type: ignore[arg-type]
        if kind is str and not value.isascii():  # type: ignore[attr-defined]
            value = _plain(value, [])
    elif value is not None and kind is not bool and (kind is not int or _is_wide(value)):  # type: ignore[arg-type]
        value = _plain(value, [])
    data: bytes = _pack(value)
    if len(data) > MAX_VALUE_BYTES:
        _refuse_size(len(data))
    return data


def encode_stamped(stamp: int, value: object) -> bytes:
    """The canonical encoding of [stamp, value]. Bounds and error places are those of `value`
    alone.
    """
    if type(value) is str and len(value) <= _SHORT and value.isascii():
        return _pack([stamp, value])  # type: ignore[no-any-return]
    return b"\x92" + _pack(stamp) + encode(value)  # type: ignore[no-any-return]


def _is_wide(value: int) -> bool:
    return not -0x8000_0000_0000_0000 <= value <= 0xFFFF_FFFF_FFFF_FFFF


def _plain(value: Any, place: list[str | int]) -> Any:
    """What the packer can pack: dicts sorted, tuples as lists, wide ints and datetimes as
    extensions.
    """
    kind = type(value)
    if value is None or kind is bool or kind is bytes:
        return value
    if kind is int:
        return _integer_extension(value) if _is_wide(value) else value
    if kind is str:
        _check_text(value, place)
        return value
    if kind is float:
        return value if value == value else _THE_NAN
    if kind is list or kind is tuple:
        _check_depth(place)
        return [_plain_child(child, place, index) for index, child in enumerate(value)]
    if kind is dict:
        _check_depth(place)
        for key in value:
            if type(key) is not str:
                _refuse(place, f"key {key!r:.60} is not a str, use str keys")
            _check_text(key, place)
        return {key: _plain_child(value[key], place, key) for key in sorted(value)}
    if kind is datetime.datetime:
        return _datetime_extension(value, place)
    return _refuse_kind(value, place)


def _plain_child(value: Any, place: list[str | int], step: str | int) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is bytes or (kind is str and value.isascii()):
        return value
    place.append(step)
    plain = _plain(value, place)
    place.pop()
    return plain


def _integer_extension(value: int) -> Any:
    # One bit more than the magnitude for the sign; ~value makes -2**n as short as 2**n - 1.
    bits = (value if value >= 0 else ~value).bit_length() + 1
    size = (bits + 7) // 8
    if size > MAX_VALUE_BYTES:
        _refuse_size(size)
    return msgpack.ExtType(EXT_INTEGER, value.to_bytes(size, "big", signed=True))


def _datetime_extension(value: datetime.datetime, place: list[str | int]) -> Any:
    if value.tzinfo is None or value.utcoffset() is None:
        _refuse(place, "a naive datetime is not storable, give it a time zone (datetime.UTC)")
    micros = (value - _EPOCH) // _MICROSECOND
    if not _FIRST_MICROSECOND <= micros <= _LAST_MICROSECOND:
        _refuse(place, "the datetime lies outside the years 1 to 9999 in UTC")
    return msgpack.ExtType(EXT_DATETIME, struct.pack(">q", micros))


# ---------------------------------------------------------------------------------------- refusing

_CURES: Final = {
    "set": "use a list",
    "frozenset": "use a list",
    "bytearray": "use bytes",
    "memoryview": "use bytes",
    "date": "use an aware datetime or str",
    "time": "use str",
    "timedelta": "use seconds as a number",
    "Decimal": "use str",
    "Fraction": "use str",
    "complex": "use a list of two floats",
    "UUID": "use str or its .bytes",
    "PosixPath": "use str",
    "WindowsPath": "use str",
    "OrderedDict": "use a dict",
    "defaultdict": "use a dict",
}


def _refuse_kind(value: object, place: list[str | int]) -> Never:
    kind = type(value)
    cure = _CURES.get(kind.__name__)
    if cure is None:
        if hasattr(value, "__dataclass_fields__"):
            cure = "use dataclasses.asdict"
        elif isinstance(value, bool | int | float | str | bytes | list | dict | tuple):
            base = next(b for b in kind.__mro__ if b.__module__ == "builtins")
            cure = f"convert it to a plain {base.__name__} first"
        else:
            cure = "use None, bool, int, float, str, bytes, datetime, list or dict"
    _refuse(place, f"{kind.__name__} is not storable, {cure}")


def _refuse(place: list[str | int], reason: str) -> Never:
    where = "".join(
        f"[{step}]"
        if isinstance(step, int)
        else f".{step}"
        if step.isidentifier()
        else f"[{step!r:.60}]"
        for step in place
    )
    raise InvalidValue(f"at {where}: {reason}" if where else reason)


def _refuse_size(size: int) -> Never:
    raise InvalidValue(
        f"the value takes {size} bytes, at most {MAX_VALUE_BYTES} are storable: split it"
    )


def _check_text(text: str, place: list[str | int]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        _refuse(
            place,
            f"the str has a lone surrogate at index {error.start}, use text that UTF-8 can hold",
        )


def _check_depth(place: list[str | int]) -> None:
    if len(place) >= MAX_DEPTH:
        _refuse(place[:4], f"nested deeper than {MAX_DEPTH} levels (or within itself), flatten it")


# ----------------------------------------------------------------------------------------- reading


def decode(data: bytes, *, max_bytes: int = MAX_VALUE_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a canonical encoding. Raises CodecError for every other byte string."""
    if len(data) > max_bytes:
        raise CodecError(f"a value of {len(data)} bytes is over the bound of {max_bytes}")
    try:
        raw = bounded(data, len(data), max_depth, use_list=True)
        value = _proven(raw, max_depth)
        again = _pack(raw)
    except UNDECODABLE as error:
        raise CodecError(
            f"not a value: {data[:24].hex()} ({type(error).__name__}: {error})"
        ) from None
    if again != data:
        raise CodecError(f"not the canonical form of a value: {data[:24].hex()}")
    return value


def decode_stored(data: bytes) -> Any:
    """The value of bytes that are known to be canonical (they passed `decode` or came from
    `encode`).

    A fresh value on every call: nothing that a caller could change is shared. On other bytes it
    may raise anything or return nonsense.
    """
    return _unpackb(data, ext_hook=_from_extension)


def decode_stamped(data: bytes) -> tuple[int, Any]:
    """The (stamp, value) of a payload that is known to be canonical, as `decode_stored`."""
    stamp, value = _unpackb(data, ext_hook=_from_extension)
    return stamp, value


def _proven(raw: Any, depth: int) -> Any:
    """`raw` with its extensions converted; ValueError for what no canonical encoding could have
    given.
    """
    kind = type(raw)
    if kind is str or kind is int or raw is None or kind is bool or kind is bytes:
        return raw
    if kind is float:
        if raw != raw and struct.pack(">d", raw) != _NAN:
            raise ValueError("another NaN than the canonical one")
        return raw
    if kind is list or kind is dict:
        if depth <= 0:
            raise ValueError("nested too deep")
        if kind is list:
            return [_proven(child, depth - 1) for child in raw]
        previous = None
        for key in raw:
            if type(key) is not str or (previous is not None and key <= previous):
                raise ValueError("keys are not str in order")
            previous = key
        return {key: _proven(child, depth - 1) for key, child in raw.items()}
    if kind is msgpack.ExtType:
        return _from_extension(raw.code, raw.data)
    raise ValueError(f"{kind.__name__} is not a value")


def _from_extension(code: int, data: bytes) -> int | datetime.datetime:
    if code == EXT_INTEGER:
        value = int.from_bytes(data, "big", signed=True)
        if not _is_wide(value) or (data[0] in (0x00, 0xFF) and (data[0] ^ data[1]) < 0x80):
            raise ValueError("an integer that has a shorter form")
        return value
    if code == EXT_DATETIME and len(data) == 8:
        micros = struct.unpack(">q", data)[0]
        if _FIRST_MICROSECOND <= micros <= _LAST_MICROSECOND:
            return _EPOCH + datetime.timedelta(microseconds=micros)
    raise ValueError(f"extension {code} of {len(data)} bytes is not a value")


def stamp_of(data: bytes) -> int:
    """The stamp of a payload that is known to be a canonical [stamp, value]."""
    if data[1] == 0xCF:  # as every stamp since 1970 is encoded
        return int.from_bytes(data[2:10])
    stamp: int = decode_stored(data)[0]
    return stamp

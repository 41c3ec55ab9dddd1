"""What may lie where: whether a payload is well-formed for the type of its path. Pure functions of
bytes.

Everything that arrives is proven here before it enters a shard; what fails is a void operation,
which uses up its seq and does nothing. Readers can therefore trust what they find:

    REGISTER, MULTIVALUE, FEED   [stamp, value]
    COUNTER                      int, the session's running total
    MAXIMUM, MINIMUM             the value: a number (no NaN), datetime, str or bytes
    BOUNDED, at a document root  [granted, spent, [session, given …], [session, taken over …]]
    FLAG                         ENABLED or DISABLED
    SET, at an element           PRESENT or ABSENT (a remove-wins set's marker)
    SET, MAP, FEED in a map      PRESENCE: the child exists though nothing lies in it
    DECIDED                      [epoch, value]
    TEXT, SEQUENCE               a yrs update, only bounded here: its own parser proves it
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable
from typing import Any, Final

from crdt.codec import decode
from crdt.errors import CodecError
from crdt.ids import MAX_SESSION
from crdt.limits import MAX_DEPTH, MAX_EPOCH, MAX_PAYLOAD_BYTES, MAX_STAMP, MAX_TEXT_UPDATE_BYTES
from crdt.paths import TypeCode, parse_path

ENABLED: Final = b"\xc3"
DISABLED: Final = b"\xc2"
PRESENT: Final = b"\xc3"
ABSENT: Final = b"\xc2"
PRESENCE: Final = b"\xc3"

_MARKERS: Final = frozenset({ENABLED, DISABLED})
_ORDERED: Final = frozenset({int, float, datetime.datetime, str, bytes})
_SHORT_STAMP: Final = b"\x00\x00\x00\x00"

PayloadRule = Callable[[bytes], bool]


def stamped(payload: bytes) -> bool:
    """[stamp, value]: a 64-bit stamp and any value."""
    # By far the most common: a stamp of today and a short plain value. Proven without decoding.
    if payload[:2] == b"\x92\xcf" and payload[2:6] != _SHORT_STAMP and len(payload) > 10:
        tag = payload[10]
        if 0xA0 <= tag < 0xC0:
            if len(payload) == tag - 0x95 and payload[11:].isascii():
                return True
        elif tag == 0xD9 and len(payload) > 43:
            if len(payload) == payload[11] + 12 and payload[12:].isascii():
                return True
        elif tag < 0x80 or tag >= 0xE0 or tag == 0xC0 or tag == 0xC2 or tag == 0xC3:
            return len(payload) == 11
    return _numbered(payload, MAX_STAMP)


def decided(payload: bytes) -> bool:
    """[epoch, value]: an epoch from 0 up and any value."""
    return _numbered(payload, MAX_EPOCH)


def _numbered(payload: bytes, greatest: int) -> bool:
    if payload[:1] != b"\x92":
        return False
    value = _decoded(payload)
    return value is not None and type(value[0]) is int and 0 <= value[0] <= greatest


def counter(payload: bytes) -> bool:
    """An int of any size."""
    if len(payload) == 1:
        return payload < b"\x80" or payload >= b"\xe0"
    return type(_decoded(payload)) is int


def extremum(payload: bytes) -> bool:
    """A value of one of the types that have an order; NaN has none."""
    value = _decoded(payload)
    return type(value) in _ORDERED and value == value


def bounded(payload: bytes) -> bool:
    """[granted, spent, [session, given …], [session, taken over …]]: ints from 0 up, the sessions
    of each list ascending.
    """
    if payload[:1] != b"\x94":
        return False
    row = _decoded(payload)
    if row is None:
        return False
    granted, spent, given, taken = row
    return _amount(granted) and _amount(spent) and _amounts(given) and _amounts(taken)


def _amounts(listed: Any) -> bool:
    if type(listed) is not list or len(listed) % 2:
        return False
    previous = -1
    for session, amount in zip(listed[::2], listed[1::2], strict=True):
        if type(session) is not int or not previous < session <= MAX_SESSION:
            return False
        if not _amount(amount):
            return False
        previous = session
    return True


def _amount(value: Any) -> bool:
    return type(value) is int and value >= 0


def flag(payload: bytes) -> bool:
    """ENABLED or DISABLED."""
    return payload in _MARKERS


def element(payload: bytes) -> bool:
    """PRESENT or ABSENT."""
    return payload in _MARKERS


def presence(payload: bytes) -> bool:
    """PRESENCE."""
    return payload == PRESENCE


def child_feed(payload: bytes) -> bool:
    """An item, or PRESENCE."""
    return payload == PRESENCE or stamped(payload)


def update(payload: bytes) -> bool:
    """Not empty and not too large; whether it is a yrs update is for its own parser to say."""
    return 0 < len(payload) <= MAX_TEXT_UPDATE_BYTES


def nothing(payload: bytes) -> bool:
    """No payload may lie here."""
    del payload
    return False


def _decoded(payload: bytes) -> Any:
    try:
        return decode(payload, max_bytes=MAX_PAYLOAD_BYTES, max_depth=MAX_DEPTH + 1)
    except CodecError:
        return None


_RULES: Final[dict[TypeCode, PayloadRule]] = {
    TypeCode.REGISTER: stamped,
    TypeCode.MULTIVALUE: stamped,
    TypeCode.COUNTER: counter,
    TypeCode.MAXIMUM: extremum,
    TypeCode.MINIMUM: extremum,
    TypeCode.BOUNDED: bounded,
    TypeCode.FLAG: flag,
    TypeCode.SET: element,
    TypeCode.FEED: stamped,
    TypeCode.DECIDED: decided,
    TypeCode.TEXT: update,
    TypeCode.SEQUENCE: update,
}


@functools.lru_cache(maxsize=16_384)
def path_rule(path: bytes) -> PayloadRule:
    """The rule for what may be assigned at exactly this path. Raises CodecError if it is no path
    at all. Cached, bounded.
    """
    parsed = parse_path(path)
    code = parsed.code
    nested = len(parsed.components) > 1
    if code is TypeCode.SET and parsed.components[-1].code is not None:
        return presence if nested else nothing
    if code is TypeCode.MAP:
        return presence if nested else nothing
    if code is TypeCode.FEED and nested:
        return child_feed
    return _RULES.get(code, nothing)


def valid_assignment(path: bytes, payload: bytes) -> bool:
    """Whether `payload` may be assigned at `path`. Total."""
    try:
        return type(payload) is bytes and path_rule(path)(payload)
    except CodecError:
        return False

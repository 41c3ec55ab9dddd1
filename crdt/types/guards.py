"""Entries that not every removal may take: what receivers enforce of maxima, decisions and rows.

An honest writer never removes what outranks what it writes, nor the row of another session. A
dishonest one could, and would turn a maximum, a decision or a budget back. So every receiver leaves
such an entry where it is. Each verdict is a function of the removing operation and of the entry
alone: it cannot depend on the order in which operations arrive.
"""

from __future__ import annotations

import datetime
from typing import Any, Final

from crdt.codec import decode_stored
from crdt.paths import TypeCode

RANKED: Final = frozenset({TypeCode.MAXIMUM, TypeCode.MINIMUM, TypeCode.DECIDED})
"""An assignment removes only what does not outrank it."""

LASTING: Final = frozenset({TypeCode.DECIDED, TypeCode.BOUNDED})
"""Removed by an assignment in the same place only, never with a document or a map around it."""

GUARDED: Final = RANKED | LASTING
GUARDED_BYTES: Final = bytes(sorted(GUARDED))
"""A path that ends in none of these bytes is not guarded; one that does may be (elements of sets
end in anything)."""

_KINDS: Final[dict[type, int]] = {int: 0, float: 0, datetime.datetime: 1, str: 2, bytes: 3}

Row = tuple[int, int, dict[int, int], dict[int, int]]
"""A session's part of a bounded counter: granted, spent, given to others, taken over of others."""


def rank(payload: bytes) -> tuple[int, Any, bytes]:
    """The place of a valid MAXIMUM or MINIMUM payload in the one order of all of them.

    Numbers by value, then datetimes, strings, bytes; equal numbers of two types by their encoding.
    """
    value = decode_stored(payload)
    return _KINDS[type(value)], value, payload


def outranks(code: TypeCode, held: bytes, payload: bytes) -> bool:
    """Whether an entry's payload stands above that of an assignment in the same place."""
    if held == payload:
        return False
    if code is TypeCode.DECIDED:
        return bool(decode_stored(held)[0] > decode_stored(payload)[0])
    above = rank(held) > rank(payload)
    return not above if code is TypeCode.MINIMUM else above


def may_remove(code: TypeCode, owner: int, held: bytes, author: int, payload: bytes | None) -> bool:
    """Whether an operation of session `author` that names this entry of session `owner` takes it.

    `payload` is what the operation assigns in the same place; None if it assigns nothing there.
    """
    if payload is None:
        return code not in LASTING
    if code is TypeCode.BOUNDED:
        return owner == author
    return code not in RANKED or not outranks(code, held, payload)


def read_row(payload: bytes) -> Row:
    """A valid BOUNDED payload taken apart."""
    granted, spent, given, taken = decode_stored(payload)
    return (
        granted,
        spent,
        dict(zip(given[::2], given[1::2], strict=True)),
        dict(zip(taken[::2], taken[1::2], strict=True)),
    )


def continues(before: bytes, after: bytes) -> bool:
    """Whether a session's next row takes nothing back of its last one."""
    granted, spent, given, taken = read_row(before)
    now_granted, now_spent, now_given, now_taken = read_row(after)
    return (
        now_granted >= granted
        and now_spent >= spent
        and all(now_given.get(other, 0) >= amount for other, amount in given.items())
        and all(now_taken.get(other, 0) >= amount for other, amount in taken.items())
    )

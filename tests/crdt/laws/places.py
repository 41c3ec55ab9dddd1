"""Where the worlds of the laws write, and what: every type, at the root and in maps, as bytes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from crdt.codec import encode, encode_stamped
from crdt.paths import TypeCode, child_path, element_path, field_path
from crdt.types.rules import ABSENT, DISABLED, ENABLED, PRESENCE, PRESENT

DOCUMENTS: Final = ("Task/1", "Task/2")
MAP: Final = field_path("m", TypeCode.MAP)
INNER: Final = child_path(MAP, "inner", TypeCode.MAP)
SET: Final = field_path("s", TypeCode.SET)
FEED: Final = field_path("l", TypeCode.FEED)
TEXT: Final = field_path("t", TypeCode.TEXT)
BOUNDED: Final = field_path("b", TypeCode.BOUNDED)
PREFIXES: Final = (b"", MAP, INNER, SET)

Choose = Callable[[int], bytes]


class Place(NamedTuple):
    """A path, and the payloads that are written there."""

    path: bytes
    payload: Choose


def one_of(*payloads: bytes) -> Choose:
    return lambda choice: payloads[choice % len(payloads)]


STAMPED: Final = one_of(*(encode_stamped(n // 2 + 1, "abba"[n]) for n in range(4)))
# Of equal numbers the encoding decides; numbers, datetimes, strings and bytes have one order.
ORDERED: Final = one_of(
    *map(encode, (1, 1.0, 2, "a", 1, 1.0, b"a", datetime(2026, 1, 1, tzinfo=UTC)))
)
EPOCHS: Final = one_of(*(encode_stamped(n // 2, "ab"[n % 2]) for n in range(6)))
AMOUNTS: Final = one_of(*(encode(n) for n in (1, 2, -3, 1 << 70)))

PLAIN: Final = (
    Place(field_path("r", TypeCode.REGISTER), STAMPED),
    Place(field_path("v", TypeCode.MULTIVALUE), STAMPED),
    Place(field_path("c", TypeCode.COUNTER), AMOUNTS),
    Place(field_path("f", TypeCode.FLAG), one_of(ENABLED, DISABLED)),
    Place(FEED, STAMPED),
    # Elements that end in the number of a guarded type, or of one that has no entries.
    Place(element_path(SET, int(TypeCode.MAXIMUM)), one_of(PRESENT, ABSENT)),
    Place(element_path(SET, int(TypeCode.TEXT)), one_of(PRESENT, ABSENT)),
    Place(child_path(MAP, "k", TypeCode.REGISTER), STAMPED),
    Place(child_path(MAP, "kk", TypeCode.FEED), one_of(PRESENCE, encode_stamped(1, "x"))),
    Place(INNER, one_of(PRESENCE)),
    Place(child_path(INNER, 5, TypeCode.COUNTER), AMOUNTS),
)
GUARDED: Final = (
    Place(field_path("x", TypeCode.MAXIMUM), ORDERED),
    Place(field_path("n", TypeCode.MINIMUM), ORDERED),
    Place(child_path(INNER, 6, TypeCode.MAXIMUM), ORDERED),
    Place(field_path("d", TypeCode.DECIDED), EPOCHS),
)
PLACES: Final = PLAIN + GUARDED


def row(granted: int, spent: int, given: dict[int, int], taken: dict[int, int]) -> bytes:
    """A row of a bounded counter."""
    flat = [[n for pair in sorted(part.items()) for n in pair] for part in (given, taken)]
    return encode([granted, spent, *flat])

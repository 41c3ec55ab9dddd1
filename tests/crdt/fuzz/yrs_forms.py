"""yrs updates as structures: taken apart, changed in one place or made up, and put together again.

A reader and writer of their own, which know the grammar of `crdt.types.yrs` and check nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from crdt.codec import encode
from tests.crdt.fuzz.corpus import any_value

Id = tuple[int, int]

DELETED, TEXT, FORMAT, SLOTS = 1, 4, 6, 8
OTHER_KINDS: Final = (0, 2, 3, 5, 7, 9, 10, 31)
CLOCKS: Final = (0, 1, 127, 128, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 53) - 1)
PIECES: Final = ("a", "bc", "é", "😀", "x😀y", "e\u0301", "\x00", "\ud7ff")
KEYS: Final = ("bold", "b", "", "é", "k" * 130)
JSON: Final = ("true", "null", "1", "1.0", "01", '"x"', '"\\u0078"', "[]", "[[[[", "{}", '{"a":1}',
               "NaN", "9007199254740993", '"\\ud800"', "1e999", "")  # fmt: skip


@dataclass(slots=True)
class Piece:
    """An item: what it stands between, and the bytes of its content behind the info byte."""

    kind: int
    origin: Id | None
    right: Id | None
    content: bytes


@dataclass(slots=True)
class Update:
    """An update: {client: (clock, pieces)} in order, ranges (client, clock, length), a trailer."""

    sections: list[tuple[int, int, list[Piece]]] = field(default_factory=list)
    deletions: list[tuple[int, list[Id]]] = field(default_factory=list)
    rest: bytes = b""


def varuint(*each: int) -> bytes:
    """LEB128."""
    out = bytearray()
    for number in each:
        while number > 0x7F:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        out.append(number)
    return bytes(out)


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def skip(self) -> None:
        size = self.number()
        self.at += size


def taken_apart(data: bytes) -> Update:
    """A valid update (or state: what follows is `rest`)."""
    source, update = _Bytes(data), Update()
    number = source.number
    for _ in range(number()):
        count, client, clock = number(), number(), number()
        update.sections.append((client, clock, [_piece(source) for _ in range(count)]))
    for _ in range(number()):
        client = number()
        update.deletions.append((client, [(number(), number()) for _ in range(number())]))
    update.rest = data[source.at :]
    return update


def _piece(source: _Bytes) -> Piece:
    info = source.data[source.at]
    source.at += 1
    origin = (source.number(), source.number()) if info & 0x80 else None
    right = (source.number(), source.number()) if info & 0x40 else None
    if origin is None and right is None:
        source.at += 3
    start, kind = source.at, info & 0x1F
    if kind == DELETED:
        source.number()
    elif kind == SLOTS:
        for _ in range(source.number()):
            source.at += 1
            source.skip()
    else:
        for _ in range(2 if kind == FORMAT else 1):
            source.skip()
    return Piece(kind, origin, right, source.data[start : source.at])


def put_together(update: Update) -> bytes:
    """The bytes of an update, whatever it says."""
    out = bytearray(varuint(len(update.sections)))
    for client, clock, pieces in update.sections:
        out += varuint(len(pieces), client, clock)
        for piece in pieces:
            out.append(0x80 * bool(piece.origin) | 0x40 * bool(piece.right) | piece.kind)
            out += varuint(*(piece.origin or ()), *(piece.right or ()))
            if not piece.origin and not piece.right:
                out += b"\x01\x01t"
            out += piece.content
    out += varuint(len(update.deletions))
    for client, ranges in update.deletions:
        out += varuint(client, len(ranges), *(number for each in ranges for number in each))
    return bytes(out) + update.rest


def altered(random: Random, data: bytes, clocks: Mapping[int, int]) -> bytes:
    """A valid update or state with one or a few of its parts changed."""
    update = taken_apart(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _alter(random, update, clocks)
    return put_together(update)


def _alter(random: Random, update: Update, clocks: Mapping[int, int]) -> None:
    if update.deletions and random.random() < 0.25:
        client, ranges = random.choice(update.deletions)
        at = random.randrange(len(ranges))
        ranges[at] = random.choice(
            ((ranges[at][0] + 1, ranges[at][1]), (ranges[at][0], ranges[at][1] + 1),
             (random.choice(CLOCKS), 1), (0, random.choice(CLOCKS)), ranges[0])
        )  # fmt: skip
        return
    if not update.sections or random.random() < 0.1:
        update.deletions.append((_anybody(random, clocks)[0], [(0, random.randrange(5))]))
        return
    place = random.randrange(len(update.sections))
    client, clock, pieces = update.sections[place]
    at = random.randrange(len(pieces)) if pieces else 0
    match random.randrange(9):
        case 0:
            update.sections[place] = (_anybody(random, clocks)[0], clock, pieces)
        case 1:
            wrong = random.choice((clock + 1, clock - 1 if clock else 1, *CLOCKS))
            update.sections[place] = (client, wrong, pieces)
        case 2 | 3 if pieces:
            pieces[at].origin = _anybody(random, clocks) if random.random() < 0.9 else None
        case 4 | 5 if pieces:
            pieces[at].right = _anybody(random, clocks) if random.random() < 0.9 else None
        case 6 if pieces:
            pieces[at] = _made_up(random, client, clocks, random.choice((TEXT, SLOTS)))
        case 7:
            pieces.insert(at, _made_up(random, client, clocks, random.choice((TEXT, SLOTS))))
        case 8 if len(update.sections) > 1:
            update.sections[place] = random.choice(update.sections)
        case _ if pieces:
            del pieces[at]


def invented(random: Random, clocks: Mapping[int, int], session: int, kind: int) -> bytes:
    """An operation of a correct form, whose neighbours and deletions are picked blindly.

    Most ids exist; the neighbours are mostly in an order that no honest author can have seen.
    """
    update = Update()
    reach = dict(clocks)
    count = random.choice((0, 1, 1, 1, 2, 3, 8))
    first = reach.get(session, 0)
    pieces = []
    for _ in range(count):
        pieces.append(_made_up(random, session, reach, kind))
        reach[session] = reach.get(session, 0) + 1
    if count:
        update.sections.append((session, first, pieces))
    if random.random() < 0.4:
        client, clock = _anybody(random, reach)
        update.deletions.append((client, [(clock, random.randrange(4))]))
    return put_together(update)


def _anybody(random: Random, clocks: Mapping[int, int]) -> Id:
    """An id, mostly one that exists."""
    if not clocks or random.random() < 0.05:
        return random.choice((0, 1, 9, (1 << 53) - 1, 1 << 53)), random.choice(CLOCKS)
    client = random.choice(list(clocks))
    return client, random.randrange(clocks[client] + 1)


def _made_up(random: Random, session: int, clocks: Mapping[int, int], kind: int) -> Piece:
    origin = _anybody(random, clocks) if random.random() < 0.8 else None
    right = _anybody(random, clocks) if random.random() < 0.6 else None
    chance = random.random()
    if chance < 0.1:
        return Piece(DELETED, origin, right, varuint(random.choice((1, 2, 5, *CLOCKS[:2]))))
    if chance < 0.13:
        return Piece(random.choice(OTHER_KINDS), origin, right, random.randbytes(5))
    if kind == SLOTS:
        return Piece(SLOTS, origin, right, slots(random, session))
    if chance < 0.35:
        key, value = random.choice(KEYS[:2]), random.choice(JSON[:3])
        if chance < 0.2:
            key, value = random.choice(KEYS), random.choice(JSON)
        return Piece(FORMAT, origin, right, _text(key) + _text(value))
    return Piece(TEXT, origin, right, _text(random.choice(PIECES)))


def _text(text: str) -> bytes:
    data = text.encode()
    return varuint(len(data)) + data


def slots(random: Random, session: int) -> bytes:
    """The content of an item of slots, most of them in the form that slots have."""
    raws = []
    for _ in range(random.choice((1, 1, 2, 5))):
        slot = [any_value(random), session, random.randrange(1 << 64)]
        if random.random() < 0.3:
            slot.append(random.randrange(1 << 64))
        if random.random() < 0.1:
            slot[random.randrange(len(slot))] = any_value(random)
        raws.append(encode(slot))
    tag = 116 if random.random() < 0.97 else random.randrange(100, 128)
    return varuint(len(raws)) + b"".join(bytes((tag,)) + varuint(len(raw)) + raw for raw in raws)

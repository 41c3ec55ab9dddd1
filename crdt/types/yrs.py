"""The yrs/Yjs v1 update format, read strictly: what a Text or Sequence may be told, nothing else.

pycrdt must never see bytes a stranger chose: malformed ones crash, hang or poison the process (a
Rust panic at best), and well-formed ones may write under another's client id or wait for ever for
something missing. So every update passes here first: `parse_update` knows the grammar (pure, total,
linear, bounded by the input's size); `crdt.types.yrs_check` knows what must hold against the ids
that exist.

The format, all numbers unsigned LEB128 (lib0 "varUint"), here in their shortest form only:

    update   = number of sections, section*, number of deleting clients, deletion*
    section  = number of items, client, clock of the first item, item*      (no gaps in between)
    item     = info byte, [origin], [right origin], [1, root name], content
    info     = 0x80 origin follows | 0x40 right origin follows | kind of content
               (the root is named only if neither origin follows)
    content  = kind 1: length of something already deleted
             | kind 4: text | kind 6: text (a key), text (JSON)      in a Text
             | kind 8: number of slots, (116, byte length, bytes)*   in a Sequence
    text     = byte length, UTF-8
    origin   = client, clock
    deletion = client, number of ranges, (clock, length)*

Ids are (client, clock); one clock is one UTF-16 unit of text (a character above U+FFFF takes two),
one format or one slot.
"""

from typing import NamedTuple

from crdt.errors import CodecError
from crdt.limits import MAX_TEXT_UPDATE_BYTES
from crdt.types.formats import check_format
from crdt.types.slots import Slot, parse_slot

ROOT = "t"
MAX_SESSION = 2**53 - 1
MAX_CLOCK = 2**31 - 1
"""Clocks are 32 bits in yrs; it misbehaves near the end of them."""
MAX_UPDATE_UNITS = 1 << 20
"""Clocks one operation may take: UTF-16 units, formats, slots."""
MAX_UPDATE_ITEMS = 1 << 12
"""Items one operation may add. yrs looks at all that lies between an item's neighbours; a dishonest
author can make that everything, for every item (4,096 items in a text of as many: a second)."""
MAX_SNAPSHOT_BYTES = 1 << 28
"""Of one whole text with its history; parsed it takes up to some 60 times that in memory. Far above
what writers allow themselves (`crdt.types.text.MAX_TEXT_BYTES`): operations are never refused for
what is already there, so a text may grow beyond that, and must still load."""
EMPTY_UPDATE = b"\x00\x00"

_ORIGIN, _RIGHT_ORIGIN = 0x80, 0x40
_KIND_DELETED, _KIND_TEXT, _KIND_FORMAT, _KIND_SLOTS = 1, 4, 6, 8
_TAG_BYTES = 116
_ROOT_BYTES = ROOT.encode()


def _infos(*kinds: int) -> frozenset[int]:
    origins = (0, _ORIGIN, _RIGHT_ORIGIN, _ORIGIN | _RIGHT_ORIGIN)
    return frozenset(each | kind for each in origins for kind in kinds)


TEXT = _infos(_KIND_DELETED, _KIND_TEXT, _KIND_FORMAT)
"""The info bytes of the items that a Text may have."""
SEQUENCE = _infos(_KIND_DELETED, _KIND_SLOTS)
"""The info bytes of the items that a Sequence may have."""

Id = tuple[int, int]


class Format(NamedTuple):
    """From here on `key` has this value, in JSON; null ends it."""

    key: str
    value: str


class Item(NamedTuple):
    """What was inserted together; `content` is None if it is already deleted again."""

    clock: int
    length: int  # in clocks
    origin: Id | None
    right_origin: Id | None
    content: str | Format | tuple[Slot, ...] | None

    @property
    def text(self) -> str:
        """Its text; "" if it has none."""
        return self.content if isinstance(self.content, str) else ""


class Section(NamedTuple):
    """The items of one client, in the order of their clocks, without gaps."""

    client: int
    clock: int
    items: tuple[Item, ...]


class Deletion(NamedTuple):
    """`length` units of `client` from `clock` on."""

    client: int
    clock: int
    length: int


class ParsedUpdate(NamedTuple):
    """One update. `end` is where it ended in the bytes it was read from."""

    sections: tuple[Section, ...]
    deletions: tuple[Deletion, ...]
    end: int


class Reader:
    """A position in bytes. Reading past the end raises IndexError: its users translate that."""

    __slots__ = ("data", "infos", "position")

    def __init__(self, data: bytes, position: int = 0, infos: frozenset[int] = frozenset()) -> None:
        self.data = data
        self.position = position
        self.infos = infos

    def number(self, most: int) -> int:
        position = self.position
        byte = self.data[position]
        position += 1
        value = byte & 0x7F
        shift = 7
        while byte & 0x80:
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte == 0 or shift > 56:
                raise CodecError(f"number at byte {self.position} is not in its shortest form")
            shift += 7
        if value > most:
            raise CodecError(f"number at byte {self.position} is {value}, above {most}")
        self.position = position
        return value

    def blob(self) -> bytes:
        size = self.number(len(self.data))
        start = self.position
        self.position = end = start + size
        if end > len(self.data):
            raise CodecError(f"what begins at byte {start} is cut off")
        return self.data[start:end]

    def text(self) -> str:
        start = self.position
        try:
            return self.blob().decode()
        except UnicodeDecodeError as error:
            raise CodecError(f"text at byte {start} is not UTF-8: {error.reason}") from None


def parse_update(
    data: bytes,
    infos: frozenset[int],
    most_bytes: int = MAX_TEXT_UPDATE_BYTES,
    *,
    trailer: bool = False,
) -> ParsedUpdate:
    """The update these bytes hold. Time and memory are linear in their size.

    `infos` (TEXT or SEQUENCE) says what it may hold. With `trailer` something may follow the
    update, from `.end` on. Raises CodecError for anything that is not exactly one update in the one
    root, in the only form this product writes.
    """
    if len(data) > most_bytes:
        raise CodecError(f"update of {len(data)} bytes, above {most_bytes}")
    reader = Reader(data, infos=infos)
    try:
        update = _update(reader)
    except IndexError:
        raise CodecError(f"update of {len(data)} bytes is cut off") from None
    if not trailer and update.end != len(data):
        raise CodecError(f"{len(data) - update.end} bytes after the update")
    return update


def _update(reader: Reader) -> ParsedUpdate:
    number = reader.number
    sections = []
    clients = set()
    for _ in range(number(len(reader.data))):
        section = _section(reader)
        if section.client in clients:
            raise CodecError(f"client {section.client} has two sections")
        clients.add(section.client)
        sections.append(section)
    deletions: list[Deletion] = []
    clients = set()
    for _ in range(number(len(reader.data))):
        client = number(MAX_SESSION)
        if client in clients:
            raise CodecError(f"client {client} is listed twice among the deletions")
        clients.add(client)
        count = number(len(reader.data))
        if count == 0:
            raise CodecError(f"client {client} is listed without deletions")
        free = 0
        for _ in range(count):
            clock = number(MAX_CLOCK)
            length = number(MAX_CLOCK)
            if clock < free or length == 0:
                raise CodecError(f"deletions of client {client} are empty or not in order")
            free = clock + length
            deletions.append(Deletion(client, clock, length))
    return ParsedUpdate(tuple(sections), tuple(deletions), reader.position)


def _section(reader: Reader) -> Section:
    number = reader.number
    count = number(len(reader.data))
    client = number(MAX_SESSION)
    first = clock = number(MAX_CLOCK)
    if count == 0:
        raise CodecError(f"client {client} has a section without items")
    items = []
    for _ in range(count):
        item = _item(reader, clock)
        clock += item.length
        if clock > MAX_CLOCK:
            raise CodecError(f"clock of client {client} runs over {MAX_CLOCK}")
        items.append(item)
    return Section(client, first, tuple(items))


def _item(reader: Reader, clock: int) -> Item:
    number = reader.number
    start = reader.position
    info = reader.data[start]
    reader.position = start + 1
    if info not in reader.infos:
        raise CodecError(f"item at byte {start} has info {info:#04x}: not allowed here")
    origin = (number(MAX_SESSION), number(MAX_CLOCK)) if info & _ORIGIN else None
    right = (number(MAX_SESSION), number(MAX_CLOCK)) if info & _RIGHT_ORIGIN else None
    if origin is None and right is None:
        at = reader.position
        reader.position = end = at + 2 + len(_ROOT_BYTES)
        if reader.data[at:end] != b"\x01%c%b" % (len(_ROOT_BYTES), _ROOT_BYTES):
            raise CodecError(f"item at byte {start} is not in the root {ROOT!r}")
    elif origin == right:
        raise CodecError(f"item at byte {start} has {origin} on both sides")
    length, content = _content(reader, info & 0x1F)
    if length == 0:
        raise CodecError(f"item at byte {start} is empty")
    return Item(clock, length, origin, right, content)


def _content(reader: Reader, kind: int) -> tuple[int, str | Format | tuple[Slot, ...] | None]:
    """How many clocks the content of an item takes, and what it is."""
    if kind == _KIND_DELETED:
        return reader.number(MAX_CLOCK), None
    if kind == _KIND_TEXT:
        text = reader.text()
        return (len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2), text
    if kind == _KIND_FORMAT:
        found = Format(reader.text(), reader.text())
        check_format(*found)
        return 1, found
    slots = []
    for _ in range(reader.number(len(reader.data))):
        if reader.number(_TAG_BYTES) != _TAG_BYTES:
            raise CodecError(f"a slot at byte {reader.position} that is not bytes")
        slots.append(parse_slot(reader.blob()))
    return len(slots), tuple(slots)


def halves_of(item: Item) -> list[int]:
    """The clocks of an item's text that are the second unit of a character above U+FFFF."""
    text = item.text
    if not text or len(text) == item.length:
        return []
    halves = []
    clock = item.clock
    for character in text:
        clock += 1
        if character > "\uffff":
            halves.append(clock)
            clock += 1
    return halves

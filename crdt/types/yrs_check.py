"""What must hold of a parsed yrs update against the ids that exist, before pycrdt may see it.

Of an operation: it adds items of its own session only, from that session's next clock on, and every
id it refers to exists. So it takes effect at once and whole: pycrdt never has to park anything.
Of a snapshot: it is complete in itself.

**Halves.** yrs can cut text between characters only. A cut between the two UTF-16 units of a
character above U+FFFF gives two sides whose lengths differ from their text, and replicas diverge.
So no reference may cut there. Which clocks are second units ("halves") is remembered for ever, also
of text since deleted: what is refused must not depend on what a replica still holds. yrs forgets
deleted text, hence the table of halves behind the update in a snapshot.

**What is not proved:** that an author really saw the two neighbours he names side by side, or knew
of all he refers to. A dishonest session can lie about that. It cannot crash or block anybody so,
but the place where its text appears, or whether it does, may differ between replicas.
"""

from bisect import bisect_right
from collections.abc import Set
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

from crdt.errors import CodecError
from crdt.types.yrs import (
    MAX_CLOCK,
    MAX_SESSION,
    MAX_UPDATE_ITEMS,
    MAX_UPDATE_UNITS,
    Deletion,
    Format,
    Id,
    Item,
    ParsedUpdate,
    Reader,
    Section,
    halves_of,
)

_NONE: frozenset[int] = frozenset()


class Facts(NamedTuple):
    """What an operation that passed the check adds to what is known."""

    clock: int  # the session's next
    halves: Set[int]
    text: str  # all text it inserts, run together
    deletes: bool
    formats: bool = False


class Known:
    """The ids that exist: {client: next clock}, and which of them are halves: {client: clocks}."""

    __slots__ = ("clocks", "halves")

    def __init__(self) -> None:
        self.clocks: dict[int, int] = {}
        self.halves: dict[int, set[int]] = {}

    def copy(self) -> "Known":
        """The same, to be changed without this one."""
        other = Known()
        other.clocks = dict(self.clocks)
        other.halves = {client: set(clocks) for client, clocks in self.halves.items()}
        return other

    def add(self, session: int, facts: Facts) -> None:
        """Takes over what an applied operation added."""
        if facts.clock:
            self.clocks[session] = facts.clock
        if facts.halves:
            self.halves.setdefault(session, set()).update(facts.halves)

    def cuts_pair(self, client: int, clock: int) -> bool:
        """Would a cut before this clock part the two halves of one character?"""
        halves = self.halves.get(client)
        return halves is not None and clock in halves


def check_operation(update: ParsedUpdate, session: int, known: Known) -> Facts:
    """What an operation of `session` adds, if it may be applied on top of what is known.

    Raises CodecError if it may not. `known` is not changed.
    """
    first = clock = known.clocks.get(session, 0)
    halves: Set[int] = _NONE
    text = ""
    formats = False
    if update.sections:
        section = update.sections[0]
        if len(update.sections) > 1 or section.client != session:
            clients = [each.client for each in update.sections]
            raise CodecError(f"operation of session {session} has items of {clients}")
        if section.clock != clock:
            raise CodecError(f"session {session} is at clock {clock}, not {section.clock}")
        if len(section.items) > MAX_UPDATE_ITEMS:
            raise CodecError(f"operation adds {len(section.items)} items, above {MAX_UPDATE_ITEMS}")
        clock, halves = _check_items(section, known)
        if clock - first > MAX_UPDATE_UNITS:
            raise CodecError(f"operation adds {clock - first} units, above {MAX_UPDATE_UNITS}")
        items = section.items
        text = items[0].text if len(items) == 1 else "".join(item.text for item in items)
        formats = any(isinstance(item.content, Format) for item in items)
    if update.deletions:
        _check_deletions(update.deletions, session, clock, halves, known)
    return Facts(clock, halves, text, bool(update.deletions), formats)


def _check_items(section: Section, known: Known) -> tuple[int, set[int]]:
    """The clock after the last item, and the halves among the items."""
    session, clock, items = section
    clocks = known.clocks
    halves: set[int] = set()
    for item in items:
        for neighbour, cut in ((item.origin, 1), (item.right_origin, 0)):
            if neighbour is None:
                continue
            client, at = neighbour
            if at >= (clock if client == session else clocks.get(client, 0)):
                raise CodecError(f"neighbour {neighbour} does not exist")
            if (known.halves and known.cuts_pair(client, at + cut)) or (
                client == session and at + cut in halves
            ):
                raise CodecError(f"neighbour {neighbour} is half a character")
        clock += item.length
        halves.update(halves_of(item))
    return clock, halves


def _check_deletions(
    deletions: tuple[Deletion, ...],
    session: int,
    clock: int,
    halves: Set[int],
    known: Known,
) -> None:
    for client, start, length in deletions:
        end = start + length
        if end > (clock if client == session else known.clocks.get(client, 0)):
            raise CodecError(f"deleted {client}:{start}..{end} does not exist")
        for cut in (start, end):
            if known.cuts_pair(client, cut) or (client == session and cut in halves):
                raise CodecError(f"deleted {client}:{start}..{end} parts a character")


def numbers(*each: int) -> bytes:
    """Numbers in their shortest form."""
    out = bytearray()
    for number in each:
        while number > 0x7F:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        out.append(number)
    return bytes(out)


def encode_halves(halves: dict[int, set[int]]) -> bytes:
    """The table behind the update: number of clients, then for each the client, how many, the
    first clock, and the differences between one and the next."""
    listed = [(client, sorted(clocks)) for client, clocks in sorted(halves.items()) if clocks]
    out = bytearray(numbers(len(listed)))
    for client, clocks in listed:
        differences = (after - before for before, after in pairwise(clocks))
        out += numbers(client, len(clocks), clocks[0], *differences)
    return bytes(out)


def decode_halves(data: bytes, position: int) -> dict[int, set[int]]:
    """The table that starts at `position` and reaches to the end. Raises CodecError."""
    reader = Reader(data, position)
    halves: dict[int, set[int]] = {}
    try:
        for _ in range(reader.number(len(data))):
            client = reader.number(MAX_SESSION)
            count = reader.number(len(data))
            clock = 0
            clocks = halves[client] = set()
            for _ in range(count):
                clock += reader.number(MAX_CLOCK - clock)
                clocks.add(clock)
    except IndexError:
        raise CodecError("the table of halves is cut off") from None
    if encode_halves(halves) != data[position:]:
        raise CodecError("the table of halves is not in its only form")
    return halves


def check_snapshot(update: ParsedUpdate, halves: dict[int, set[int]]) -> Known:
    """The ids of a whole state.

    Every client's items run from clock 0 on without gaps, every id referred to is inside, and there
    is an order in which each item comes after its neighbours. Raises CodecError otherwise.
    """
    known = Known()
    known.halves = halves
    for client, clock, items in update.sections:
        if clock != 0:
            raise CodecError(f"items of client {client} start at clock {clock}, not 0")
        known.clocks[client] = items[-1].clock + items[-1].length
    if not halves.keys() <= known.clocks.keys():
        raise CodecError("the table of halves names a client that has no items")
    for section in update.sections:
        _check_halves(section, halves.get(section.client, _NONE))
    _check_order(update.sections, known)
    _check_deletions(update.deletions, -1, 0, _NONE, known)
    return known


def _check_halves(section: Section, halves: Set[int]) -> None:
    """The table says of living text what the text says, and of deleted text nothing impossible."""
    starts = [item.clock for item in section.items]
    living = {clock for item in section.items for clock in halves_of(item)}
    if not living <= halves or not halves.isdisjoint(starts):
        raise CodecError(f"the table of halves contradicts the text of client {section.client}")
    for clock in halves - living:
        item = section.items[bisect_right(starts, clock) - 1]
        if item.content is not None or clock >= item.clock + item.length or clock - 1 in halves:
            raise CodecError(f"the table of halves lists {section.client}:{clock} wrongly")


def _check_order(sections: tuple[Section, ...], known: Known) -> None:
    """Walks all items in an order in which each comes after its neighbours, if there is one."""
    reached = dict.fromkeys(known.clocks, 0)
    place = dict.fromkeys(known.clocks, 0)
    waiting: dict[int, list[tuple[int, int]]] = {}  # {client: heap of (clock awaited, who waits)}
    items = {section.client: section.items for section in sections}
    ready = list(items)
    while ready:
        client = ready.pop()
        mine = items[client]
        while place[client] < len(mine):
            item = mine[place[client]]
            missing = _missing(item, reached, known)
            if missing is not None:
                heappush(waiting.setdefault(missing[0], []), (missing[1], client))
                break
            place[client] += 1
            reached[client] = item.clock + item.length
        heap = waiting.get(client, [])
        while heap and heap[0][0] < reached[client]:
            ready.append(heappop(heap)[1])
    if reached != known.clocks:
        raise CodecError("items wait for each other, or for something that is not there")


def _missing(item: Item, reached: dict[int, int], known: Known) -> Id | None:
    for neighbour, cut in ((item.origin, 1), (item.right_origin, 0)):
        if neighbour is not None:
            client, clock = neighbour
            if clock >= reached.get(client, 0):
                return neighbour
            if known.halves and known.cuts_pair(client, clock + cut):
                raise CodecError(f"neighbour {neighbour} is half a character")
    return None


def compatible(ours: Known, theirs: Known) -> bool:
    """Do two states agree on the halves of what both have? If not, somebody lied or was cloned."""
    for client in ours.halves.keys() | theirs.halves.keys():
        common = min(ours.clocks.get(client, 0), theirs.clocks.get(client, 0))
        mine = {clock for clock in ours.halves.get(client, _NONE) if clock <= common}
        others = {clock for clock in theirs.halves.get(client, _NONE) if clock <= common}
        if common and mine != others:
            return False
    return True


def joined_clocks(ours: Known, theirs: Known) -> dict[int, int]:
    """The clocks of two states together."""
    joined = dict(ours.clocks)
    for client, clock in theirs.clocks.items():
        if clock > joined.get(client, 0):
            joined[client] = clock
    return joined


def decode_clocks(state: bytes) -> dict[int, int]:
    """A yrs state vector, of pycrdt's own making: number of clients, (client, next clock)*."""
    reader = Reader(state)
    count = reader.number(len(state))
    return {reader.number(MAX_SESSION): reader.number(MAX_CLOCK) for _ in range(count)}

"""What the types mean, executable: a value as a function of a set of events and of who had seen
what.

Independent of the implementation: no frontiers, no entries, no joins. After Burckhardt, Gotsman,
Yang, Zawirski: "Replicated Data Types: Specification, Verification, Optimality" (POPL 2014).
Quadratic or worse, and meant to be: it is what the fast implementation is compared with.

Every function takes the events that a replica knows, and a place; it returns the value there, or
None where nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from crdt.codec import decode, encode
from crdt.ids import Dot
from crdt.lattice import Entry
from crdt.operation import Operation, Removal
from crdt.paths import TypeCode, parse_path

Place = tuple[Any, ...]


@dataclass(frozen=True)
class Event:
    """One thing done to one document: at `place` (a field name, then keys), with all that its
    author had `seen`.

    Actions: "set" value, "add" amount, "flag" bool, "insert" element, "remove" element, "forget",
    "append" value, "decide" (epoch, value), "grant" amount, "spend" amount, "transfer" (session,
    amount), "take" (session, amount), those of `text` and `sequence`, and "delete", which takes
    away everything at and below its place. What has no effect is no event: to set a maximum to
    less, to remove what is not there.
    `generation`: how often its author had seen the document deleted for good, that deletion (which
    has no action) included.
    """

    dot: Dot
    stamp: int
    place: Place
    action: str
    value: Any
    seen: Container[Dot]
    generation: int = 0


Events = Iterable[Event]
Meaning = Callable[[Events, Place], Any]


def current(events: Events) -> list[Event]:
    """What counts in a document that was deleted for good: the events of its newest generation."""
    newest = max((event.generation for event in events), default=0)
    return [event for event in events if event.generation == newest]


def deleted(events: Events, event: Event) -> bool:
    """Whether somebody who had seen the event deleted its place, or one around it."""
    return any(
        other.action == "delete"
        and event.dot in other.seen
        and event.place[: len(other.place)] == other.place
        for other in events
    )


def unanswered(events: Events, place: Place, action: str) -> list[Event]:
    """Events of a kind that nobody who had seen them deleted, or answered with another of that
    kind.
    """
    mine = [event for event in events if event.place == place and event.action == action]
    return [
        event
        for event in mine
        if not deleted(events, event) and not any(event.dot in other.seen for other in mine)
    ]


def register(events: Events, place: Place) -> Any:
    """The unanswered write with the latest stamp; of equal ones the greater dot's."""
    writes = unanswered(events, place, "set")
    return max(writes, key=lambda each: (each.stamp, each.dot)).value if writes else None


def multivalue(events: Events, place: Place) -> tuple[Any, ...] | None:
    """The values of all unanswered writes, each once, the latest first."""
    writes = unanswered(events, place, "set")
    writes.sort(key=lambda each: (each.stamp, each.dot), reverse=True)
    found = {(type(each.value), each.value): each.value for each in writes}
    return tuple(found.values()) or None


def maximum(events: Events, place: Place) -> Any:
    """The greatest value set and not deleted."""
    return max(_set(events, place), default=None)


def minimum(events: Events, place: Place) -> Any:
    """The smallest value set and not deleted."""
    return min(_set(events, place), default=None)


def _set(events: Events, place: Place) -> list[Any]:
    found = [event for event in events if (event.place, event.action) == (place, "set")]
    return [event.value for event in found if not deleted(events, event)]


def bounded(events: Events, place: Place) -> tuple[int, dict[int, int]] | None:
    """How far above its bound a bounded counter is, and what each session may spend of that."""
    value = 0
    rights: dict[int, int] = {}
    for event in events:
        session = event.dot[0]
        match event.action if event.place == place else None:
            case "grant" | "spend" as action:
                amount = event.value if action == "grant" else -event.value
                value += amount
                rights[session] = rights.get(session, 0) + amount
            case "transfer" | "take" as action:
                other, amount = event.value
                giver, taker = (session, other) if action == "transfer" else (other, session)
                rights[giver] = rights.get(giver, 0) - amount
                rights[taker] = rights.get(taker, 0) + amount
    return (value, rights) if rights else None


def counter(events: Events, place: Place) -> int | None:
    """The sum of each session's total, where a total starts anew once its session has seen it
    deleted.
    """
    adds = [event for event in events if event.place == place and event.action == "add"]

    def total(event: Event) -> int:
        before = [e for e in adds if e.dot[0] == event.dot[0] and e.dot < event.dot]
        previous = max(before, key=lambda each: each.dot, default=None)
        known = [e for e in events if e.dot in event.seen]
        if previous is None or deleted(known, previous):
            return int(event.value)
        return int(event.value) + total(previous)

    latest = {event.dot[0]: event for event in sorted(adds, key=lambda each: each.dot)}
    live = [event for event in latest.values() if not deleted(events, event)]
    return sum(map(total, live)) if live else None


def flag(events: Events, place: Place) -> bool | None:
    """True if an unanswered write says so: enabling wins."""
    writes = unanswered(events, place, "flag")
    return any(event.value for event in writes) if writes else None


def disable_wins(events: Events, place: Place) -> bool | None:
    """True if all unanswered writes say so: disabling wins."""
    writes = unanswered(events, place, "flag")
    return all(event.value for event in writes) if writes else None


def elements(events: Events, place: Place) -> frozenset[Any] | None:
    """A set: what was inserted, unless somebody who had seen that removed it. Inserting wins."""
    removals = [event for event in events if event.place == place and event.action == "remove"]
    found = {
        event.value
        for event in events
        if (event.place, event.action) == (place, "insert")
        and not deleted(events, event)
        and not any(r.value == event.value and event.dot in r.seen for r in removals)
    }
    return frozenset(found) or None


def elements_remove_wins(events: Events, place: Place) -> frozenset[Any] | None:
    """A set: what was inserted, unless a removal of it is left that no insertion has answered.

    To forget is to answer all that is known of every element that is not in the set.
    """
    mine = [event for event in events if event.place == place and not deleted(events, event)]
    about = [event for event in mine if event.action in ("insert", "remove")]
    forgotten = set()
    for event in mine:
        if event.action == "forget":
            known = [other for other in events if other.dot in event.seen]
            kept = elements_remove_wins(known, place) or frozenset()
            forgotten |= {e.dot for e in about if e.dot in event.seen and e.value not in kept}
    left = [
        event
        for event in about
        if event.dot not in forgotten
        and not any(event.dot in other.seen and event.value == other.value for other in about)
    ]
    removed = {event.value for event in left if event.action == "remove"}
    return frozenset(event.value for event in left) - removed or None


def feed(events: Events, place: Place) -> list[Any] | None:
    """Everything appended and not deleted, in the order of stamps."""
    items = [event for event in events if (event.place, event.action) == (place, "append")]
    items = [event for event in items if not deleted(events, event)]
    return [e.value for e in sorted(items, key=lambda each: (each.stamp, each.dot))] or None


def decided(events: Events, place: Place) -> Any:
    """(epoch, value) of the highest epoch; of equal ones the greater dot's."""
    found = [event for event in events if (event.place, event.action) == (place, "decide")]
    found = [event for event in found if not deleted(events, event)]
    return max(found, key=lambda each: (each.value[0], each.dot)).value if found else None


def mapping(child: Meaning) -> Meaning:
    """A map: the keys below which anything is."""

    def meaning(events: Events, place: Place) -> dict[Any, Any] | None:
        depth = len(place)
        below = [event for event in events if event.place[:depth] == place]
        keys = {event.place[depth] for event in below if len(event.place) > depth}
        found = {key: child(events, (*place, key)) for key in keys}
        return {key: value for key, value in found.items() if value is not None} or None

    return meaning


def live_entries(operations: dict[Dot, Operation]) -> dict[tuple[str, bytes], list[Entry]]:
    """The entries of a shard as a function of the set of its operations, whatever their order."""
    counted = {dot: each for dot, each in operations.items() if not takes_back(operations, dot)}
    newest: dict[str, int] = {}
    for each in counted.values():
        newest[each.document] = max(each.generation, newest.get(each.document, 0))
    counted = {d: each for d, each in counted.items() if each.generation == newest[each.document]}
    found: dict[tuple[str, bytes], list[Entry]] = {}
    for dot in sorted(counted):
        document, path, payload, _, _ = counted[dot]
        if payload is not None and not any(
            removes(author, each, removal, dot, counted[dot])
            for author, each in counted.items()
            for removal in each.removals
        ):
            found.setdefault((document, path), []).append((*dot, payload))
    return found


def removes(author: Dot, by: Operation, removal: Removal, dot: Dot, held: Operation) -> bool:
    """Whether a removal is about this entry, its author had seen it, and it may be taken."""
    covered = held.path.startswith(removal.path) if removal.prefix else held.path == removal.path
    if by.document != held.document or not covered or held.payload is None:
        return False
    if dot[1] > dict(removal.seen).get(dot[0], 0):
        return False
    code = parse_path(held.path).code
    in_place = not removal.prefix and held.path == by.path and by.payload is not None
    if not in_place:
        return code not in (TypeCode.DECIDED, TypeCode.BOUNDED)
    if code is TypeCode.BOUNDED:
        return author[0] == dot[0]
    values = decode(held.payload), decode(by.payload or b"")
    if code is TypeCode.DECIDED:
        return bool(values[0][0] <= values[1][0])
    if code in (TypeCode.MAXIMUM, TypeCode.MINIMUM):
        ours, theirs = ((scale(each), encode(each)) for each in values)
        return theirs >= ours if code is TypeCode.MAXIMUM else theirs <= ours
    return True


def scale(value: Any) -> tuple[int, Any]:
    """Where a value stands among all that maxima and minima compare: numbers come first."""
    kinds = {int: 0, float: 0, datetime: 1, str: 2, bytes: 3}
    return kinds[type(value)], value


def takes_back(operations: dict[Dot, Operation], dot: Dot) -> bool:
    """Whether an operation is a row of a bounded counter that is less than its session's last."""
    each = operations[dot]
    if each.payload is None or parse_path(each.path).code is not TypeCode.BOUNDED:
        return False
    place = (each.document, each.path, each.generation)
    rows = [
        (other, operation.payload)
        for other, operation in operations.items()
        if other[0] == dot[0]
        and other < dot
        and (operation.document, operation.path, operation.generation) == place
        and operation.payload is not None
        and not takes_back(operations, other)
    ]
    if not rows:
        return False
    before, after = decode(max(rows)[1]), decode(each.payload)
    then, now = ((part[0], part[1], *map(pairs, part[2:])) for part in (before, after))
    return (
        now[0] < then[0]
        or now[1] < then[1]
        or any(now[2].get(key, 0) < then[2][key] for key in then[2])
        or any(now[3].get(key, 0) < then[3][key] for key in then[3])
    )


def pairs(flat: list[int]) -> dict[int, int]:
    """[key, value, key, value …] as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def text(events: Events, place: Place) -> tuple[set[str], set[tuple[str, str]]]:
    """The characters that show, and the pairs of them that stand in this order.

    Events: "type" (character, its left and right neighbour as seen, None at the ends), "rub"
    character; no character is typed twice. YATA and its kind differ in the rest of the order.
    """
    mine = [event for event in events if event.place == place]
    typed = {event.value[0]: event for event in mine if event.action == "type"}
    rubbed = {event.value for event in mine if event.action == "rub"}
    shown = {each for each, event in typed.items() if not deleted(events, event)} - rubbed
    return shown, {
        pair
        for pair in _in_order(event.value for event in typed.values())
        if shown.issuperset(pair)
    }


def sequence(events: Events, place: Place) -> tuple[dict[Any, Any], set[tuple[Any, Any]]]:
    """{element: value} of the elements that show, and the pairs of them that stand in this order.

    Events: "put" (slot, left and right slot as seen, element, value), of a new element or of one
    moved or replaced; "cut" element. A slot lives unless somebody who had seen it cut its element
    or put it anew; of an element's living slots the one put latest shows.
    """
    mine = [event for event in events if event.place == place]
    puts = [event for event in mine if event.action == "put"]

    def lives(put: Event) -> bool:
        element = put.value[3]
        ended = [e for e in mine if e.action == "cut" and e.value == element]
        ended += [e for e in puts if e.value[3] == element]
        return not deleted(events, put) and not any(put.dot in e.seen for e in ended)

    latest: dict[Any, Event] = {}
    for put in sorted(filter(lives, puts), key=lambda each: (each.stamp, each.dot)):
        latest[put.value[3]] = put
    slots = {put.value[0]: element for element, put in latest.items()}
    order = _in_order(put.value[:3] for put in puts)
    pairs = {(slots[a], slots[b]) for a, b in order if a in slots and b in slots}
    return {element: put.value[4] for element, put in latest.items()}, pairs


def _in_order(neighbours: Iterable[tuple[Any, Any, Any]]) -> set[tuple[Any, Any]]:
    """All pairs in the order that follows from (one, its left, its right)."""
    pairs = {pair for one, left, right in neighbours for pair in ((left, one), (one, right))}
    after: dict[Any, set[Any]] = {}
    for one, other in pairs:
        if one is not None and other is not None:
            after.setdefault(one, set()).add(other)
    for middle in list(after):
        for found in after.values():
            if middle in found:
                found |= after[middle]
    return {(one, other) for one, found in after.items() for other in found}

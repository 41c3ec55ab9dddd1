"""What the types mean, executable: a value as a function of a set of events and of who had seen
what.

Independent of the implementation: no frontiers, no entries, no joins. After Burckhardt, Gotsman,
Yang, Zawirski: "Replicated Data Types: Specification, Verification, Optimality" (POPL 2014).
Quadratic or worse, and meant to be: it is what the fast implementation is compared with.

Every function takes the events that a replica knows, and a place; it returns the value there, or
None where nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from crdt.ids import Dot
from crdt.lattice import Entry
from crdt.operation import Operation, Removal

Place = tuple[Any, ...]


@dataclass(frozen=True)
class Event:
    """One thing done to one document: at `place` (a field name, then keys), with all that its
    author had `seen`.

    Actions: "set" value, "add" amount, "flag" bool, "insert" element, "remove" element, "append"
    value, "decide" (epoch, value), "create" and "delete"; the latter takes away everything at and
    below its place.
    """

    dot: Dot
    stamp: int
    place: Place
    action: str
    value: Any
    seen: frozenset[Dot]


Events = Iterable[Event]
Meaning = Callable[[Events, Place], Any]


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
    everything = [
        (operation.document, removal)
        for operation in operations.values()
        for removal in operation.removals
    ]
    found: dict[tuple[str, bytes], list[Entry]] = {}
    for dot in sorted(operations):
        document, path, payload, _ = operations[dot]
        if payload is not None and not any(
            document == other and removes(removal, path, dot) for other, removal in everything
        ):
            found.setdefault((document, path), []).append((*dot, payload))
    return found


def removes(removal: Removal, path: bytes, dot: Dot) -> bool:
    """Whether a removal is about this path, and its author had seen this dot."""
    covered = path.startswith(removal.path) if removal.prefix else path == removal.path
    return covered and dot[1] <= dict(removal.seen).get(dot[0], 0)

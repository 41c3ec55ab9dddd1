"""What is read is what the executable specification says of what was written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crdt.ids import Dot
from simulations.judges.base import Judge
from simulations.judges.history import History, Outcome, Read, Write, sees
from simulations.specification import Event, Meaning

__all__ = ("Intention", "Specified")

STATES = 40
"""The specification is quadratic: so many different states of a document are judged at most, and
the one all have in the end.
"""


@dataclass(frozen=True, slots=True)
class Specified:
    """What a field means, and how what is read there is put into the specification's terms."""

    meaning: Meaning
    plain: Callable[[Any], Any] = lambda value: value


class Intention(Judge):
    """Every field reads as `simulations.specification` says of all that its replica has seen."""

    def __init__(self, fields: Mapping[str, Specified]) -> None:
        super().__init__()
        self._fields = fields

    def _wrong(self, history: History) -> Iterator[str]:
        events: dict[str, list[Write]] = defaultdict(list)
        for one in history.writes:
            if one.outcome is not Outcome.FAIL:
                events[one.document].append(one)
        for document, writes in sorted(events.items()):
            told = [(write, list(_events(write))) for write in writes]
            meant: dict[frozenset[Dot], dict[str, Any]] = {}
            for read in history.reads:
                if read.document != document or read.outcome is Outcome.FAIL:
                    continue
                known = frozenset(one.dot for one in writes if sees(read.seen, one.dot))
                if known not in meant:
                    if len(meant) >= STATES and not read.final:
                        continue
                    meant[known] = self._meant(
                        [each for one, some in told if one.dot in known for each in some]
                    )
                yield from self._differences(read, meant[known])

    def _meant(self, events: list[Event]) -> dict[str, Any]:
        by_field: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_field[event.place[0]].append(event)
        return {
            field: specified.meaning(by_field[field], (field,))
            for field, specified in self._fields.items()
        }

    def _differences(self, read: Read, meant: Mapping[str, Any]) -> Iterator[str]:
        for field, specified in self._fields.items():
            self.checked += 1
            value = read.values.get(field)
            value = (None if value is None else specified.plain(value)) or None
            if value != (meant[field] or None):
                yield (
                    f"{read.client} reading {read.document} at {read.at:.3f} s: {field} is "
                    f"{value!r}, and means {meant[field]!r}"
                )


class _Seen:
    """What is below a frontier."""

    def __init__(self, frontier: Mapping[int, int]) -> None:
        self._frontier = frontier

    def __contains__(self, dot: object) -> bool:
        return isinstance(dot, tuple) and sees(self._frontier, dot)


def _events(one: Write) -> Iterator[Event]:
    """A write in the specification's terms; elements of lists are inserted one by one."""
    seen = _Seen(one.seen)
    stamp = one.field_stamp or one.stamp
    if one.action in ("type", "rub"):
        action = "insert" if one.action == "type" else "remove"
        for element in one.value[1]:
            yield Event(one.dot, stamp, one.place, action, element, seen)
    else:
        yield Event(one.dot, stamp, one.place, one.action, one.value, seen)

"""Slots: what a Sequence's yrs array holds, and which of them show.

A slot is the canonical encoding of [value, session, born] or, once its element was moved or
replaced, of [value, session, born, stamp]. (session, born) names the element. yrs can neither move
nor replace, so both are a new slot in the place of those seen, and two sessions that do so at the
same time leave two. Of several slots of one element the one with the greatest (stamp, or else born;
then position) shows. After Kleppmann: "Moving Elements in List CRDTs" (PaPoC 2020), where a
register holds each element's position; here the latest move and the latest value win together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from crdt.codec import decode, decode_stored, encode
from crdt.errors import CodecError
from crdt.ids import MAX_SESSION
from crdt.limits import MAX_DEPTH, MAX_STAMP, MAX_TEXT_UPDATE_BYTES
from crdt.structure import pack

Element = tuple[int, int]
"""(session, born): who made it, and that session's stamp when it did."""


class Slot(NamedTuple):
    """One slot: its bytes, whose it is, and its rank among the slots of its element."""

    raw: bytes
    element: Element
    rank: int

    @property
    def value(self) -> Any:
        """A fresh copy of what the slot holds."""
        return decode_stored(self.raw)[0]


def make_slot(value: object, element: Element, stamp: int | None = None) -> Slot:
    """The slot of a new element, or with a `stamp` that of one moved or replaced. Raises
    InvalidValue for what is not storable.
    """
    encode(value)  # for its bounds, and for errors that name places in the value alone
    session, born = element
    head = b"\x93" if stamp is None else b"\x94"
    numbers = (session, born) if stamp is None else (session, born, stamp)
    raw = head + encode(value) + b"".join(map(pack, numbers))
    return Slot(raw, element, born if stamp is None else stamp)


def parse_slot(raw: bytes) -> Slot:
    """The slot these bytes are. Total: raises CodecError for everything else."""
    parts = decode(raw, max_bytes=MAX_TEXT_UPDATE_BYTES, max_depth=MAX_DEPTH + 1)
    if type(parts) is not list or len(parts) not in (3, 4):
        raise CodecError("a slot that is no [value, session, born] and no [… , stamp]")
    session, *stamps = parts[1:]
    if type(session) is not int or not 0 <= session <= MAX_SESSION:
        raise CodecError(f"a slot of session {session!r:.40}")
    for stamp in stamps:
        if type(stamp) is not int or not 0 <= stamp <= MAX_STAMP:
            raise CodecError(f"a slot with the stamp {stamp!r:.40}")
    return Slot(raw, (session, stamps[0]), stamps[-1])


class Slots:
    """All slots of one array in order, and the elements they show. Costs O(1) to read as long as
    every element has one slot; otherwise what shows is worked out anew after each change.
    """

    __slots__ = ("_all", "_counts", "_shown")

    def __init__(self, slots: Iterable[Slot] = ()) -> None:
        self._all = list(slots)
        self._counts: dict[Element, int] = {}
        self._shown: list[int] | None = None
        self._count(self._all, 1)

    def __len__(self) -> int:
        return len(self._all)

    def copy(self) -> Slots:
        """A copy that can be changed without this one."""
        other = Slots()
        other._all, other._counts = self._all.copy(), self._counts.copy()
        return other

    @property
    def all(self) -> Sequence[Slot]:
        """Every slot, hidden ones included. Not to be changed."""
        return self._all

    @property
    def shown_count(self) -> int:
        """How many elements show."""
        return len(self._counts)

    def shown(self) -> Sequence[int]:
        """The positions of the slots that show, ascending."""
        if len(self._counts) == len(self._all):
            return range(len(self._all))
        if self._shown is None:
            best: dict[Element, tuple[int, int]] = {}
            for position, slot in enumerate(self._all):
                mine = (slot.rank, position)
                best[slot.element] = max(mine, best.get(slot.element, mine))
            self._shown = sorted(position for _, position in best.values())
        return self._shown

    def of(self, element: Element) -> list[int]:
        """The positions of an element's slots, ascending."""
        return [at for at, slot in enumerate(self._all) if slot.element == element]

    def replace(self, start: int, stop: int, slots: Sequence[Slot]) -> None:
        """Put slots in the place of those from `start` up to `stop`."""
        self._count(self._all[start:stop], -1)
        self._all[start:stop] = slots
        self._count(slots, 1)
        self._shown = None

    def _count(self, slots: Iterable[Slot], by: int) -> None:
        counts = self._counts
        for _, element, _ in slots:
            left = counts.get(element, 0) + by
            if left:
                counts[element] = left
            else:
                del counts[element]

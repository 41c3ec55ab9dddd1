"""A sequence that several sessions edit at once: a yrs array of slots behind a strict gate."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pycrdt import Array

from crdt.errors import OutOfBounds
from crdt.structure import pack
from crdt.types.slots import Slot, Slots, parse_slot
from crdt.types.text import Delete
from crdt.types.yrs import EMPTY_UPDATE, SEQUENCE, ParsedUpdate
from crdt.types.yrs_check import Facts
from crdt.types.yrs_state import YrsState

MAX_INSERTED_SLOTS = 1 << 11
"""Slots that one operation may insert: inside one transaction yrs finds the place of each by
walking over the ones before it."""

_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class InsertSlots:
    """Put slots before the one at `index` (the number of slots: at the end)."""

    index: int
    slots: tuple[Slot, ...]


SequenceEdit = InsertSlots | Delete
"""Positions count slots, hidden ones included."""


class _Step(NamedTuple):
    start: int
    stop: int
    slots: tuple[Slot, ...]


class SequenceState(YrsState[Array[Any]]):
    """One sequence with its history, as one replica has it. Not thread-safe."""

    __slots__ = ("_slots",)

    infos = SEQUENCE
    root_type = Array

    def __init__(self) -> None:
        super().__init__()
        self._slots: Slots | None = Slots()

    def copy(self) -> "SequenceState":
        other = super().copy()
        other._slots = None
        return other

    def __len__(self) -> int:
        return len(self.slots())

    def slots(self) -> Slots:
        """All there is. To be copied by who wants to change it."""
        if self._slots is None:
            # In one go: fetched one by one, each costs the way to it. Bytes come as lists of ints.
            self._slots = Slots(parse_slot(bytes(raw)) for raw in json.loads(str(self._root)))
        return self._slots

    def content(self) -> bytes:
        every = self.slots().all
        return pack([slot.raw for slot in every]) if every else b""

    def edit(self, session: int, edits: Sequence[SequenceEdit]) -> bytes:
        steps = self._steps(edits)
        if not steps:
            return EMPTY_UPDATE
        inserted = [slot for step in steps for slot in step.slots]
        if len(inserted) > MAX_INSERTED_SLOTS:
            raise OutOfBounds(
                f"edit inserts {len(inserted)} elements, above {MAX_INSERTED_SLOTS}: split it"
            )
        self._check_room(session, sum([len(slot.raw) for slot in inserted]))
        slots = self.slots()
        facts = None
        if len(steps) == 1:
            clock = self._known.clocks.get(session, 0) + len(inserted)
            facts = Facts(clock, _NONE, "", not inserted)
        update = self._write(session, steps, facts)
        for start, stop, new in steps:
            slots.replace(start, stop, new)
        return update

    def _steps(self, edits: Sequence[SequenceEdit]) -> list[_Step]:
        """Check the edits. Nothing is changed."""
        length = len(self)
        steps = []
        for edit in edits:
            index, count = edit.index, edit.length if isinstance(edit, Delete) else 0
            if not (0 <= index <= length and 0 <= count <= length - index):
                raise OutOfBounds(f"{edit} is outside a sequence of {length} slots")
            new = edit.slots if isinstance(edit, InsertSlots) else ()
            if new or count:
                steps.append(_Step(index, index + count, new))
                length += len(new) - count
        return steps

    def _changed(self, facts: Facts) -> None:
        del facts
        self._slots = None

    def _merged(self, parsed: ParsedUpdate) -> None:
        del parsed
        self._slots = None

    def _step(self, step: _Step) -> None:
        start, stop, slots = step
        if slots:
            self._root[start:start] = [slot.raw for slot in slots]
        else:
            del self._root[start:stop]

"""Sequence: a list that several sessions edit at once; elements can be moved and replaced."""

import collections.abc
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NoReturn, Self, TypeVar, overload

from crdt.access import Access
from crdt.codec import encode
from crdt.errors import OutOfBounds
from crdt.paths import TypeCode
from crdt.types.cursor import Cursor
from crdt.types.expect import Expectation, expectation, printed, refuse
from crdt.types.field import Declaration, Editor, Field, Handle, require_writable
from crdt.types.sequence_state import InsertSlots
from crdt.types.slots import Slot, Slots, make_slot
from crdt.types.text import Delete

T = TypeVar("T")


class OutOfRange(OutOfBounds, IndexError):
    """An index outside a sequence."""


class SequenceEditor(Editor, collections.abc.MutableSequence[T]):
    """The elements of one Sequence field, live: a list that others edit too.

    An edit stays with the elements it was made at, wherever concurrent edits put them. Insertions
    at one place all stay, in one order everywhere. Of concurrent moves and replacements of one
    element the latest wins, place and value together. An element deleted by one and moved or
    replaced by another at the same time stays. Indexes outside raise OutOfRange, an IndexError,
    also in `insert`. Values are compared by their type too: 1 is not True.
    """

    __slots__ = ("_field",)

    def __init__(self, field: "Sequence[T]", access: Access, document: str, path: bytes) -> None:
        super().__init__(access, document, path)
        self._field = field

    def __repr__(self) -> str:
        return printed(list(self))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SequenceEditor | list | tuple):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return self._slots().shown_count

    def __iter__(self) -> Iterator[T]:
        return iter([slot.value for slot in self._shown()])

    def __contains__(self, value: object) -> bool:
        return self.count(value) > 0

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        slots = self._slots()
        shown = slots.shown()
        if isinstance(index, slice):
            return [slots.all[each].value for each in shown[index]]
        value: T = slots.all[shown[self._index(index)]].value
        return value

    @overload
    def __setitem__(self, index: int, value: T) -> None: ...
    @overload
    def __setitem__(self, index: slice, value: Iterable[T]) -> None: ...
    def __setitem__(self, index: int | slice, value: Any) -> None:
        """Replace an element's value: it stays the same element. A slice of step 1 is deleted, and
        new elements come in its place.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise OutOfBounds(f"{self._field.label}: only slices of step 1 can be assigned")
            new = self._new(value)
            at = self._place(start)
            self._write(at, new, self._copies(range(start, stop)))
            return
        slots = self._slots()
        at = slots.shown()[self._index(index)]
        self._renew(slots, at, at, value)

    def __delitem__(self, index: int | slice) -> None:
        if isinstance(index, slice):
            indexes: Iterable[int] = range(len(self))[index]
        else:
            indexes = (self._index(index),)
        self._write(0, (), self._copies(indexes))

    def __iadd__(self, values: Iterable[T]) -> Self:
        self.extend(values)
        return self

    def insert(self, index: int, value: T) -> None:
        """Insert before the element at `index`; the length is the end."""
        count = len(self)
        self._check_int(index)
        place = index + count if index < 0 else index
        if not 0 <= place <= count:
            self._refuse(index, count)
        self._write(self._place(place), self._new((value,)), ())

    def append(self, value: T) -> None:
        """Insert at the end."""
        self.extend((value,))

    def extend(self, values: Iterable[T]) -> None:
        """Insert each of `values` at the end, in their order."""
        new = self._new(values)
        self._write(len(self._slots()), new, ())

    def clear(self) -> None:
        """Delete all the elements visible here; what others insert at the same time stays."""
        self._write(0, (), range(len(self._slots())))

    def move(self, source: int, target: int) -> None:
        """Move the element at `source` so that it is at index `target` afterwards."""
        source, target = self._index(source), self._index(target)
        if source == target:
            require_writable(self._access)
            return
        slots = self._slots()
        shown = [at for each, at in enumerate(slots.shown()) if each != source]
        place = shown[target] if target < len(shown) else len(slots)
        at = slots.shown()[source]
        self._renew(slots, at, place, slots.all[at].value)

    def index(self, value: object, start: int = 0, stop: int | None = None) -> int:
        """The first index of an equal value, as in a list. Raises ValueError if there is none."""
        wanted = encode(value)
        for each in range(len(self))[start:stop]:
            if encode(self[each]) == wanted:
                return each
        raise ValueError(f"{value!r:.80} is not in {self._field.label}")

    def count(self, value: object) -> int:
        """How many elements are equal to this value."""
        wanted = encode(value)
        return sum(encode(slot.value) == wanted for slot in self._shown())

    def cursor(self, index: int, before: bool = False) -> Cursor:
        """The place in front of the element at `index` (the length: the end), kept: it stays in
        front of that element, or with `before` behind the one before it. It stays where it is if
        that one is moved or deleted. Raises EditMisuse after an edit of this transaction.
        """
        self._check_int(index)
        count = len(self)
        if not 0 <= index <= count:
            self._refuse(index, count)
        at = self._place(index - 1) + 1 if before and index else self._place(index)
        at = 0 if before and not index else at
        return self._access.cursor(self._document, self._path, at, before)

    def position(self, cursor: Cursor) -> int:
        """The index a cursor's place has now. Raises InvalidValue for another field's cursor."""
        if type(cursor) is not Cursor:
            refuse(self._field.label, "a Cursor", cursor)
        at = self._access.position(self._document, self._path, cursor)
        return bisect_left(self._slots().shown(), at)

    def _slots(self) -> Slots:
        return self._access.slots(self._document, self._path)

    def _shown(self) -> list[Slot]:
        slots = self._slots()
        return [slots.all[each] for each in slots.shown()]

    def _place(self, index: int) -> int:
        """The slot before which something is inserted that shall be at this index."""
        slots = self._slots()
        shown = slots.shown()
        return shown[index] if index < len(shown) else len(slots)

    def _copies(self, indexes: Iterable[int]) -> list[int]:
        """The positions of all slots of the elements at these indexes."""
        slots = self._slots()
        shown = slots.shown()
        if len(shown) == len(slots):
            return list(indexes)
        elements = {slots.all[shown[each]].element for each in indexes}
        return [at for at, slot in enumerate(slots.all) if slot.element in elements]

    def _new(self, values: Iterable[T]) -> tuple[Slot, ...]:
        """Slots of new elements. Raises InvalidValue."""
        field, session = self._field, self._access.session
        slots = []
        for value in list(values):
            field.check(value)
            slots.append(make_slot(value, (session, self._access.stamp())))
        return tuple(slots)

    def _renew(self, slots: Slots, at: int, place: int, value: Any) -> None:
        """A new slot, before the one at `place`, for the element whose shown slot is at `at`."""
        self._field.check(value)
        _, element, rank = slots.all[at]
        stamp = self._access.stamp(rank)
        old = [at] if slots.shown_count == len(slots) else slots.of(element)
        self._write(place, (make_slot(value, element, stamp),), old)

    def _write(self, place: int, new: tuple[Slot, ...], old: Iterable[int]) -> None:
        """Insert slots, and delete those that were at the positions `old`, ascending."""
        access, document, path = self._access, self._document, self._path
        access.edit_text(document, path, InsertSlots(place, new))
        runs: list[list[int]] = []
        for at in old:
            if at >= place:
                at += len(new)
            if runs and sum(runs[-1]) == at:
                runs[-1][1] += 1
            else:
                runs.append([at, 1])
        for start, length in reversed(runs):
            access.edit_text(document, path, Delete(start, length))

    def _index(self, index: int) -> int:
        self._check_int(index)
        count = len(self)
        if not -count <= index < count:
            self._refuse(index, count)
        return index + count if index < 0 else index

    def _check_int(self, index: object) -> None:
        if type(index) is not int:
            refuse(self._field.label, "ints as positions", index)

    def _refuse(self, index: int, count: int) -> NoReturn:
        raise OutOfRange(f"{self._field.label}: index {index} is outside a sequence of {count}")


class Sequence(Field[SequenceEditor[T]]):
    """A list of storable values; `document.steps` gives its SequenceEditor. Only at a document's
    root.

    Its history costs memory for ever, some bytes for every element that ever was, moved or replaced
    ones again: what is overwritten all the time belongs into a Map of Registers.
    """

    code: ClassVar[TypeCode] = TypeCode.SEQUENCE
    cure = "use .append(…), .insert(…), .extend(…), .move(…), del … or its items"

    def __init__(self, label: str, expected: Expectation) -> None:
        super().__init__(label)
        self._expected = expected

    @classmethod
    def declare(cls, declaration: Declaration) -> "Sequence[Any]":
        declaration.arguments_are(1, "Sequence[str], Sequence[dict[str, Any]], …")
        declaration.options_are()
        label = declaration.label
        return Sequence(label, expectation(declaration.arguments[0], label))

    @overload
    def __get__(self, instance: None, owner: type) -> "Sequence[T]": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> SequenceEditor[T]: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Sequence[T] | SequenceEditor[T]":
        if instance is None:
            return self
        return SequenceEditor(self, instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: SequenceEditor[T]) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def check(self, value: object) -> None:
        """Raises InvalidValue for an element of another type than declared."""
        if not self._expected.accepts(value):
            refuse(self.label, f"elements of type {self._expected.text}", value)

    def view(self, access: Access, document: str, path: bytes) -> SequenceEditor[T]:
        return SequenceEditor(self, access, document, path)

    def plain(self, access: Access, document: str, path: bytes) -> list[Any]:
        return list(SequenceEditor(self, access, document, path))

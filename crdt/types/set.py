"""Set: elements by their canonical encoding (1, 1.0 and True are three); add-wins or remove-wins.

Rules. An element lies at a path of its own. Adding puts PRESENT there in the place of all its
writer had seen; present is what has a PRESENT and no ABSENT. Removing takes away what its writer
had seen, so a concurrent add wins. In a remove-wins set removing puts an ABSENT marker there
instead, which wins against concurrent adds and goes when somebody adds the element having seen it.
Adds and markers survive a concurrent deletion of the document. The add-wins set is the optimized
OR-set of Bieniusa et al.: "An Optimized Conflict-free Replicated Set" (2012), the remove-wins set
that of Baquero, Almeida, Cunha, Ferreira: "Composition in State-based Replicated Data Types"
(2017).
"""

import collections.abc
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self, TypeVar, overload

from crdt.access import Access, Entry
from crdt.codec import decode_stored, encode
from crdt.errors import InvalidValue, OutOfBounds, SchemaError
from crdt.paths import TypeCode, element_path
from crdt.types.expect import Expectation, expectation, printed, refuse
from crdt.types.field import Child, Declaration, Editor, Handle, clear, require_writable
from crdt.types.rules import ABSENT, PRESENT

T = TypeVar("T")
_SHOWN = 12


class SetEditor(Editor, collections.abc.MutableSet[T]):
    """The elements of one Set field, live: what is read is what is there at that moment.

    Iteration is in the order of the elements' canonical encoding, the same on every replica, over
    the elements present when it began. Adding an element that is present is a write too: the new
    assertion is what survives a concurrent removal. Removing takes away what this replica has seen;
    a concurrent add stays.

    In a remove-wins set it is the concurrent removal that stays, also that of an element not
    present here. Each removed element is remembered until it is added again or `forget_removed` is
    called, and at most as many as declared.
    """

    __slots__ = ("_field",)

    def __init__(self, field: "Set[T]", access: Access, document: str, path: bytes) -> None:
        super().__init__(access, document, path)
        self._field = field

    def __repr__(self) -> str:
        shown = [printed(element) for element in itertools.islice(self, _SHOWN)]
        if len(self) > _SHOWN:
            shown.append("…")
        return f"{{{', '.join(shown)}}}" if shown else "set()"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, collections.abc.Set):
            return len(self) == len(other) and all(value in self for value in other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __contains__(self, value: object) -> bool:
        try:
            element = encode(value)
        except InvalidValue:
            return False
        return _present(self._access.entries(self._document, self._path + element))

    def __iter__(self) -> Iterator[T]:
        return iter([decode_stored(element) for element in sorted(self._elements())])

    def __len__(self) -> int:
        return sum(1 for _ in self._elements())

    def add(self, value: T) -> None:
        """Add, or assert again, an element. Raises InvalidValue if it is of the wrong type."""
        path = self._field.element(self._path, value)
        self._access.replace(self._document, path, PRESENT)

    def update(self, values: Iterable[T]) -> None:
        """Add each of `values`."""
        for value in list(values):
            self.add(value)

    def discard(self, value: T) -> None:
        """Remove an element if it is present.

        A remove-wins set remembers the removal also of one that is not. It raises OutOfBounds if it
        remembers as many as it may; to know, it looks through the whole set, so remove many
        elements together with `-=`.
        """
        path = self._field.element(self._path, value)
        if self._field.markers is None:
            clear(self._access, self._document, path)
        else:
            self._mark([path], self._field.markers)

    def clear(self) -> None:
        """Remove every element present here; one operation, in a remove-wins set one for each. In a
        Map the child goes with them.
        """
        if self._field.markers is None:
            removal = self._access.removal(self._document, self._path, prefix=True)
            if removal is not None:
                self._access.write(self._document, self._path, None, (removal,))
        else:
            present = [self._path + element for element in sorted(self._elements())]
            self._mark(present, self._field.markers)

    def forget_removed(self, most: int | None = None) -> int:
        """Forget which elements were removed, or `most` of them; returns how many. One operation.

        What is read stays the same. But an add made without having seen the removal, and arriving
        after this, makes its element present again. Where elements are so long that all of them
        exceed one transaction (TransactionTooLarge), forget them in several edits.
        """
        require_writable(self._access)
        marked = sorted(self._marked())[:most]
        removals = [self._access.removal(self._document, path) for path in marked]
        found = [removal for removal in removals if removal is not None]
        self._access.write(self._document, self._path, None, found)
        return len(found)

    def __isub__(self, it: collections.abc.Set[Any]) -> Self:
        """Remove each of `it`; together, because a remove-wins set counts what it remembers."""
        if self._field.markers is None:
            return super().__isub__(it)
        self._mark([self._field.element(self._path, each) for each in it], self._field.markers)
        return self

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> set[Any]:
        """What `&`, `|`, `-` and `^` give: a plain set."""
        return set(it)

    def _elements(self) -> Iterator[bytes]:
        start = len(self._path)
        for path, entries in self._access.under(self._document, self._path):
            if len(path) > start and _present(entries):
                yield path[start:]

    def _marked(self) -> set[bytes]:
        """The paths of the elements whose removal is remembered."""
        start = len(self._path)
        return {
            path
            for path, entries in self._access.under(self._document, self._path)
            if len(path) > start and not _present(entries)
        }

    def _mark(self, paths: list[bytes], most: int) -> None:
        """Remove elements of a remove-wins set, all of them or none."""
        require_writable(self._access)
        count = len(self._marked().union(paths))
        if count > most:
            raise OutOfBounds(
                f"{self._field.label}: it would remember {count} removed elements, at most {most} "
                "are declared; .forget_removed() makes room, RemoveWins(markers=…) declares more"
            )
        for path in paths:
            self._access.replace(self._document, path, ABSENT)


def _present(entries: tuple[Entry, ...]) -> bool:
    """Whether an element with these entries is in its set: asserted, and not denied."""
    return bool(entries) and all(payload == PRESENT for _, _, payload in entries)


class Set(Child[SetEditor[T], SetEditor[T]]):
    """A set of values; `document.labels` gives its SetEditor. Of a concurrent add and removal of an
    element the add wins.

    `Annotated[Set[str], RemoveWins()]` turns that round. Such a set remembers up to
    `RemoveWins(markers=10_000)` removed elements, and may not stand under a Map.
    """

    code: ClassVar[TypeCode] = TypeCode.SET
    cure = "use .add(…), |=, .discard(…) or .clear()"

    def __init__(self, label: str, expected: Expectation, markers: int | None = None) -> None:
        super().__init__(label)
        self._expected = expected
        self.markers = markers

    @classmethod
    def declare(cls, declaration: Declaration) -> "Set[Any]":
        declaration.arguments_are(1, "Set[str], Set[int], …")
        declaration.options_are("remove_wins")
        expected = expectation(declaration.arguments[0], declaration.label)
        option = declaration.options.remove_wins
        if option is None:
            return Set(declaration.label, expected)
        if type(option.markers) is not int or option.markers < 1:
            raise SchemaError(
                f"{declaration.label}: RemoveWins({option.markers!r}) would remember nothing; use "
                "at least RemoveWins(1)"
            )
        return Set(declaration.label, expected, option.markers)

    @overload
    def __get__(self, instance: None, owner: type) -> "Set[T]": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> SetEditor[T]: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Set[T] | SetEditor[T]":
        if instance is None:
            return self
        return SetEditor(self, instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: SetEditor[T]) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def element(self, path: bytes, value: Any) -> bytes:
        """The path of an element of the set at `path`; raises InvalidValue if it is of the wrong
        type.
        """
        if not self._expected.accepts(value):
            refuse(self.label, f"elements of type {self._expected.text}", value)
        return element_path(path, value)

    def view(self, access: Access, document: str, path: bytes) -> SetEditor[T]:
        return SetEditor(self, access, document, path)

    def plain(self, access: Access, document: str, path: bytes) -> list[Any]:
        return list(SetEditor(self, access, document, path))
